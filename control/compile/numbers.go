// SPDX-License-Identifier: Apache-2.0

package compile

import "net/netip"

// numbers are the numbers given to ports and groups, so that the next compilation gives the same ones. The zero value
// has given none. numbers are immutable.
type numbers struct {
	ports  map[string]uint32       // by name
	groups map[string]uint32       // by content
	routes map[netip.Prefix]uint32 // the group that each destination had
}

func newNumbers() numbers {
	return numbers{ports: map[string]uint32{}, groups: map[string]uint32{}, routes: map[netip.Prefix]uint32{}}
}

// Port returns the number of the port with the name, 0 when there is none.
func (n numbers) Port(name string) uint32 { return n.ports[name] }

// pool gives out the lowest numbers that are free.
type pool struct {
	used map[uint32]bool
	last uint32
}

func (p *pool) next() uint32 {
	for p.last++; p.used[p.last]; p.last++ {
	}
	p.used[p.last] = true
	return p.last
}

// numberPorts keeps the number of each name that had one. numbers that just became free are not given out at once, so
// that no snapshot makes one port of another.
func numberPorts(previous map[string]uint32, names []string) map[string]uint32 {
	free := pool{used: make(map[uint32]bool, len(previous))}
	for _, id := range previous {
		free.used[id] = true
	}
	ports := make(map[string]uint32, len(names))
	for _, name := range names {
		id, had := previous[name]
		if !had {
			id = free.next()
		}
		ports[name] = id
	}
	return ports
}

// number gives every group its number: the one that its content had; else that of the group which one of its routes
// had, if no other group has it, for then it is that group with other hops; else a free one.
func (n *numbers) number(previous numbers, routes []resolved) {
	free := pool{used: make(map[uint32]bool, len(previous.groups))}
	for _, r := range routes {
		if id, had := previous.groups[r.content]; had {
			n.groups[r.content] = id
			free.used[id] = true
		}
	}
	for _, r := range routes {
		id, had := previous.routes[r.destination]
		if _, done := n.groups[r.content]; !done && had && !free.used[id] {
			n.groups[r.content] = id
			free.used[id] = true
		}
	}
	for _, r := range routes {
		if _, done := n.groups[r.content]; !done {
			n.groups[r.content] = free.next()
		}
		n.routes[r.destination] = n.groups[r.content]
	}
}
