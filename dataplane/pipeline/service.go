// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// serve asks for a packet of no flow whether a service has it, and says where it is led. From here on the flow goes
// from the client to the backend, by which policy judges it.
func (l *Pipeline) serve(p *packet.Packet, in *tables.Port) (to packet.Addr, _ verdict.Reason) {
	s, c := &l.seen, &l.choice
	stray := s.Status != conntrack.NewFlow || p.Proto == packet.ProtoTCP && !p.OpensTCP()
	q := service.Query{
		Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto,
		Inside: l.t.Inside(p.Src), ToNode: l.t.IsNode(p.Dst), Stray: stray, Now: l.now,
	}
	if l.way.backend.IsZero() {
		l.t.Services.Choose(&q, &l.dice, c)
	} else if l.t.Services.Direct(&q, l.way.backend, c); c.Outcome != service.Chosen {
		return to, verdict.NoDirectBackend
	}
	switch c.Outcome {
	case service.NoService:
		return p.Dst, verdict.None
	case service.NoLocal:
		return to, verdict.ServiceNoLocal
	case service.SourceDenied:
		return to, verdict.ServiceSourceDenied
	}
	switch {
	case stray:
		return to, l.strayed(p, in)
	case c.Outcome != service.Chosen || l.t.Services.Alone(c.Backend): // services do not answer for services
		return to, l.refuse(p, in)
	}
	s.Tuple.Dst, s.Tuple.DstPort = c.Backend, c.Port
	l.way.chosen = true
	return c.Backend, verdict.None
}

// strayed answers what is addressed to a service and neither belongs to a flow nor opens one: a TCP segment by RST, as
// a host does that does not know the connection. Who had answered it is known to nobody.
func (l *Pipeline) strayed(p *packet.Packet, in *tables.Port) verdict.Reason {
	s := &l.seen
	if s.Status == conntrack.NewFlow || s.Reason == verdict.TCPWithoutFlow {
		return l.reset(p, in, verdict.ServiceRefused)
	}
	return s.Reason
}

// refuse tells the client that nobody answers.
func (l *Pipeline) refuse(p *packet.Packet, in *tables.Port) verdict.Reason {
	if p.Proto == packet.ProtoTCP {
		return l.reset(p, in, verdict.ServiceRefused)
	}
	if l.forged(p, in) {
		return verdict.SpoofedSource
	}
	return l.icmpError(p, in, packet.PortUnreachable, 0, verdict.ServiceRefused)
}

// reset turns the TCP segment into the RST that answers it, from where it was sent to. RSTs count as ICMP errors.
func (l *Pipeline) reset(p *packet.Packet, in *tables.Port, reason verdict.Reason) verdict.Reason {
	switch {
	case !p.MayBeReset():
		return verdict.TCPWithoutFlow
	case l.forged(p, in):
		return verdict.SpoofedSource
	case !l.limits.error(in.ID, p.Src, l.now):
		return verdict.ICMPRateLimited
	case !p.BuildReset():
		return verdict.TCPWithoutFlow
	}
	return l.answer(p, reason)
}
