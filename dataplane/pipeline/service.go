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
	q := service.Query{
		Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Proto: p.Proto,
		Inside: isPod(in) || l.t.Inside(p.Src), ToNode: l.t.IsNode(p.Dst), Now: l.now,
		Stray: s.Status != conntrack.NewFlow || p.Proto == packet.ProtoTCP && !p.OpensTCP(),
	}
	if r := l.choose(&q); r != verdict.None {
		return to, r
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
	case q.Stray:
		return to, l.strayed(p, in)
	case c.Outcome != service.Chosen || l.t.Services.Alone(c.Backend): // services do not answer for services
		return to, l.refuse(p, in)
	}
	if !l.foreseen.opens {
		l.flows.ForeseeThis(s, p, c.Backend, c.Port)
	}
	s.Tuple.Dst, s.Tuple.DstPort = c.Backend, c.Port
	l.way.chosen = true
	return c.Backend, verdict.None
}

// choose asks who answers: the services, or, of what another node has sent on, whether its choice is a service's.
func (l *Pipeline) choose(q *service.Query) verdict.Reason {
	c := &l.choice
	if backend := l.way.backend; !backend.IsZero() {
		if l.t.Services.Direct(q, backend, c); c.Outcome != service.Chosen {
			return verdict.NoDirectBackend
		}
		return verdict.None
	}
	l.t.Services.Choose(q, &l.dice, c)
	if c.Outcome == service.NoService && l.t.IsDataplane(q.Dst) {
		l.serveNode(q)
	}
	return verdict.None
}

// serveNode asks for what the node's own sockets sent to one of its addresses, which their hooks have made the
// dataplane's: the port tells which frontend was meant.
func (l *Pipeline) serveNode(q *service.Query) {
	for _, a := range l.t.HostAddresses(q.Dst) {
		q.Dst = a
		if l.t.Services.Choose(q, &l.dice, &l.choice); l.choice.Outcome != service.NoService {
			return
		}
	}
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
