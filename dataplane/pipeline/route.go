// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// route finds where the packet is led and its next hop by longest prefix match, and forwards it there or says why not.
func (l *Pipeline) route(p *packet.Packet, port *tables.Port) verdict.Reason {
	if r := unroutable(p); r != verdict.None {
		if r == verdict.LinkLocalForward && port.HasAddr(p.Dst) {
			return l.local(p, port)
		}
		return r
	}
	to := p.Dst
	if l.t.Tracking {
		var r verdict.Reason
		switch {
		case l.sentOn(p, port):
			to, r = l.decapsulate(p, port)
		case p.QuotesOuter() && (l.t.IsNode(p.Dst) || port.HasAddr(p.Dst)):
			r = l.outerTooBig(p, port)
		default:
			to, r = l.track(p, port)
		}
		if r != verdict.None {
			return r
		}
	}
	group := l.lookup(to)
	if group == nil {
		return l.icmpError(p, port, packet.NetUnreachable, 0, verdict.NoRoute)
	}
	switch group.Kind {
	case route.Forward:
		return l.forward(p, port, group.Select(p.FlowHash), to)
	case route.Local:
		return l.local(p, port)
	case route.Broadcast:
		return verdict.BroadcastForward
	case route.Unreachable:
		return l.icmpError(p, port, packet.HostUnreachable, 0, verdict.Unreachable)
	case route.Prohibit:
		return l.icmpError(p, port, packet.AdminProhibited, 0, verdict.Prohibited)
	}
	return verdict.Blackhole
}

// unroutable names what a router never forwards: group and link-local addresses, and frames that reached it as one
// of many (RFC 1812 5.3.4, RFC 4291 2.5.6).
func unroutable(p *packet.Packet) verdict.Reason {
	switch {
	case p.Dst.IsMulticast():
		return verdict.MulticastForward
	case p.Dst.IsBroadcast():
		return verdict.BroadcastForward
	case p.Frame[p.Start]&1 != 0:
		return verdict.BroadcastForward
	case p.Dst.IsLinkLocal() || p.Src.IsLinkLocal():
		return verdict.LinkLocalForward
	}
	return verdict.None
}

// forward checks what the next hop asks for and rewrites the packet for it.
func (l *Pipeline) forward(p *packet.Packet, in *tables.Port, hop *route.Hop, to packet.Addr) verdict.Reason {
	out := l.t.Port(hop.Port)
	if out == nil || !out.Up {
		return verdict.NoOutputPort
	}
	if in.Host && out.Host && l.bounces(p) {
		return l.icmpError(p, in, packet.NetUnreachable, 0, verdict.NoRoute)
	}
	if r := l.police(p, in, out); r != verdict.None {
		return r
	}
	if p.TTL <= 1 {
		return l.icmpError(p, in, packet.TimeExceeded, 0, ttlReason(p))
	}
	mtu, cut := pathMTU(hop, out), Whole
	if l.way.direct {
		mtu -= packet.OuterLen(p.Flags&packet.IPv6 != 0)
	}
	if p.L3Len > mtu {
		if cut = howToCut(p, in, l.merges(in.DeviceIndex)); cut == Whole {
			return l.icmpError(p, in, packet.PacketTooBig, mtu, tooBigReason(p))
		}
		if cut == Segment {
			mtu = min(mtu, in.MTU)
		}
	}
	if p.Tail > 0 && p.Len()-(p.L3-p.Start) > p.L3Len { // a trailer in further frames, which Parse cannot cut off
		return verdict.TooLargeForPort
	}
	mac, wait := l.nextHop(hop, out, to)
	switch wait {
	case known:
	case failed:
		if l.way.chosen {
			l.t.Backends.Refused(l.choice.Number, l.now)
		}
		return l.icmpError(p, in, packet.HostUnreachable, 0, verdict.NeighborFailed)
	case full:
		return verdict.NeighborTableFull
	default:
		return l.wait(wait, verdict.WaitingForNeighbor)
	}
	if r := l.limit(p, in, out); r != verdict.None {
		return r
	}
	if r := l.enter(p); r != verdict.None {
		return r
	}
	if r := l.rewrite(p, out, to); r != verdict.None {
		return r
	}
	if !p.SetEthernet(mac, out.MAC, out.VLANs) {
		return verdict.TooLargeForPort
	}
	if cut != Whole {
		l.decision.Cut, l.decision.MTU = cut, mtu
	} else if l.seen.Carry {
		l.carry(p, in, out, mac, mtu)
	} else if l.seen.Begins {
		l.carryBoth(p, in, out, mac, mtu)
	} else if !l.t.Tracking {
		l.carryUntracked(p, in, out, mac, mtu)
	}
	return l.send(p, out.ID, verdict.Routed)
}

// bounces says of a packet that came by the host's port and would leave by it whether the host's stack would lead it
// here again, and so on until its TTL ends: it is for an address that services have, or may have, but for none of them,
// and not the host's. A flow that leads there, which was open before there was the service, is forgotten: what comes
// next finds the service.
func (l *Pipeline) bounces(p *packet.Packet) bool {
	w, s := &l.way, &l.seen
	if w.translated || w.chosen || l.t.IsHost(p.Dst) {
		return false
	}
	if l.t.Tracking && !w.judged && !s.Reply && !isError(s) {
		l.flows.Drop(s)
	}
	return true
}

// rewrite gives the packet, which is about to leave for an address, what it is to have behind the link's header.
func (l *Pipeline) rewrite(p *packet.Packet, out *tables.Port, to packet.Addr) verdict.Reason {
	r := verdict.None
	switch {
	case l.way.direct:
		p.DecrementTTL()
		return l.encapsulate(p, out, to)
	case l.way.translated:
		r = l.translate(p)
	}
	p.DecrementTTL()
	return r
}

// limit has the packet wait for the limits of its ports, or drops it where too many do.
func (l *Pipeline) limit(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	if in.Limit == nil && out.Limit == nil || l.paid {
		return verdict.None
	}
	leave, ok := l.now, true
	if in.Limit != nil && in.Limit.From != nil {
		leave, ok = in.Limit.From.Take(p.Len(), l.now)
	}
	if ok && out.Limit != nil && out.Limit.To != nil {
		var then int64 // of the other limit on its own: one port's queue must not be all others'
		then, ok = out.Limit.To.Take(p.Len(), l.now)
		leave = max(leave, then)
	}
	switch {
	case !ok:
		return verdict.OverLimit
	case leave <= l.now:
		return verdict.None
	}
	l.decision.Until = leave
	return verdict.WaitingForLimit
}

// pathMTU is the largest IP packet, in bytes, that may go by the hop.
func pathMTU(hop *route.Hop, out *tables.Port) int {
	if hop.MTU == 0 {
		return out.MTU
	}
	return min(hop.MTU, out.MTU)
}

// howToCut says how a packet too large for its way may be cut; Whole: not at all. What is larger than the link that it
// came by never was one packet there.
func howToCut(p *packet.Packet, in *tables.Port, merged bool) Cut {
	switch {
	case p.Proto == packet.ProtoTCP && (merged || p.L3Len > in.MTU) && p.Flags&packet.Fragment == 0:
		return Segment
	case p.Flags&(packet.IPv6|packet.DontFragment) == 0:
		return Fragment
	}
	return Whole
}

func tooBigReason(p *packet.Packet) verdict.Reason {
	if p.Flags&packet.IPv6 != 0 {
		return verdict.PacketTooBig
	}
	return verdict.FragmentationNeeded
}

func ttlReason(p *packet.Packet) verdict.Reason {
	if p.Flags&packet.IPv6 != 0 {
		return verdict.HopLimitExceeded
	}
	return verdict.TTLExceeded
}

// standing is what is known of a next hop's link-layer address.
type standing uint8

const (
	known   standing = iota
	waiting          // asked for already
	solicit          // to be asked for at once
	failed           // asked for in vain
	full             // the neighbour table has no room to ask
)

// nextHop returns the MAC of the neighbour to which the hop leads. Where it is waiting or solicit, l.asked is the
// neighbour.
func (l *Pipeline) nextHop(hop *route.Hop, out *tables.Port, dst packet.Addr) (packet.MAC, standing) {
	if out.Station.Only() {
		return out.Station.MAC, known
	}
	n := hop.Neighbor
	if n == nil {
		n = l.t.Neighbors.Lookup(hop.Port, dst)
	}
	if n != nil {
		if mac, ok := n.MAC(); ok {
			return mac, known
		}
	}
	return packet.MAC{}, l.ask(hop, dst)
}

// ask begins, or goes on with, the resolution of the hop's neighbour.
func (l *Pipeline) ask(hop *route.Hop, dst packet.Addr) standing {
	via := hop.Via
	if hop.Neighbor == nil {
		via = dst
	}
	n, first := l.t.Neighbors.Resolve(hop.Port, via, l.now)
	l.asked = n
	switch {
	case n == nil:
		return full
	case first:
		return solicit
	case n.Failed():
		return failed
	}
	return waiting
}
