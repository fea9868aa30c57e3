// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// Where there are neither pods nor services no flow is tracked, and what becomes of a packet follows from its header
// and the tables. The kernel carries a flow's direction from its second packet on all the same; the first of most flows
// is the only one.

// glimpses remembers what of late was seen once, in sets of four words, a quarter of a cache line. Each word has 24
// bits of a flow's hash, and how many packets of it have come since, by 256. Which word gives way is left to chance:
// flows that share a set and take turns would else keep each other from being seen twice.
type glimpses struct {
	sets [][4]uint32
	dice uint32
}

const glimpsed = 1 << 14 // sets

// again says whether it is time to have the kernel carry a flow: with its second packet, and, as that may have been in
// vain or have been undone since, with each 256th from there.
func (g *glimpses) again(hash uint32) bool {
	const count = 0xff
	set := &g.sets[hash&(glimpsed-1)]
	for i := range set {
		if w := &set[i]; (*w^hash)&^count == 0 {
			*w = *w&^count | (*w+1)&count
			return *w&count == 1
		}
	}
	g.dice = g.dice*1664525 + 1013904223 // Numerical Recipes, section 7.1: the upper bits are the random ones
	set[g.dice>>30] = hash &^ count
	return false
}

// carryUntracked is carry for a packet that nothing was asked about.
func (l *Pipeline) carryUntracked(p *packet.Packet, in, out *tables.Port, mac packet.MAC, mtu int) {
	switch {
	case l.t.Tracking || l.kernel == nil || !l.t.Carries(in, out) || !mayRepeat(p):
	case l.glimpses.again(p.FlowHash ^ uint32(in.ID)*0x9e3779b9):
		e := p.Ends()
		l.kernel.EnterUntracked(&e, p.Proto, l.t.Policy.Generation,
			&offload.Way{In: in.ID, Out: out.ID, MAC: mac, MTU: mtu})
	}
}

// mayRepeat says whether the kernel would carry packets such as this one.
func mayRepeat(p *packet.Packet) bool {
	const tcpFlags, ack, others = 13, 0x10, 0x07 // in the header; SYN, FIN and RST
	switch {
	case p.Flags&(packet.Fragment|packet.Options) != 0:
		return false
	case p.Proto == packet.ProtoTCP:
		return p.Frame[p.L4+tcpFlags]&(ack|others) == ack
	}
	return p.Proto == packet.ProtoUDP
}

// ReviewUntracked is Review for a flow that nobody tracks.
func (r *Reviewer) ReviewUntracked(u *offload.Untracked) Review {
	f := conntrack.CarriedFlow{
		Tuple: conntrack.Tuple{Proto: u.Flow.Proto}, Near: u.Flow.Near, Far: u.Flow.Far, Ways: u.Ways, Used: u.Used,
	}
	back := f.Far.Reverse()
	if r.Tables.Tracking || !r.sameWay(&f, 0, &f.Near, f.Far.Dst) || !r.sameWay(&f, 1, &back, f.Near.Src) {
		return Anew
	}
	for _, w := range u.Ways {
		port := r.Tables.Port(w.In)
		if port != nil && (port.Broadcasts(u.Flow.Near.Src) || port.Broadcasts(u.Flow.Near.Dst)) {
			return Anew
		}
	}
	return Stays
}
