// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/fragment"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// way is what is known of the packet's way before it is routed. The zero value: it goes where it is addressed to.
type way struct {
	translated bool // it leaves with other ends: those in l.seen, or of a later fragment l.others
	direct     bool // it keeps its ends, and leaves in an outer header to where it is led
	chosen     bool // it opens a flow that a service has, and l.choice is who answers
	judged     bool // a later fragment, whose first was let on
	first      bool // a first fragment, of whose datagram nothing was said yet

	datagram fragment.Datagram // of first
	backend  packet.Addr       // another node has sent it to this one, which answers directly; zero: none has
}

// track finds the packet's flow, and by it where the packet is led: to the other end of a flow that is translated, or
// to who answers for a service. What is judged comes later, and by that destination; the frame stays as it is until the
// packet leaves, for what waits is judged again, and an ICMP error quotes what was sent.
func (l *Pipeline) track(p *packet.Packet, in *tables.Port) (to packet.Addr, _ verdict.Reason) {
	if p.Flags&packet.Fragment != 0 {
		if r := l.trackFragment(p); r != verdict.None {
			return to, r
		}
		if l.way.judged {
			return l.others.Dst, verdict.None
		}
	}
	s := &l.seen
	l.flows.Track(p, in.ID, l.now, l.t.Policy.Generation, s)
	if p.OpensTCP() && l.outdated(p) || l.chosenAnew() {
		l.forget(p, in)
	}
	if s.Status == conntrack.Known && !s.Translated { // most packets
		return p.Dst, verdict.None
	}
	if l.t.IsDataplane(p.Src) || in.HasAddr(p.Src) && !in.Station.Has(p.Src) {
		return to, verdict.SpoofedSource
	}
	if r := l.found(p, in); r != verdict.None {
		return to, r
	}
	switch s.Status {
	case conntrack.NewFlow, conntrack.Invalid:
		if !l.t.Services.Empty() {
			if l.impersonates(p, in) {
				return to, verdict.SpoofedSource
			}
			to, r := l.serve(p, in)
			if r != verdict.None || to != p.Dst {
				return to, r
			}
		}
		if l.t.IsDataplane(p.Dst) { // nobody else has it: the host leads it here
			return p.Dst, l.local(p, in)
		}
		return p.Dst, verdict.None
	case conntrack.Known, conntrack.Stale, conntrack.Related:
	}
	switch {
	case !s.Translated:
		return p.Dst, verdict.None
	case !s.Direct.IsZero():
		to, l.way.direct = s.Direct, true
	case isError(s): // it goes to where the quoted packet came from
		to = s.Ends.Src
	default:
		to = s.Ends.Dst
	}
	l.way.translated = true
	return to, verdict.None
}

// outdated says of a SYN of a flow that is not translated that a service has it: the one that opened the flow came
// before the service did, and nobody answered. Without this the port that it came from could not be used for as long.
func (l *Pipeline) outdated(p *packet.Packet) bool {
	s := &l.seen
	known := s.Status == conntrack.Known || s.Status == conntrack.Stale
	return known && !s.Translated && !s.Reply && !s.Moved && l.t.Services.Has(&service.Query{
		Dst: p.Dst, DstPort: p.DstPort, Proto: p.Proto, ToNode: l.t.IsNode(p.Dst),
	})
}

// isError: the packet is an ICMP error about one of the flow's.
func isError(s *conntrack.Seen) bool { return s.Status == conntrack.Related || s.Error }

// found sees to what was found of the packet's flow. A packet that breaks its flow's rules ends here; one of no flow
// may yet be nobody's to ask about.
func (l *Pipeline) found(p *packet.Packet, in *tables.Port) verdict.Reason {
	s := &l.seen
	if s.Backend != 0 {
		if r := l.follow(p, in); r != verdict.None {
			return r
		}
	}
	if s.Status != conntrack.Invalid {
		return verdict.None
	}
	switch s.Reason {
	case verdict.SYNFlood:
		if in.Station.Router && in.Station.Has(p.Src) {
			l.flows.Excuse(s) // the node's own, which is behind one port with the world
		}
		return verdict.None
	case verdict.TCPWithoutFlow, verdict.SCTPWithoutFlow, verdict.ICMPWithoutFlow, verdict.BadTCPFlags:
		return verdict.None
	}
	return s.Reason
}

// follow tells the backend of a translated flow by what comes of it, and does to the flow what it has come to if the
// backend is gone: TCP goes on or is reset, as the service has it; anything else finds another one.
func (l *Pipeline) follow(p *packet.Packet, in *tables.Port) verdict.Reason {
	s := &l.seen
	switch {
	case s.Status == conntrack.Invalid: // it is revoked
		l.beginAnew(p, in)
		return verdict.None
	case isError(s):
		if s.Waited != 0 && p.IsUnreachable() && l.fromBackend(p, in) {
			l.t.Backends.Refused(s.Backend, l.now)
		}
		return verdict.None
	}
	if s.Moved && l.forged(p, in) {
		return verdict.SpoofedSource
	}
	if s.Waited != 0 {
		l.answered(p)
	}
	switch standing := l.t.Backends.Standing(s.Backend); {
	case standing == service.InForce:
	case p.Proto == packet.ProtoTCP:
		if standing == service.Reset && p.MayBeReset() {
			l.flows.Drop(s)
			return l.reset(p, in, verdict.ServiceReset)
		}
	default:
		l.beginAnew(p, in)
	}
	return verdict.None
}

// beginAnew forgets a flow without a connection whose backend is gone, revoked or not, so that its client finds another
// one. What is on its way back may arrive.
func (l *Pipeline) beginAnew(p *packet.Packet, in *tables.Port) {
	s := &l.seen
	if s.Reply || p.Proto == packet.ProtoTCP || l.t.Backends.Standing(s.Backend) == service.InForce {
		return
	}
	l.forget(p, in)
}

// forget forgets the packet's flow: the packet opens one, if it may.
func (l *Pipeline) forget(p *packet.Packet, in *tables.Port) {
	l.flows.Drop(&l.seen)
	l.flows.Track(p, in.ID, l.now, l.t.Policy.Generation, &l.seen)
}

// fromBackend says whether an ICMP error about what a backend was sent came from there, as far as can be told: not from
// a client, who could say so of every backend. Where both are behind one port only the backend itself is believed.
func (l *Pipeline) fromBackend(p *packet.Packet, in *tables.Port) bool {
	s := &l.seen
	return in.ID == s.Other && (s.Opener != s.Other || p.Src == s.Quoted.Dst)
}

// answered tells of the first answer to a flow.
func (l *Pipeline) answered(p *packet.Packet) {
	s := &l.seen
	switch {
	case p.Proto != packet.ProtoTCP:
		l.t.Backends.Answered(s.Backend, 0)
	case p.IsReset():
		l.t.Backends.Refused(s.Backend, l.now)
	default:
		l.t.Backends.Answered(s.Backend, l.now-s.Waited)
	}
}
