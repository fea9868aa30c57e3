// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// Once a packet has been judged and rewritten and leaves, the kernel may do the same with those that follow it in its
// flow's direction. What is entered is what was done to this packet: no second way to the same decision.

// carry has the kernel carry the direction of the packet's flow, if conntrack and the ports have nothing against it.
// The packet leaves for a next hop with a MAC by a way of so many bytes of IP packet.
func (l *Pipeline) carry(p *packet.Packet, in, out *tables.Port, mac packet.MAC, mtu int) {
	s, w := &l.seen, &l.way
	switch {
	case p.Flags&packet.Fragment != 0 || s.Moved || isError(s):
		return
	case w.direct || !w.backend.IsZero() && !s.Reply: // in an outer header, from here on or until here
		return
	case !l.t.Carries(in, out) || l.mayTellNames(p):
		return
	}
	if l.pair(p, in, out) {
		return
	}
	l.flows.Carry(s, wayTo(in, out, mac, mtu))
}

func wayTo(in, out *tables.Port, mac packet.MAC, mtu int) *offload.Way {
	if out.Trunk {
		mac = out.Station.Own
	}
	return &offload.Way{In: in.ID, Out: out.ID, MAC: mac, MTU: mtu}
}

// measured is one of how many connections to backends are not carried before they are answered, so that it is known of
// all how fast they answer.
const measured = 16

// carryBoth has the kernel carry the connection that the packet begins, or answers the beginning of, in both
// directions: this one by what was done to the packet, the other one by the way that an answer would have. It is not
// carried before somebody is to learn of the answer.
func (l *Pipeline) carryBoth(p *packet.Packet, in, out *tables.Port, mac packet.MAC, mtu int) {
	s := &l.seen
	switch {
	case isError(s) || l.way.direct || !l.way.backend.IsZero() || in.ID == out.ID || !l.t.Carries(in, out):
		return
	case !s.Reply && l.way.chosen && l.awaits():
		return
	case l.pair(p, in, out):
		return
	}
	near, far, ok := l.flows.EndsOf(s)
	if !ok {
		return
	}
	here := wayTo(in, out, mac, mtu)
	ways := [2]offload.Way{*here, *here}
	if s.Reply {
		ways[0], _, ok = wayOf(l.t, out.ID, &near, p.Proto, far.Dst)
	} else {
		back := far.Reverse()
		ways[1], _, ok = wayOf(l.t, out.ID, &back, p.Proto, near.Src)
	}
	if ok {
		l.flows.CarryBoth(s, &ways)
	}
}

// awaits says whether the answer of the backend that was chosen is waited for.
func (l *Pipeline) awaits() bool {
	l.begun++
	return l.begun%measured == 0 || l.choice.Service.Awaits()
}

// Uncarried says why the kernel would not carry an established flow between two ports, of which policy may speak of
// names: in words, empty where it would.
func Uncarried(t *tables.Tables, in, out *tables.Port, proto packet.IPProto, port uint16) string {
	switch {
	case proto != packet.ProtoTCP && proto != packet.ProtoUDP:
		return "only tcp and udp are carried"
	case proto == packet.ProtoUDP && port == dns && t.Policy.WantsDNS():
		return "policy speaks of names, and learns them from answers"
	}
	for _, p := range []*tables.Port{in, out} {
		if why := t.Uncarried(p); why != tables.NotUncarried {
			return why.Of(p)
		}
	}
	return ""
}

// mayTellNames says whether the packet is of a DNS query or of its answer, and policy speaks of names: userspace reads
// the answers.
func (l *Pipeline) mayTellNames(p *packet.Packet) bool {
	s := &l.seen
	return p.Proto == packet.ProtoUDP && l.names != nil && l.t.Policy.WantsDNS() &&
		(p.SrcPort == dns || p.DstPort == dns || s.Translated && (s.Ends.SrcPort == dns || s.Ends.DstPort == dns))
}

// mayTellNames is the pipeline's, of a flow that is carried.
func (r *Reviewer) mayTellNames(f *conntrack.CarriedFlow) bool {
	return f.Tuple.Proto == packet.ProtoUDP && r.Names != nil && r.Tables.Policy.WantsDNS() &&
		(f.Near.SrcPort == dns || f.Near.DstPort == dns || f.Far.SrcPort == dns || f.Far.DstPort == dns)
}

// wayOf is the way that packets with these ends, which come by a port and are led to an address, have by the tables,
// and the neighbour, if it leads to one; ok is false where it takes more than the kernel does.
func wayOf(t *tables.Tables, from packet.PortID, e *packet.Ends, proto packet.IPProto, to packet.Addr) (
	w offload.Way, n *neighbor.Entry, ok bool) {
	in, group := t.Port(from), t.FIB.Lookup(to)
	if in == nil || group == nil || group.Kind != route.Forward {
		return w, nil, false
	}
	hop := group.Select(e.FlowHash(proto))
	out := t.Port(hop.Port)
	if out == nil || !out.Up || !t.Carries(in, out) {
		return w, nil, false
	}
	w = offload.Way{In: from, Out: out.ID, MTU: pathMTU(hop, out)}
	if out.Station.Only() {
		w.MAC = out.Station.Own
		return w, nil, true
	}
	if n = hop.Neighbor; n == nil {
		n = t.Neighbors.Lookup(hop.Port, to)
	}
	if n != nil {
		w.MAC, ok = n.Peek()
	}
	return w, n, ok
}
