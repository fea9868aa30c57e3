// SPDX-License-Identifier: Apache-2.0

package service

import (
	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// member is a backend of one service: 32 bytes, so that two share a cache line.
type member struct {
	addr   packet.Addr
	slot   *slot
	number uint32
	port   uint16
	weight uint16
}

// pool is the backends that may be chosen, and what the service's algorithm needs to do it.
type pool struct {
	members  []member
	id       uint32 // of Dice.turn
	even     bool   // all weights are the same
	total    uint64 // of the weights
	odds     []odd
	schedule []uint16
	lookup   []uint16
}

// prepare makes what an algorithm needs.
func (p *pool) prepare(algorithm api.Service_Algorithm) {
	p.even = true
	for i := range p.members {
		p.total += uint64(p.members[i].weight)
		p.even = p.even && p.members[i].weight == p.members[0].weight
	}
	if len(p.members) < 2 {
		return
	}
	switch algorithm {
	case api.Service_ALGORITHM_RANDOM, api.Service_ALGORITHM_TWO_CHOICES:
		if !p.even {
			p.odds = oddsOf(p.members, p.total)
		}
	case api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN:
		if !p.even {
			p.schedule = scheduleOf(p.members, p.total)
		}
	case api.Service_ALGORITHM_MAGLEV, api.Service_ALGORITHM_MAGLEV_BOUNDED:
		p.lookup = maglev(p.members, tableSize(len(p.members)))
	}
}

// tries is how many backends are asked for in turn before all of them are looked at.
const tries = 8

// pick chooses a member. Where none is ready, for failures or because all are new, the algorithm has its way.
func (p *pool) pick(s *Service, q *Query, d *Dice) *member {
	if len(p.members) == 1 {
		return &p.members[0]
	}
	switch s.algorithm {
	case api.Service_ALGORITHM_LEAST_CONNECTIONS:
		return p.leastConnections(s, q, d)
	case api.Service_ALGORITHM_SOURCE_HASH:
		return p.rendezvous(s, q)
	case api.Service_ALGORITHM_MAGLEV:
		return p.maglev(s, q)
	case api.Service_ALGORITHM_MAGLEV_BOUNDED:
		return p.bounded(s, q)
	case api.Service_ALGORITHM_TWO_CHOICES:
		return p.twoChoices(s, q, d)
	}
	for range tries {
		if m := p.draw(d, s.algorithm); s.ready(m, q.Now, d) != unfit {
			return m
		}
	}
	return p.anyone(s, q, d)
}

// draw is one try of an algorithm that may be asked again.
func (p *pool) draw(d *Dice, algorithm api.Service_Algorithm) *member {
	switch algorithm {
	case api.Service_ALGORITHM_ROUND_ROBIN:
		return p.roundRobin(d)
	case api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN:
		return p.weightedRoundRobin(d)
	}
	return p.random(d)
}

// anyone takes the first that is fit, from a random one on.
func (p *pool) anyone(s *Service, q *Query, d *Dice) *member {
	start := d.below(len(p.members))
	for i := range p.members {
		if m := &p.members[(start+i)%len(p.members)]; s.state(m, q.Now) != unfit {
			return m
		}
	}
	return &p.members[start]
}

// numbered finds a member by its number, nil for none.
func (p *pool) numbered(number uint32) *member {
	if number == 0 {
		return nil
	}
	for i := range p.members {
		if p.members[i].number == number {
			return &p.members[i]
		}
	}
	return nil
}

// ready is state for a member that was drawn at random or in turn: a newcomer that has had its share is unfit as well.
// To reject some draws makes the chance of each member proportional to its weight and to its share.
func (s *Service) ready(m *member, now int64, d *Dice) fitness {
	state := s.state(m, now)
	if state != well || s.ramp == 0 {
		return state
	}
	if share := s.share(m, now); share < fullShare && d.below(fullShare) >= share {
		return unfit
	}
	return well
}

// fullShare is the share of a backend that is no newcomer.
const fullShare = 1024

// share is how much of its weight a backend has. A newcomer begins with a tenth, and has all of it after the time of
// slow start.
func (s *Service) share(m *member, now int64) int {
	since := m.slot.since.Load()
	if s.ramp == 0 || since == 0 || now-since >= s.ramp {
		return fullShare
	}
	const least = fullShare / 10
	return least + int(float64(fullShare-least)*float64(max(now-since, 0))/float64(s.ramp))
}
