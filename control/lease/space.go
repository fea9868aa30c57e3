// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// space is all addresses: who holds one, which were given back, and the pools that they are taken from.
type space struct {
	pools    []*pool
	prefixes []netip.Prefix // the pools', as configured
	excluded []netip.Prefix
	sizes    []size // of the pools; it is replaced, not changed
	held     map[netip.Addr]*entry
	places   map[netip.Addr]uint64 // of addresses that were given back: their place in the order, from 1
	place    uint64                // the last
}

// size is how large a pool is, nothing leased, and what of it is not to be leased.
type size struct {
	Usage
	blocked ranges
}

func newSpace() space {
	return space{held: map[netip.Addr]*entry{}, places: map[netip.Addr]uint64{}}
}

// configure sets the pools, and has each find its place again in what was used.
func (s *space) configure(prefixes, excluded []netip.Prefix) {
	prefixes, excluded = masked(prefixes), masked(excluded)
	if slices.Equal(prefixes, s.prefixes) && slices.Equal(excluded, s.excluded) {
		return
	}
	s.prefixes, s.excluded, s.pools, s.sizes = prefixes, excluded, nil, nil
	blocked := slices.Clone(excluded)
	for _, p := range prefixes {
		blocked = append(blocked, reserved(p)...)
	}
	for _, p := range prefixes {
		in := newRanges(blocked)
		s.pools = append(s.pools, &pool{prefix: p, blocked: in, next: p.Addr()})
		s.sizes = append(s.sizes, size{Usage{Prefix: p, Size: in.rest(p)}, in})
		blocked = append(blocked, p)
	}
	byPlace := func(a, b netip.Addr) int { return cmp.Compare(s.places[a], s.places[b]) }
	for _, address := range slices.SortedFunc(maps.Keys(s.places), byPlace) {
		s.enqueue(address)
	}
}

// owner returns the pool that leases an address, the first one that it is in; nil if it is not to be leased.
func (s *space) owner(address netip.Addr) *pool {
	for _, p := range s.pools {
		if p.prefix.Contains(address) {
			if _, blocked := p.blocked.at(address); blocked {
				return nil
			}
			return p
		}
	}
	return nil
}

// free returns an address of a family that may be leased.
func (s *space) free(is4 bool) (netip.Addr, error) {
	exhausted := &ExhaustedError{Family: 6}
	if is4 {
		exhausted.Family = 4
	}
	for _, p := range s.pools {
		if p.prefix.Addr().Is4() != is4 {
			continue
		}
		if address, ok := s.freeOf(p); ok {
			return address, nil
		}
		exhausted.Pools = append(exhausted.Pools, p.prefix)
	}
	return netip.Addr{}, exhausted
}

func (s *space) freeOf(p *pool) (netip.Addr, bool) {
	if p.waiting < reuseAfter {
		if address, ok := p.fresh(s.used); ok {
			return address, true
		}
	}
	return p.oldest(s.places)
}

// used says whether an address was ever leased, as far as that matters: one that is used stays so.
func (s *space) used(address netip.Addr) bool {
	return s.held[address] != nil || s.places[address] != 0
}

// hold gives an address to an attachment. The place is that of the address among those given back, 0 if it is not.
func (s *space) hold(address netip.Addr, e *entry) (place uint64) {
	place = s.places[address]
	if place != 0 {
		delete(s.places, address)
		if p := s.owner(address); p != nil {
			p.waiting--
		}
	}
	s.held[address] = e
	return place
}

// release takes an address back, as the last in the order.
func (s *space) release(address netip.Addr) (place uint64) {
	delete(s.held, address)
	s.place++
	s.places[address] = s.place
	s.enqueue(address)
	return s.place
}

func (s *space) enqueue(address netip.Addr) {
	if p := s.owner(address); p != nil {
		p.push(given{address, s.places[address]}, s.places)
	}
}
