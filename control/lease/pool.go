// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"

	"go4.org/netipx"
)

// reuseAfter is how many addresses of a pool wait to be leased again before that is preferred to one that was never
// leased. A pool that is no larger than an IPv4 /16 is used up first; of a larger one this bounds what is to be
// remembered, since an IPv6 pool is never used up.
const reuseAfter = 1 << 16

// pool is where addresses come from: those that were never leased, in order, then those that were given back, the
// oldest first. Its size costs nothing: it knows how far it has come, and what was given back.
type pool struct {
	prefix  netip.Prefix
	blocked ranges     // not to be leased, or of a pool before this one
	next    netip.Addr // all before it are used or blocked; the zero Addr at the end
	queue   []given    // in the order of giving back; also some that were leased again
	waiting int        // of queue, those that were not
}

// given is an address that was given back, and its place in the order.
type given struct {
	address netip.Addr
	place   uint64
}

// fresh returns the first address that was never used. Each used one is passed once.
func (p *pool) fresh(used func(netip.Addr) bool) (netip.Addr, bool) {
	for p.prefix.Contains(p.next) {
		if block, ok := p.blocked.at(p.next); ok {
			p.next = netipx.PrefixLastIP(block).Next()
		} else if used(p.next) {
			p.next = p.next.Next()
		} else {
			return p.next, true
		}
	}
	p.next = netip.Addr{}
	return netip.Addr{}, false
}

// oldest returns the address that was given back first, of those that are in places.
func (p *pool) oldest(places map[netip.Addr]uint64) (netip.Addr, bool) {
	for len(p.queue) > 0 {
		if first := p.queue[0]; places[first.address] == first.place {
			return first.address, true
		}
		p.queue = p.queue[1:]
	}
	return netip.Addr{}, false
}

// push appends an address that is given back. Where most of the queue was leased again, by being asked for, that goes
// first, so that the queue is no longer than twice what waits.
func (p *pool) push(g given, places map[netip.Addr]uint64) {
	if len(p.queue) > 2*p.waiting+16 {
		var queue []given
		for _, q := range p.queue {
			if places[q.address] == q.place {
				queue = append(queue, q)
			}
		}
		p.queue = queue
	}
	p.queue = append(p.queue, g)
	p.waiting++
}
