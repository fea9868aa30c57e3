// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// police says whether the packet may go from one port to the other: what belongs to a flow that was let in may, and
// what opens one if policy lets it. Between ports of which neither has a station nothing is asked.
func (l *Pipeline) police(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	if !in.Station.Only() && !out.Station.Only() {
		return verdict.None
	}
	if p.Flags&packet.Fragment != 0 {
		return l.policeFragment(p, in, out)
	}
	return l.judgeFlow(p, in, out)
}

// opening is the flow that the packet opens when it leaves; the zero value: it opens none.
type opening struct {
	is   bool
	in   packet.PortID // by which the opener's packets come
	out  packet.PortID
	rule policy.RuleID
}

// judgeFlow is police for a packet with its transport header.
func (l *Pipeline) judgeFlow(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	l.seen = l.flows.Track(p, in.ID, l.now, l.t.Policy.Generation)
	s := &l.seen
	switch s.Status {
	case conntrack.Invalid:
		return s.Reason
	case conntrack.Known:
		l.learn(p, out)
		l.decision.Rule = policy.RuleID(s.Rule)
		return verdict.None
	case conntrack.Related:
		return verdict.None
	case conntrack.Stale:
		return l.judgeAgain(in, out)
	}
	opener, responder := in, out
	if s.Reply {
		opener, responder = out, in
	}
	v := l.consult(&s.Tuple, opener, responder)
	l.decision.Rule = v.Rule
	if v.Reason == verdict.None {
		l.opening = opening{true, opener.ID, responder.ID, v.Rule}
	}
	return v.Reason
}

// judgeAgain judges a flow that was let in by other policies than those in force.
func (l *Pipeline) judgeAgain(in, out *tables.Port) verdict.Reason {
	s := &l.seen
	opener, responder := in, out
	if s.Reply {
		opener, responder = out, in
	}
	v := l.consult(&s.Tuple, opener, responder)
	l.decision.Rule = v.Rule
	if v.Reason != verdict.None {
		l.flows.Revoke(s)
		return v.Reason
	}
	l.flows.Keep(s, l.t.Policy.Generation, uint32(v.Rule))
	return verdict.None
}

// consult asks policy about a flow. What a pod says to itself is its own affair, whatever the way that it takes.
func (l *Pipeline) consult(f *conntrack.Tuple, opener, responder *tables.Port) policy.Verdict {
	if responder.Station.Has(f.Src) {
		return policy.Verdict{}
	}
	q := tables.Query(opener, responder, f.Src, f.Dst, f.Proto, f.DstPort)
	return l.t.Policy.Judge(&q)
}

// open enters the flow that the packet opens, which is about to leave.
func (l *Pipeline) open(p *packet.Packet) verdict.Reason {
	o := &l.opening
	if !o.is {
		return verdict.None
	}
	return l.flows.Open(&l.seen, p, o.in, o.out, l.now, l.t.Policy.Generation, uint32(o.rule))
}
