// SPDX-License-Identifier: Apache-2.0

package route

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// tree answers IPv6 lookups of a FIB. It is a trie whose nodes skip the bits that all prefixes below them share, and
// then take as many bits at once as there are prefixes to tell apart (level compression: Nilsson and Karlsson,
// "IP-address lookup using LC-tries", 1999). So no level has more slots than there are routes, whatever they are, and
// two nodes and a bucket find one of 200,000 scattered routes.
//
// A slot stands for a prefix, and the tree itself for ::/0. It has the leaf of the longest route that ends in the bits
// of its node and covers it; one without has 0, and the level above has the say. The routes that are longer than the
// slot are in its bucket while they are few, and else below its node.
//
// Leaves are a group's number + 1. Nodes are shared between FIBs and copied by the first change of a builder: owner
// says whose they are. Buckets do not change.
type tree struct {
	node   *node6
	bucket *bucket
	leaf   uint32
}

// node6 takes the bits skip to end of an address; routes that end there are painted over the slots that they cover.
type node6 struct {
	slots  []tree // by the bits that the node takes
	key    packet.Addr
	skip   uint8 // bits of key that all routes below have, each of them longer than that
	end    uint8 // skip + log2(len(slots)); the node's bits are all in the same half of an address
	owner  uint64
	routes int // painted or below
	sized  int // routes when the number of slots was chosen
}

// bucket is up to 4 routes, the longest first, and then some that no address matches.
type bucket [4]route6

type route6 struct {
	key  packet.Addr
	leaf uint32
	bits uint8
}

const (
	// maxStride bounds what the first change of a builder copies at each level: 2048 slots of 24 bytes.
	maxStride = 11
	// never is the length of no prefix.
	never = 255
)

// lookup returns the number of a's group + 1, or 0.
func (t *tree) lookup(a packet.Addr) uint32 {
	leaf := t.leaf
	for n := t.node; n != nil; n = t.node {
		if agree(a, n.key) < n.skip {
			return leaf
		}
		t = &n.slots[n.index(a)]
		if t.leaf != 0 {
			leaf = t.leaf
		}
	}
	if t.bucket != nil {
		for i := range t.bucket {
			if r := &t.bucket[i]; agree(a, r.key) >= r.bits {
				return r.leaf
			}
		}
	}
	return leaf
}

// index returns the number of a's slot.
func (n *node6) index(a packet.Addr) int {
	half := a.Hi
	if n.skip >= 64 {
		half = a.Lo
	}
	return int(half >> (-n.end & 63) & uint64(len(n.slots)-1))
}

// agree returns how many bits a and b have in common before they differ.
func agree(a, b packet.Addr) uint8 {
	if d := a.Hi ^ b.Hi; d != 0 {
		return uint8(bits.LeadingZeros64(d))
	}
	return uint8(64 + bits.LeadingZeros64(a.Lo^b.Lo))
}

// plant returns a tree of routes in the order of their addresses, the shorter of two with the same address first.
func plant(routes []route6, owner uint64) (t tree) {
	if len(routes) == 0 {
		return tree{}
	}
	if len(routes) <= len(t.bucket) {
		t.bucket = new(bucket)
		for i := range t.bucket {
			t.bucket[i].bits = never
		}
		for i, r := range routes {
			t.bucket[len(routes)-1-i] = r
		}
		return t
	}
	first, last := routes[0], routes[len(routes)-1]
	n := newNode(first.key, min(agree(first.key, last.key), first.bits-1), bits.Len(uint(len(routes)))-1, owner)
	n.routes, n.sized = len(routes), len(routes)
	for len(routes) > 0 {
		r := routes[0]
		if i := n.index(r.key); r.bits > n.end {
			below := 1
			for below < len(routes) && n.index(routes[below].key) == i {
				below++
			}
			leaf := n.slots[i].leaf
			n.slots[i] = plant(routes[:below], owner)
			n.slots[i].leaf = leaf
			routes = routes[below:]
			continue
		}
		for slot := range n.covered(r) {
			n.slots[slot].leaf = r.leaf
		}
		routes = routes[1:]
	}
	t.node = n
	return t
}

// newNode returns a node with empty slots for up to stride bits behind the first skip of key.
func newNode(key packet.Addr, skip uint8, stride int, owner uint64) *node6 {
	half := 64 - int(skip&63) // bits until the end of the half
	stride = min(stride, half, maxStride)
	return &node6{
		slots: make([]tree, 1<<stride), key: mask(key, skip), skip: skip, end: skip + uint8(stride), owner: owner,
	}
}

// covered iterates over the slots that a route covers which ends in the node's bits.
func (n *node6) covered(r route6) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		first := n.index(r.key)
		for i := range 1 << (n.end - r.bits) {
			if !yield(first + i) {
				return
			}
		}
	}
}

// mask returns the first bits of a, and zeros.
func mask(a packet.Addr, bits uint8) packet.Addr {
	if bits < 64 {
		return packet.Addr{Hi: a.Hi &^ (^uint64(0) >> bits)}
	}
	return packet.Addr{Hi: a.Hi, Lo: a.Lo &^ (^uint64(0) >> (bits - 64))}
}

// prefix6 makes a netip.Prefix that stays IPv6 within ::ffff:0:0/96, unlike one of packet.Addr.Netip.
func prefix6(a packet.Addr, bits uint8) netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(bits))
}

// forester changes a tree for one builder, whose number owner is, to what the table says.
type forester struct {
	owner uint64
	root  tree
}

// smallWood is how many routes are planted anew rather than forked.
const smallWood = 64

// plantAll makes the tree of the whole table.
func (f *forester) plantAll(t *table) {
	f.replant(t, &f.root, 0, packet.Addr{})
	f.root.leaf = exact(t, packet.Addr{}, 0)
}

// replant makes what is below the slot anew that stands for the first above bits of key.
func (f *forester) replant(t *table, slot *tree, above uint8, key packet.Addr) {
	var routes []route6
	for p, l := range t.Subnets(prefix6(mask(key, above), above)) {
		if p.Bits() > int(above) {
			routes = append(routes, route6{packet.AddrFrom(p.Addr()), l.group + 1, uint8(p.Bits())})
		}
	}
	leaf := slot.leaf
	*slot = plant(routes, f.owner)
	slot.leaf = leaf
}

// exact returns the leaf of exactly this prefix.
func exact(t *table, key packet.Addr, bits uint8) uint32 {
	if l, ok := t.Get(prefix6(key, bits)); ok {
		return l.group + 1
	}
	return 0
}

// change follows the table, in which a route was just added (by is 1), replaced (0) or deleted (-1).
func (f *forester) change(t *table, prefix netip.Prefix, by int) {
	r := route6{key: packet.AddrFrom(prefix.Addr()), bits: uint8(prefix.Bits())}
	if r.bits == 0 {
		f.root.leaf = exact(t, r.key, 0)
		return
	}
	f.changeBelow(t, &f.root, 0, r, by)
}

func (f *forester) changeBelow(t *table, slot *tree, above uint8, r route6, by int) {
	n := slot.node
	if n == nil || n.routes+by > 2*n.sized || n.routes+by < n.sized/2 {
		f.replant(t, slot, above, r.key)
		return
	}
	switch beside := agree(r.key, n.key) < n.skip || r.bits <= n.skip; {
	case beside && n.routes <= smallWood:
		f.replant(t, slot, above, r.key)
		return
	case beside:
		n = f.fork(n, r)
	case n.owner != f.owner:
		n = f.own(n)
	}
	slot.node = n
	n.routes += by
	if r.bits <= n.end {
		n.repaint(t, r)
	} else {
		f.changeBelow(t, &n.slots[n.index(r.key)], n.end, r, by)
	}
	if only := n.only(); by < 0 && only != nil {
		slot.node = only
	}
}

func (f *forester) own(n *node6) *node6 {
	n = owned(n)
	n.slots, n.owner = slices.Clone(n.slots), f.owner
	return n
}

// fork returns a node that has n below it, and room for a route that is in bits that n skips.
func (f *forester) fork(n *node6, r route6) *node6 {
	skip := min(agree(r.key, n.key), r.bits-1)
	m := newNode(n.key, skip, min(forkStride, int(n.skip-skip)), f.owner)
	m.slots[m.index(n.key)].node = n
	m.routes, m.sized = n.routes, n.routes
	return m
}

// forkStride is enough to branch, and little to search for a node's only child.
const forkStride = 4

// only returns the node that has all routes below a small n, which a fork that lost its other routes leaves behind.
func (n *node6) only() *node6 {
	if len(n.slots) > 1<<forkStride {
		return nil
	}
	for i := range n.slots {
		if below := n.slots[i].node; below != nil && below.routes == n.routes {
			return below
		}
	}
	return nil
}

// repaint makes the slots that a changed route covers what the table says.
func (n *node6) repaint(t *table, r route6) {
	for i := range n.covered(r) {
		n.slots[i].leaf = 0
		best, l, ok := t.LookupPrefixLPM(prefix6(n.slotKey(i), n.end))
		if ok && best.Bits() > int(n.skip) {
			n.slots[i].leaf = l.group + 1
		}
	}
}

// slotKey is the inverse of index.
func (n *node6) slotKey(slot int) packet.Addr {
	key, half := n.key, uint64(slot)<<(-n.end&63)
	if n.skip >= 64 {
		key.Lo |= half
	} else {
		key.Hi |= half
	}
	return key
}
