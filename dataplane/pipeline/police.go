// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// opening is the flow that a packet opens when it leaves. The zero value: it opens none.
type opening struct {
	is      bool
	in, out packet.PortID // the opener is behind in
	rule    policy.RuleID // that lets it

	translated  bool
	translation conntrack.Translation
}

// police says whether the packet may go from one port to the other: what belongs to a flow that was let in may, and
// what opens one if policy lets it. Between ports of which neither has a station nothing is asked but of what is
// translated.
func (l *Pipeline) police(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	w := &l.way
	if w.judged {
		return verdict.None
	}
	r := verdict.None
	if in.Station.Only() || out.Station.Only() || w.translated || w.chosen {
		r = l.judgeFlow(p, in, out)
	}
	if w.first {
		l.judgeFragments(r, l.addresses(p))
	}
	return r
}

// judgeFlow is police for a packet with its transport header, which was looked for among the flows.
func (l *Pipeline) judgeFlow(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	s := &l.seen
	if isError(s) && isPod(in) && in.ID != s.Opener && in.ID != s.Other {
		return verdict.ICMPWithoutFlow // pods are no routers: the flow is none of its own
	}
	if (s.Moved || s.Status == conntrack.NewFlow && !in.Station.Only()) && l.forged(p, in) {
		return verdict.SpoofedSource
	}
	switch s.Status {
	case conntrack.Known:
		l.decision.Rule = policy.RuleID(s.Rule)
		l.learnNames(p, out)
		return verdict.None
	case conntrack.Related:
		return verdict.None
	case conntrack.Stale:
		if s.Error {
			return l.judgeError()
		}
		r := l.judgeAgain(in, out)
		if r == verdict.None {
			l.learnNames(p, out)
		}
		return r
	case conntrack.NewFlow:
		return l.judgeNew(p, in, out)
	}
	return s.Reason
}

// forged says of a packet of a flow whose end is behind another port than it came by, or of a flow's first that came by
// a link, whether its source is a station's of this node: not what the world sends by the host's port or a link's may
// be taken for a pod's. A first packet by the host's may be: the host translates what pods send to services.
func (l *Pipeline) forged(p *packet.Packet, in *tables.Port) bool {
	return in.Shared() && !in.Station.Has(p.Src) && l.owner(p.Src) != nil
}

// impersonates says of a packet of no flow whether it came from where anybody may be, and claims an address, or a port
// at it, from which nobody speaks, for services have it: an answer would go to the service, and its answer back, and a
// flow from there would be taken for the one that a client has with the service. The host may, at addresses of its own.
func (l *Pipeline) impersonates(p *packet.Packet, in *tables.Port) bool {
	if !in.Shared() || in.Host && l.t.IsHost(p.Src) {
		return false
	}
	return l.t.Services.Claims(p.Src, p.SrcPort, p.Proto)
}

// owner is the port whose station has an address; nil where none of this node's has.
func (l *Pipeline) owner(a packet.Addr) *tables.Port { return owner(l.t, a) }

func owner(t *tables.Tables, a packet.Addr) *tables.Port {
	group := t.FIB.Lookup(a)
	if group == nil || group.Kind != route.Forward {
		return nil
	}
	port := t.Port(group.Select(0).Port) // an address of a station's leads to it alone
	if port == nil || !port.Station.Has(a) {
		return nil
	}
	return port
}

// judgeNew judges a flow that the packet would open, or, of what was open before this dataplane was, would take up
// again: policy has to let it either way where it cannot be told who opened it.
func (l *Pipeline) judgeNew(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	s := &l.seen
	v := l.consult(in, out, false)
	if v.Reason == verdict.None && s.Either {
		s.Turn()
		if turned := l.consult(in, out, false); turned.Reason != verdict.None {
			v = turned
		}
		s.Turn()
	}
	l.decision.Rule = v.Rule
	l.note(in, out, &v)
	if v.Reason != verdict.None {
		return v.Reason
	}
	o := &l.opening
	opener, responder := ends(s, in, out)
	o.is, o.in, o.out, o.rule, o.translated = true, opener.ID, responder.ID, v.Rule, false
	return l.translation(p, in, out)
}

// judgeAgain judges a flow that other policies let in than those in force.
func (l *Pipeline) judgeAgain(in, out *tables.Port) verdict.Reason {
	v := l.consult(in, out, true)
	l.decision.Rule = v.Rule
	l.note(in, out, &v)
	if v.Reason != verdict.None {
		l.flows.Revoke(&l.seen, l.t.Policy.Generation, v.Reason)
		return v.Reason
	}
	l.flows.Keep(&l.seen, l.t.Policy.Generation, uint32(v.Rule))
	return verdict.None
}

// judgeError is judgeAgain for an ICMP error, whose sender need not be at either end of the flow that it is about.
func (l *Pipeline) judgeError() verdict.Reason {
	s := &l.seen
	opener, responder := l.t.Port(s.Opener), l.t.Port(s.Other)
	switch {
	case opener == nil || responder == nil:
		return verdict.ICMPWithoutFlow
	case s.Reply:
		return l.judgeAgain(responder, opener)
	}
	return l.judgeAgain(opener, responder)
}

// consult asks policy about the flow that was seen; existing says that it was let in before.
func (l *Pipeline) consult(in, out *tables.Port, existing bool) policy.Verdict {
	opener, responder := ends(&l.seen, in, out)
	q := query(l.t, opener, responder, &l.seen.Tuple)
	q.Names, q.Now, q.Existing = l.names, l.now, existing
	return l.t.Policy.Judge(&q)
}

// query is what policy is asked of a flow between two ports.
func query(t *tables.Tables, opener, responder *tables.Port, f *conntrack.Tuple) policy.Query {
	q := tables.Query(opener, responder, f.Src, f.Dst, f.Proto, f.DstPort)
	q.Port = opener.ID
	if opener.Station.Router && !q.Egress {
		if pod := owner(t, f.Src); pod != nil { // which the host's stack has led elsewhere than it was sent
			q.Egress, q.Port = true, pod.ID
		}
	}
	return q
}

// note notes what is denied, or would be.
func (l *Pipeline) note(in, out *tables.Port, v *policy.Verdict) {
	opener, responder := ends(&l.seen, in, out)
	noteIn(&l.denials, &l.seen.Tuple, opener, responder, v, l.now)
}

func noteIn(log *denial.Log, f *conntrack.Tuple, opener, responder *tables.Port, v *policy.Verdict, now int64) {
	staged := v.Staged.Asked && v.Staged.Denied && v.Reason == verdict.None
	if v.Reason == verdict.None && !staged {
		return
	}
	d := denial.Denial{Tuple: *f, In: opener.ID, Out: responder.ID, Reason: v.Reason, Rule: v.Rule, Staged: staged}
	if staged {
		d.Rule = v.Staged.Rule
	}
	log.Note(&d, now)
}

// ends are the ports behind which a flow's opener and its other end are.
func ends(s *conntrack.Seen, in, out *tables.Port) (opener, responder *tables.Port) {
	if s.Reply {
		return out, in
	}
	return in, out
}

// enter puts the flow that the packet opens, which is about to leave, into the table.
func (l *Pipeline) enter(p *packet.Packet) verdict.Reason {
	o := &l.opening
	if !o.is {
		return verdict.None
	}
	if !o.translated {
		r := l.flows.Open(&l.seen, p, o.in, o.out, l.now, l.t.Policy.Generation, uint32(o.rule))
		l.way.translated = l.seen.Translated // where another flow has its ends on the way to the other end
		if r == verdict.None && p.OpensTCP() {
			l.flows.CountOpened(p.Src, p.Dst)
		}
		return r
	}
	r := l.flows.OpenTranslated(&l.seen, p, o.in, o.out, l.now, l.t.Policy.Generation, uint32(o.rule), &o.translation)
	if r != verdict.None {
		return r
	}
	l.way.translated = l.seen.Translated
	if l.seen.Backend != 0 {
		l.t.Backends.Opened(l.seen.Backend)
	}
	return verdict.None
}

const dns = 53 // port: RFC 1035 4.2.1

// learnNames learns from an answer to a DNS query which addresses names have, for the station that asked, where policy
// speaks of names.
func (l *Pipeline) learnNames(p *packet.Packet, out *tables.Port) {
	const header = 8 // bytes of UDP's
	s := &l.seen
	if !s.Reply || p.Proto != packet.ProtoUDP || !l.t.Policy.WantsDNS() || l.names == nil {
		return
	}
	if p.SrcPort != dns && !(s.Translated && s.Ends.SrcPort == dns) { // a service's backends may have another port
		return
	}
	if at := p.L4 + header; p.Tail == 0 && at <= p.End {
		l.names.Learn(l.t.Policy.Domains(), out.ID, p.Frame[at:p.End], l.now)
	}
}
