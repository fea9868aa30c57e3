// SPDX-License-Identifier: Apache-2.0

package service

// random takes a member by weight, by Walker's alias method (ACM TOMS 3, 1977): one place of a table, and there one of
// two members.
func (p *pool) random(d *Dice) *member { return &p.members[p.randomIndex(&d.die)] }

func (p *pool) randomIndex(d *die) int {
	i := d.below(len(p.members))
	if p.even {
		return i
	}
	if o := p.odds[i]; uint32(d.next()) >= o.own {
		return int(o.other)
	}
	return i
}

// odd is one place of the alias table: how often, of 2^32, it is the member's whose place it is, and whose else.
type odd struct{ own, other uint32 }

// oddsOf fills the table (Vose, IEEE TSE 17, 1991): members with less than an even share fill their places up with
// those that have more.
func oddsOf(members []member, total uint64) []odd {
	n := uint64(len(members))
	odds := make([]odd, n)
	left := make([]uint64, n) // of each member's weight, times n; a place holds the total
	var less, more []uint32
	for i := range members {
		if left[i] = uint64(members[i].weight) * n; left[i] < total {
			less = append(less, uint32(i))
		} else {
			more = append(more, uint32(i))
		}
	}
	for len(less) > 0 && len(more) > 0 {
		small, large := less[len(less)-1], more[len(more)-1]
		less = less[:len(less)-1]
		odds[small] = odd{uint32(float64(left[small]) / float64(total) * (1 << 32)), large}
		if left[large] -= total - left[small]; left[large] < total {
			more = more[:len(more)-1]
			less = append(less, large)
		}
	}
	for _, i := range append(less, more...) { // what is left is whole places
		odds[i] = odd{^uint32(0), i}
	}
	return odds
}
