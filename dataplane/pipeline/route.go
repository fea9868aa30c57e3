// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// route finds the packet's next hop by longest prefix match, and forwards it there or says why not.
func (l *Pipeline) route(p *packet.Packet, port *tables.Port) Decision {
	if r := unroutable(p); r != verdict.None {
		if r == verdict.LinkLocalForward && port.HasAddr(p.Dst) {
			return l.local(p, port)
		}
		return end(r)
	}
	group := l.t.FIB.Lookup(p.Dst)
	if group == nil {
		return l.icmpError(p, port, packet.NetUnreachable, 0, verdict.NoRoute)
	}
	switch group.Kind {
	case route.Forward:
		return l.forward(p, port, group.Select(p.FlowHash))
	case route.Local:
		return l.local(p, port)
	case route.Broadcast:
		return end(verdict.BroadcastForward)
	case route.Unreachable:
		return l.icmpError(p, port, packet.HostUnreachable, 0, verdict.Unreachable)
	case route.Prohibit:
		return l.icmpError(p, port, packet.AdminProhibited, 0, verdict.Prohibited)
	}
	return end(verdict.Blackhole)
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
func (l *Pipeline) forward(p *packet.Packet, in *tables.Port, hop *route.Hop) Decision {
	if p.TTL <= 1 {
		return l.icmpError(p, in, packet.TimeExceeded, 0, ttlReason(p))
	}
	out := l.t.Port(hop.Port)
	if out == nil || !out.Up {
		return end(verdict.NoOutputPort)
	}
	fragmentMTU := 0
	if mtu := pathMTU(hop, out); p.L3Len > mtu {
		if p.Flags&packet.IPv6 != 0 {
			return l.icmpError(p, in, packet.PacketTooBig, mtu, verdict.PacketTooBig)
		}
		if p.Flags&packet.DontFragment != 0 {
			return l.icmpError(p, in, packet.PacketTooBig, mtu, verdict.FragmentationNeeded)
		}
		fragmentMTU = mtu
	}
	n, solicit := l.nextHop(hop, p.Dst)
	if n == nil {
		return end(verdict.NeighborTableFull)
	}
	mac, ok := n.MAC()
	if !ok {
		if n.Failed() && !solicit {
			return l.icmpError(p, in, packet.HostUnreachable, 0, verdict.NeighborFailed)
		}
		return Decision{Reason: verdict.WaitingForNeighbor, Wait: n, Solicit: solicit}
	}
	p.DecrementTTL()
	if !p.SetEthernet(mac, out.MAC, out.VLANs) {
		return end(verdict.TooLargeForPort)
	}
	p.Out = out.ID
	return Decision{Reason: verdict.Routed, Send: true, FragmentMTU: fragmentMTU}
}

// pathMTU is the largest IP packet, in bytes, that may go by the hop.
func pathMTU(hop *route.Hop, out *tables.Port) int {
	if hop.MTU == 0 {
		return out.MTU
	}
	return min(hop.MTU, out.MTU)
}

func ttlReason(p *packet.Packet) verdict.Reason {
	if p.Flags&packet.IPv6 != 0 {
		return verdict.HopLimitExceeded
	}
	return verdict.TTLExceeded
}

// nextHop returns the neighbour to which the hop leads, and whether to solicit its address.
func (l *Pipeline) nextHop(hop *route.Hop, dst packet.Addr) (n *neighbor.Entry, solicit bool) {
	via := hop.Via
	if n = hop.Neighbor; n == nil {
		via = dst
		n = l.t.Neighbors.Lookup(hop.Port, dst)
	}
	if n != nil {
		if _, ok := n.MAC(); ok {
			return n, false
		}
	}
	return l.t.Neighbors.Resolve(hop.Port, via, l.now)
}
