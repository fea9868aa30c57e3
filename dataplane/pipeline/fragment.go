// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/fragment"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Fragments is what is known of datagrams in fragments, and which fragments wait. After a call of Begin or Judge some
// may be due.
func (l *Pipeline) Fragments() *fragment.Table { return &l.fragments }

// Again says that the packets judged until the next call were judged before, and have waited since.
func (l *Pipeline) Again(is bool) { l.again = is }

// trackFragment is track for a fragment: the first of a datagram has the transport header and is judged; what became of
// it becomes of the others.
func (l *Pipeline) trackFragment(p *packet.Packet) verdict.Reason {
	w := &l.way
	var r verdict.Reason
	if l.again { // it was let on, and then had to wait: it is no repetition of itself
		w.datagram, r = l.fragments.Again(p)
	} else {
		w.datagram, r = l.fragments.Enter(p)
	}
	switch {
	case r == verdict.WaitingForFragment:
		l.decision.Datagram = w.datagram
	case r == verdict.None && p.Flags&packet.FirstFragment != 0:
		w.first = true
	case r == verdict.None:
		w.judged = true
		l.others = l.fragments.Translated()
		w.translated = !l.others.Dst.IsZero()
		w.direct = w.translated && l.others.Src.IsZero()
		if !w.translated {
			l.others.Dst = p.Dst
		}
	}
	return r
}

// judgeFragments says of a first fragment's datagram what became of it, and what addresses it gets.
func (l *Pipeline) judgeFragments(r verdict.Reason, to fragment.Addresses) {
	l.way.first = false
	if l.again {
		l.fragments.JudgeAgain(l.way.datagram, r, to)
		return
	}
	l.fragments.JudgeTranslated(l.way.datagram, r, to)
}
