// SPDX-License-Identifier: Apache-2.0

package route

import (
	"encoding/binary"
	"net/netip"
)

// direct answers IPv4 lookups of a FIB by at most four loads, of which, in a full Internet table, one misses the
// caches; bart's nodes take several and a mispredicted branch each. It is a trie that consumes eight bits a level.
// A prefix is painted over the slots that it covers on the one level that its length falls into; a slot that no
// prefix of its level covers is 0, and the level above has the say. So a default route costs 256 slots, not all.
//
// Slots hold a group's number + 1. Nodes are shared between FIBs and copied by the first change of a builder: owner
// says whose they are.
type direct struct {
	owner uint64
	slots [256]slot8 // by the first byte: prefixes of 0 to 8 bits
}

type slot8 struct {
	child *level16
	leaf  uint32
}

type level16 struct {
	owner uint64
	slots [256]slot16 // by the second byte: prefixes of 9 to 16 bits
}

type slot16 struct {
	child *level24
	leaf  uint32
	long  bool // child.long is not nil, told here to save a lookup the cache line that long is in
}

// level24 is where most of a full table's routes are, 1 KiB for each /16 that has any.
type level24 struct {
	long  *[256]*level32 // nil where there is no prefix of more than 24 bits; copied with the node
	owner uint64
	leaf  [256]uint32 // by the third byte: prefixes of 17 to 24 bits
}

type level32 struct {
	owner uint64
	leaf  [256]uint32 // by the last byte: prefixes of 25 to 32 bits
}

// lookup returns the number of a's group + 1, or 0.
func (d *direct) lookup(a uint32) uint32 {
	s8 := &d.slots[a>>24]
	leaf := s8.leaf
	if s8.child == nil {
		return leaf
	}
	s16 := &s8.child.slots[a>>16&255]
	if s16.leaf != 0 {
		leaf = s16.leaf
	}
	n := s16.child
	if n == nil {
		return leaf
	}
	if l := n.leaf[a>>8&255]; l != 0 {
		leaf = l
	}
	if s16.long {
		if last := n.long[a>>8&255]; last != nil {
			if l := last.leaf[a&255]; l != 0 {
				leaf = l
			}
		}
	}
	return leaf
}

// painter changes a direct for one builder, whose number owner is.
type painter struct {
	owner uint64
	root  *direct
}

// number32 returns a prefix's address, the shift that makes its level's slot number of it, and how many slots of the
// level it covers.
func number32(p netip.Prefix) (a uint32, shift, slots int) {
	b := p.Addr().As4()
	a = binary.BigEndian.Uint32(b[:])
	level := max(p.Bits()+7, 8) &^ 7 // its length rounded up to whole bytes, at least one
	return a, 32 - level, 1 << (level - p.Bits())
}

// paint calls set with each slot that the prefix covers, and the address where the slot begins.
func (p *painter) paint(prefix netip.Prefix, set func(leaf *uint32, a uint32)) {
	a, shift, slots := number32(prefix)
	first := a >> shift & 255
	for i := range uint32(slots) {
		set(p.slot(a, shift, first+i), a+i<<shift)
	}
}

// slot returns a slot of the level on a's way that shift names, with all nodes on the way made and owned.
func (p *painter) slot(a uint32, shift int, slot uint32) *uint32 {
	if p.root == nil || p.root.owner != p.owner {
		p.root = owned(p.root)
		p.root.owner = p.owner
	}
	if shift == 24 {
		return &p.root.slots[slot].leaf
	}
	n16 := &p.root.slots[a>>24].child
	if *n16 == nil || (*n16).owner != p.owner {
		*n16 = owned(*n16)
		(*n16).owner = p.owner
	}
	if shift == 16 {
		return &(*n16).slots[slot].leaf
	}
	s16 := &(*n16).slots[a>>16&255]
	n24 := p.level24(&s16.child)
	if shift == 8 {
		return &n24.leaf[slot]
	}
	if n24.long == nil {
		n24.long, s16.long = new([256]*level32), true
	}
	n32 := &n24.long[a>>8&255]
	if *n32 == nil || (*n32).owner != p.owner {
		*n32 = owned(*n32)
		(*n32).owner = p.owner
	}
	return &(*n32).leaf[slot]
}

func (p *painter) level24(n **level24) *level24 {
	if *n == nil || (*n).owner != p.owner {
		*n = owned(*n)
		(*n).owner = p.owner
		if (*n).long != nil {
			(*n).long = owned((*n).long)
		}
	}
	return *n
}

// owned returns a copy of a node, or an empty one.
func owned[T any](n *T) *T {
	c := new(T)
	if n != nil {
		*c = *n
	}
	return c
}

// prune drops the nodes on a's way that have become empty. The way is owned: a slot on it was just painted.
func (p *painter) prune(a uint32) {
	s8 := &p.root.slots[a>>24]
	if s8.child == nil {
		return
	}
	s16 := &s8.child.slots[a>>16&255]
	if n := s16.child; n != nil {
		if n.long != nil {
			if last := n.long[a>>8&255]; last != nil && last.leaf == [256]uint32{} {
				p.level24(&s16.child).long[a>>8&255] = nil
			}
			if *s16.child.long == [256]*level32{} {
				p.level24(&s16.child).long, s16.long = nil, false
			}
		}
		if s16.child.long == nil && s16.child.leaf == [256]uint32{} {
			s16.child = nil
		}
	}
	if s8.child.slots == [256]slot16{} {
		s8.child = nil
	}
}
