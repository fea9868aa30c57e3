// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/fragment"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Fragments is what is known of datagrams in fragments, and which fragments wait. After a call of Begin or Judge some
// may be due.
func (l *Pipeline) Fragments() *fragment.Table { return &l.fragments }

// Again says that the packets judged until the next call were judged before, and have waited since.
func (l *Pipeline) Again(is bool) { l.again = is }

// policeFragment is police for a fragment: the first of a datagram has the transport header and is judged; what became
// of it becomes of the others.
func (l *Pipeline) policeFragment(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	if l.again {
		return l.policeAgain(p, in, out)
	}
	first := p.Flags&packet.FirstFragment != 0
	datagram, r := l.fragments.Enter(p)
	switch {
	case r == verdict.WaitingForFragment:
		l.decision.Datagram = datagram
	case r == verdict.None && first:
		r = l.judgeFlow(p, in, out)
		l.fragments.Judge(datagram, r)
	}
	return r
}

// policeAgain is policeFragment for one that was let on and then had to wait: it is no repetition of itself.
func (l *Pipeline) policeAgain(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	first := p.Flags&packet.FirstFragment != 0
	datagram, r := l.fragments.Again(p)
	if r == verdict.None && first {
		r = l.judgeFlow(p, in, out)
		l.fragments.JudgeAgain(datagram, r)
	}
	return r
}
