// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Direct return: a client outside the cluster has sent to this node what a backend on another one answers. The packet
// goes there as it is, in an outer header to the backend (IP in IP). That node takes it out, gives it the backend's
// ends and leaves it its source, and the answer leaves from there with the frontend's address: it never comes by here.

// direct says whether the flow that the packet opens is answered so. SCTP is not: it would need its state followed in
// one direction.
func (l *Pipeline) direct(p *packet.Packet, in, out *tables.Port) bool {
	c := &l.choice
	switch {
	case !l.way.chosen || !c.Outside || !c.Service.Direct:
		return false
	case p.Proto != packet.ProtoTCP && p.Proto != packet.ProtoUDP:
		return false
	case isPod(in) || isPod(out) || l.t.Inside(p.Src):
		return false
	}
	return l.t.IsPod(c.Backend)
}

// openDirect says so of the flow that is about to be opened.
func (l *Pipeline) openDirect(out *tables.Port) verdict.Reason {
	o, c := &l.opening, &l.choice
	if _, r := l.outer(out, c.Backend); r != verdict.None {
		return r
	}
	o.translated, l.way.direct = true, true
	o.translation = conntrack.Translation{Dst: c.Backend, DstPort: c.Port, Backend: c.Number, Direct: true}
	return verdict.None
}

// outer is where the outer header of what leaves by the port for a backend comes from.
func (l *Pipeline) outer(out *tables.Port, backend packet.Addr) (packet.Addr, verdict.Reason) {
	if out.Host {
		return usable(pick(backend, l.t.Dataplane4, l.t.Dataplane6))
	}
	return usable(out.Source(backend))
}

// encapsulate puts the packet into an outer header to the backend.
func (l *Pipeline) encapsulate(p *packet.Packet, out *tables.Port, backend packet.Addr) verdict.Reason {
	src, r := l.outer(out, backend)
	switch {
	case r != verdict.None:
		return r
	case isPod(out): // the backend has moved here, and would not know what to do with it
		return verdict.NoDirectBackend
	case !p.Encapsulate(src, backend):
		return verdict.TooLargeForPort
	}
	return verdict.None
}

// sentOn says whether the packet is one in an outer header from another node to a pod of this one. What a pod or the
// world sends so is theirs: it goes on as it is, and is judged as what it is outside.
func (l *Pipeline) sentOn(p *packet.Packet, in *tables.Port) bool {
	return p.HoldsPacket() && in.Shared() && !l.t.Services.Empty() && l.t.IsPeer(p.Src) && l.owner(p.Dst) != nil
}

// decapsulate takes the packet out of its outer header, checks it as any that comes in, and has it go to the backend
// that the outer header is to. No client of the cluster is sent on so: what says that it is from one is forged.
func (l *Pipeline) decapsulate(p *packet.Packet, in *tables.Port) (to packet.Addr, _ verdict.Reason) {
	backend := p.Dst
	if r := p.Decapsulate(); r != verdict.None {
		return to, r
	}
	if r := martian(p, in); r != verdict.None {
		return to, r
	}
	if r := unroutable(p); r != verdict.None {
		return to, r
	}
	if l.t.Inside(p.Src) || l.owner(p.Src) != nil {
		return to, verdict.SpoofedSource
	}
	l.way.backend = backend
	to, r := l.track(p, in)
	if r == verdict.None && to != backend {
		return to, verdict.NoDirectBackend
	}
	return to, r
}

// chosenAnew says of a packet that another node has sent on that it is for another backend than its flow has: that node
// has forgotten the flow, and chosen once more.
func (l *Pipeline) chosenAnew() bool {
	s, w := &l.seen, &l.way
	return !w.backend.IsZero() && s.Translated && !isError(s) && !s.Reply && s.Ends.Dst != w.backend
}

// outerTooBig tells the client that what it sends is too large on the way to the backend, once the outer header is in
// front: who has dropped it has told us, whose header that is. So it is told of a flow that is known alone.
func (l *Pipeline) outerTooBig(p *packet.Packet, in *tables.Port) verdict.Reason {
	src := l.errorSource(in, p.Src)
	if src.IsZero() || !p.BuildInnerTooBig(src) {
		return verdict.LocalICMP
	}
	s := &l.seen
	if l.flows.Track(p, in.ID, l.now, l.t.Policy.Generation, s); !isError(s) || s.Translated || l.t.Inside(p.Dst) {
		return verdict.ICMPWithoutFlow
	}
	if !l.limits.error(in.ID, p.Dst, l.now) {
		return verdict.ICMPRateLimited
	}
	return l.answer(p, tooBigReason(p))
}
