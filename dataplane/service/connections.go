// SPDX-License-Identifier: Apache-2.0

package service

// looked is how many members least connections looks at. Of larger pools it takes as many that follow on a random one:
// each has its turn, and a choice costs the same whatever the size.
const looked = 64

// leastConnections takes the member with the fewest flows for its weight, the one to come included; of equals a random
// one.
func (p *pool) leastConnections(s *Service, q *Query, d *Dice) *member {
	n, start := len(p.members), 0
	if n > looked {
		start = d.below(n)
	}
	var best *member
	var bestFlows, bestWeight uint64
	equals := 1
	for i := range min(n, looked) {
		at := start + i
		if at >= n {
			at -= n
		}
		m := &p.members[at]
		switch s.state(m, q.Now) {
		case unfit:
			continue
		case onTrial:
			return m
		}
		flows, weight := m.slot.flows()+1, uint64(m.weight)*uint64(s.share(m, q.Now))
		switch left, right := flows*bestWeight, bestFlows*weight; {
		case best == nil || left < right:
			best, bestFlows, bestWeight, equals = m, flows, weight, 1
		case left == right:
			if equals++; d.below(equals) == 0 {
				best, bestFlows, bestWeight = m, flows, weight
			}
		}
	}
	if best == nil {
		return p.anyone(s, q, d)
	}
	return best
}

// twoChoices takes the better of two that are taken at random by weight: the longest queue is then shorter than with
// one choice by an order of growth (Mitzenmacher, IEEE TPDS 12, 2001).
func (p *pool) twoChoices(s *Service, q *Query, d *Dice) *member {
	var one *member
	for range 2 * tries {
		m := p.random(d)
		if m == one {
			continue
		}
		switch s.ready(m, q.Now, d) {
		case unfit:
		case onTrial:
			return m
		case well:
			if one != nil {
				return better(one, m)
			}
			one = m
		}
	}
	if one != nil {
		return one
	}
	return p.anyone(s, q, d)
}

// better is who is to answer sooner: by the time of handshakes, as far as it is known of both, and the flows for the
// weight, the one to come included. Who loses and is the slower one is believed to be a little faster: nobody is slow
// for good by what was measured once, as with a SYN that was lost.
func better(a, b *member) *member {
	ta, tb := a.slot.handshake.Load(), b.slot.handshake.Load()
	if ta == 0 || tb == 0 {
		ta, tb = 1, 1
	}
	if load(b, tb) < load(a, ta) {
		a, b, ta, tb = b, a, tb, ta
	}
	if tb > ta {
		b.slot.handshake.CompareAndSwap(tb, tb-tb/doubt)
	}
	return a
}

// doubt is in how many choices, about, a measured time is forgotten.
const doubt = 128

func load(m *member, handshake uint32) float64 {
	return float64(handshake) * float64(m.slot.flows()+1) / float64(m.weight)
}
