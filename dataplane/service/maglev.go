// SPDX-License-Identifier: Apache-2.0

package service

import "slices"

// maglev takes the member in whose place of a table the flow's hash falls (Eisenbud et al., "Maglev: A Fast and
// Reliable Software Network Load Balancer", NSDI 2016, 3.4). All nodes fill the same table, and most of its places stay
// whose they are when a backend comes or goes.
func (p *pool) maglev(s *Service, q *Query) *member {
	at := hashFlow(q) % uint64(len(p.lookup))
	m := &p.members[p.lookup[at]]
	for range tries * len(p.members) {
		if s.state(m, q.Now) != unfit {
			return m
		}
		m = p.after(&at)
	}
	return m
}

// after is the member in the next place.
func (p *pool) after(at *uint64) *member {
	if *at++; *at == uint64(len(p.lookup)) {
		*at = 0
	}
	return &p.members[p.lookup[*at]]
}

// hashFlow is the same on every node.
func hashFlow(q *Query) uint64 {
	h := hashAddr(q.Src) ^ uint64(q.SrcPort)<<32 ^ uint64(q.DstPort)<<16 ^ uint64(q.Proto)
	return mix(mix(h) ^ hashAddr(q.Dst))
}

// sizes are primes: the steps by which members go through the table then meet every place.
var sizes = []int{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537}

// tableSize is how many places a table has: a hundred for each member, as the paper advises, for those that fit.
func tableSize(members int) int {
	for _, size := range sizes {
		if size >= 100*members {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// maglev fills a table of a prime size. Members take turns; one takes the next place in its own order that is free. The
// one of the greatest weight has a turn in each round, the others in proportion.
func maglev(members []member, size int) []uint16 {
	const free = ^uint16(0)
	table := slices.Repeat([]uint16{free}, size)
	type walk struct {
		at, skip uint32
		credit   uint32
	}
	walks := make([]walk, len(members))
	greatest := uint32(0)
	for i := range members {
		h := mix(members[i].hash())
		walks[i] = walk{at: uint32(h % uint64(size)), skip: uint32(mix(h)%uint64(size-1)) + 1}
		greatest = max(greatest, uint32(members[i].weight))
	}
	for filled := 0; filled < size; {
		for i := range walks {
			w := &walks[i]
			if w.credit += uint32(members[i].weight); w.credit < greatest {
				continue
			}
			w.credit -= greatest
			for table[w.at] != free {
				if w.at += w.skip; w.at >= uint32(size) {
					w.at -= uint32(size)
				}
			}
			table[w.at] = uint16(i)
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}
