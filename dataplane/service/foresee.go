// SPDX-License-Identifier: Apache-2.0

package service

import (
	"unsafe"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/cacheline"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Ten thousand services are in no near cache: Choose waits for the index, the frontend, the service, the backend and
// its counts, each of which says where the next one lies. A worker that has a batch of packets that may open flows
// calls Foresee for all of them, so that only the waits of one go one after the other. Nothing but time depends on it.

// Guess is what is foreseen of a packet that may open a flow. Foresee uses the rest.
type Guess struct {
	Dst   packet.Addr
	Port  uint16
	Proto packet.IPProto

	bucket *[]entry
	front  *frontend
	member *member
}

// Target is where the packet would go by what Foresee has seen: to the backend that is likely to be chosen, or, for
// lack of a service, where it is sent. Of a service whose algorithm tells nobody beforehand it is not known.
func (g *Guess) Target() (to packet.Addr, port uint16, known bool) {
	switch {
	case g.front == nil:
		return g.Dst, g.Port, true
	case g.member == nil:
		return to, 0, false
	}
	return g.member.addr, g.member.port, true
}

const line = 64 // bytes of the cache

// Foresee has fetched what Choose will need.
func (t *Table) Foresee(guesses []Guess, d *Dice) {
	if t.Empty() {
		return // as they are, none is of a service
	}
	for i := range guesses {
		g := &guesses[i]
		k := key{addr: g.Dst, port: g.Port, proto: g.Proto}
		at := k.hash() & t.index.mask
		g.bucket = &t.index.pages[at/pageBuckets][at%pageBuckets]
		cacheline.Fetch(unsafe.Pointer(g.bucket))
	}
	for i := range guesses {
		for j := range *guesses[i].bucket {
			cacheline.Fetch(unsafe.Pointer(&(*guesses[i].bucket)[j]))
		}
	}
	for i := range guesses {
		g := &guesses[i]
		k := key{addr: g.Dst, port: g.Port, proto: g.Proto}
		g.front, g.member = nil, nil
		for j := range *g.bucket {
			if e := &(*g.bucket)[j]; e.key == k {
				g.front = e.front
				cacheline.Fetch(unsafe.Pointer(e.front))
			}
		}
	}
	foreseeServices(guesses)
	foreseeMembers(guesses, d)
}

func foreseeServices(guesses []Guess) {
	for i := range guesses {
		if f := guesses[i].front; f != nil {
			s := unsafe.Pointer(f.service)
			cacheline.Fetch(s)
			cacheline.Fetch(unsafe.Add(s, line))
		}
	}
}

// foreseeMembers goes on with the backends that the dice are about to fall for, as far as that can be told.
func foreseeMembers(guesses []Guess, d *Dice) {
	dice := d.die
	for i := range guesses {
		g := &guesses[i]
		if g.front == nil {
			continue
		}
		s := g.front.service
		cacheline.Fetch(unsafe.Pointer(s.group))
		if p := &s.cluster; len(p.members) > 0 {
			g.member = p.likely(s.algorithm, d, &dice)
			cacheline.Fetch(unsafe.Pointer(g.member))
		}
	}
	for i := range guesses {
		if m := guesses[i].member; m != nil {
			cacheline.Fetch(unsafe.Pointer(m.slot))
		}
	}
}

// likely is whom an algorithm is about to draw, nil where only the algorithm itself can tell.
func (p *pool) likely(algorithm api.Service_Algorithm, d *Dice, next *die) *member {
	if len(p.members) == 1 {
		return &p.members[0]
	}
	switch algorithm {
	case api.Service_ALGORITHM_RANDOM:
		return &p.members[p.randomIndex(next)]
	case api.Service_ALGORITHM_ROUND_ROBIN:
		if t := d.turns[p.id%uint32(len(d.turns))]; t.pool == p.id {
			return &p.members[(t.at+1)%uint32(len(p.members))]
		}
	}
	return nil
}
