// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func pods(n int) []member {
	list := make([]member, n)
	for i := range list {
		list[i] = member{addr: packet.Addr4(0x0a000000 + uint32(i)), port: 8080, weight: 1}
	}
	return list
}

// The table is as even as the paper's: of 65537 places for 1000 backends the fullest has a little more than the mean
// (NSDI 2016, 5.3: over-provisioning below 1.3 % needs M > 100 N, which 65537 of 655 are; of 1000 all are within 2 %).
func TestMaglevEven(t *testing.T) {
	const n, size = 1000, 65537
	counts := make([]int, n)
	for _, m := range maglev(pods(n), size) {
		counts[m]++
	}
	mean, least, most, square := float64(size)/n, size, 0, 0.0
	for _, c := range counts {
		least, most = min(least, c), max(most, c)
		square += (float64(c) - mean) * (float64(c) - mean)
	}
	t.Logf("from %d to %d, mean %.2f, standard deviation %.3f", least, most, mean, math.Sqrt(square/n))
	if float64(most) > mean+1 || float64(least) < mean-1 {
		t.Errorf("from %d to %d, mean %.2f", least, most, mean)
	}
}

// Where one of N backends goes, few places change hands besides its own (NSDI 2016, 5.3 and figure 12: with M = 65537
// and 1000 backends about 2 % at one failure in a hundred).
func TestMaglevDisruption(t *testing.T) {
	for _, row := range []struct {
		members, size int
		most          float64 // share of places, the removed one's own aside
	}{{1000, 65537, 0.02}, {100, 16381, 0.02}, {10, 1021, 0.05}} {
		all := pods(row.members)
		before := maglev(all, row.size)
		moved := 0
		gone := row.members / 3
		without := append(append([]member{}, all[:gone]...), all[gone+1:]...)
		for i, m := range maglev(without, row.size) {
			if int(before[i]) != gone && all[before[i]].addr != without[m].addr {
				moved++
			}
		}
		share := float64(moved) / float64(row.size)
		t.Logf("of %d backends one goes: %.2f %% of %d places change beside its own", row.members, 100*share, row.size)
		if share > row.most {
			t.Errorf("of %d backends one goes: %.2f %% of places change", row.members, 100*share)
		}
	}
}

// Places are as the weights say, to a turn.
func TestMaglevWeights(t *testing.T) {
	members := pods(4)
	for i, w := range []uint16{1, 2, 3, 10} {
		members[i].weight = w
	}
	counts := make([]int, 4)
	for _, m := range maglev(members, 1021) {
		counts[m]++
	}
	for i, c := range counts {
		if want := 1021 * float64(members[i].weight) / 16; math.Abs(float64(c)-want) > 2 {
			t.Errorf("%d has %d places, want %.0f", i, c, want)
		}
	}
}

func TestMaglevSizes(t *testing.T) {
	for n, want := range map[int]int{1: 251, 2: 251, 3: 509, 10: 1021, 100: 16381, 655: 65537, 60000: 65537} {
		if got := tableSize(n); got != want {
			t.Errorf("%d backends have a table of %d", n, got)
		}
	}
	for _, size := range sizes {
		for d := 2; d*d <= size; d++ {
			if size%d == 0 {
				t.Errorf("%d is no prime", size)
			}
		}
	}
}

// No backend has more than ⌈1.25 · its share⌉ of the flows at any moment; with weights as without.
func TestBoundedLoad(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 2, 3, 4, 5}} {
		r := newRig(t, with(api.Service_ALGORITHM_MAGLEV_BOUNDED, weights...))
		p := &r.table.get(1).cluster
		open, moved := uint64(0), 0
		q := r.to(1, "192.0.2.1", 0)
		for i := range 5000 {
			q.Src, q.SrcPort = client(i%50), uint16(i%3) // few flows that hash apart: some backends would have too many
			plain := p.maglev(r.table.get(1), q)
			c := r.choose(q)
			r.b.Opened(c.Number)
			open++
			if c.Number != plain.number {
				moved++
			}
			for j := range p.members {
				if m := &p.members[j]; m.slot.flows() > p.bound(m, open) {
					t.Fatalf("backend %d has %d of %d flows", j, m.slot.flows(), open)
				}
			}
		}
		if moved == 0 || moved > 3000 {
			t.Errorf("%d of 5000 flows went on", moved)
		}
	}
}
