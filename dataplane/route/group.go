// SPDX-License-Identifier: Apache-2.0

// Package route is the forwarding table: longest prefix match to groups of next hops. Everything in it is immutable
// once built, so that workers read it without locks.
package route

import (
	"math/bits"

	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Kind says what a group does with packets. The zero value drops them.
type Kind uint8

// The kinds of groups.
const (
	// Blackhole drops in silence.
	Blackhole Kind = iota
	// Forward sends to one of the hops.
	Forward
	// Local delivers to the dataplane itself: the destination is an address of ours.
	Local
	// Unreachable answers with ICMP host unreachable.
	Unreachable
	// Prohibit answers with ICMP communication administratively prohibited.
	Prohibit
	// Broadcast is an IPv4 subnet's broadcast address, all ones or all zeros (RFC 1812 4.2.3.1): never resolved.
	Broadcast
)

// String returns the kind's name as the CLI prints it.
func (k Kind) String() string {
	if k > Broadcast {
		return "invalid"
	}
	return [...]string{"blackhole", "forward", "local", "unreachable", "prohibit", "broadcast"}[k]
}

// Hop is one way out.
type Hop struct {
	Port     packet.PortID
	Via      packet.Addr     // the next router; zero: the destination is on-link
	Neighbor *neighbor.Entry // of Via, pinned; nil for on-link
	MTU      int             // bytes of the largest IP packet; 0: the port's
	Weight   uint16          // relative to the group's other hops; 0 counts as 1
}

// way is what makes a hop the same hop in two versions of a group.
type way struct {
	port packet.PortID
	via  packet.Addr
}

func (h *Hop) way() way { return way{h.Port, h.Via} }

const (
	// MaxHops bounds a group's hops.
	MaxHops = 1024
	// minSlots makes weights true to within half a percent; slotsPerHop keeps them useful for many hops.
	minSlots, slotsPerHop = 256, 16
)

// Group is where routes lead. Groups are shared by routes and never change.
type Group struct {
	Kind  Kind
	hops  []Hop
	slots []uint16 // flow hash to hop, a power of two of them; nil with fewer than two hops
	shift uint8    // 32 - log2(len(slots))
}

// NewGroup returns a group of up to MaxHops hops, which it keeps. Flows are spread by a table of slots, shared out by
// weight. Where prev, an earlier version of the group, is given, hops that are in both keep their slots, so that only
// the flows of hops that left, or that gave up a share, move.
func NewGroup(kind Kind, hops []Hop, prev *Group) *Group {
	g := &Group{Kind: kind, hops: hops}
	if len(hops) < 2 {
		return g
	}
	n := minSlots
	for n < slotsPerHop*len(hops) {
		n *= 2
	}
	if prev != nil {
		n = max(n, len(prev.slots))
	}
	g.slots = make([]uint16, n)
	g.shift = uint8(32 - bits.TrailingZeros(uint(n)))
	g.share(prev)
	return g
}

// share gives each hop its share of the slots, first of those it had in prev.
func (g *Group) share(prev *Group) {
	left := quotas(g.hops, len(g.slots))
	var free []int
	kept := g.correspond(prev)
	for i := range g.slots {
		hop := -1
		if prev != nil && len(prev.hops) > 0 {
			hop = kept[prev.index(uint32(i)<<g.shift)]
		}
		if hop < 0 || left[hop] == 0 {
			free = append(free, i)
			continue
		}
		left[hop]--
		g.slots[i] = uint16(hop)
	}
	hop := 0
	for _, slot := range free { // in turn, so that neighbouring slots differ
		for left[hop] == 0 {
			hop = (hop + 1) % len(left)
		}
		left[hop]--
		g.slots[slot] = uint16(hop)
		hop = (hop + 1) % len(left)
	}
}

// correspond maps each of prev's hops to the same hop in g, or to -1.
func (g *Group) correspond(prev *Group) []int {
	if prev == nil {
		return nil
	}
	ours := make(map[way]int, len(g.hops))
	for i := range g.hops {
		ours[g.hops[i].way()] = i
	}
	kept := make([]int, len(prev.hops))
	for i := range prev.hops {
		kept[i] = -1
		if hop, ok := ours[prev.hops[i].way()]; ok {
			kept[i] = hop
		}
	}
	return kept
}

// quotas shares n slots out by weight, at least one for each hop. Slots are awarded one by one, to the hop that has
// the fewest for its weight (Sainte-Lague's divisors): unlike rounding of shares, that never takes a slot from a hop
// because another one left.
func quotas(hops []Hop, n int) []int {
	q := make([]int, len(hops))
	for i := range q {
		q[i] = 1
	}
	for range n - len(hops) {
		next := 0
		for i := range hops {
			if hops[i].weight()*(2*q[next]+1) > hops[next].weight()*(2*q[i]+1) {
				next = i
			}
		}
		q[next]++
	}
	return q
}

func (h *Hop) weight() int { return max(int(h.Weight), 1) }

// Hops returns the group's hops, not to be changed. A Local group has one, with the port whose address it is.
func (g *Group) Hops() []Hop { return g.hops }

// Select returns the hop of a flow, the same one for each packet of it, or nil when the group has none.
func (g *Group) Select(hash uint32) *Hop {
	if g.slots == nil {
		if len(g.hops) == 0 {
			return nil
		}
		return &g.hops[0]
	}
	return &g.hops[g.slots[mix(hash)>>g.shift]]
}

// index is Select for a hash that is mixed.
func (g *Group) index(mixed uint32) int {
	if g.slots == nil {
		return 0
	}
	return int(g.slots[mixed>>g.shift])
}

// mix spreads the hash, of which queue choice has used the low bits: workers would else use few of the hops each.
func mix(hash uint32) uint32 {
	hash ^= hash >> 16
	hash *= 0x9e3779b1
	return hash ^ hash>>15
}
