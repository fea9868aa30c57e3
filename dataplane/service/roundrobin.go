// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"slices"
)

// roundRobin takes the members in turn. Each worker has turns of its own.
func (p *pool) roundRobin(d *Dice) *member {
	return &p.members[d.turn(p.id)%uint32(len(p.members))]
}

// weightedRoundRobin takes them as often as their weights say, and one of them as evenly as can be between the others.
func (p *pool) weightedRoundRobin(d *Dice) *member {
	if p.even {
		return p.roundRobin(d)
	}
	return &p.members[p.schedule[d.turn(p.id)%uint32(len(p.schedule))]]
}

// scheduleOf is one round of weighted turns: as stride scheduling has it (Waldspurger and Weihl, MIT/LCS/TM-528, 1995),
// a member with w turns has its k-th at (k+½)/w of the round. Weights that would make a long round are rounded.
func scheduleOf(members []member, total uint64) []uint16 {
	counts := turnsOf(members, total)
	type slot struct {
		at     float64
		member uint16
	}
	var round []slot
	for i, w := range counts {
		for k := range w {
			round = append(round, slot{(float64(k) + 0.5) / float64(w), uint16(i)})
		}
	}
	slices.SortStableFunc(round, func(a, b slot) int { return cmp.Compare(a.at, b.at) })
	schedule := make([]uint16, len(round))
	for i := range round {
		schedule[i] = round[i].member
	}
	return schedule
}

// turnsOf is how many turns of a round each member has: its weight by the greatest common divisor, or, where the round
// would be longer than some turns a member, the nearest number from 1.
func turnsOf(members []member, total uint64) []int {
	divisor := uint64(0)
	for i := range members {
		divisor = gcd(divisor, uint64(members[i].weight))
	}
	most := max(uint64(1024), 16*uint64(len(members)))
	counts := make([]int, len(members))
	for i := range members {
		w := uint64(members[i].weight)
		if total/divisor <= most {
			counts[i] = int(w / divisor)
		} else {
			counts[i] = int(max((w*most+total/2)/total, 1))
		}
	}
	return counts
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
