// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"math"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// with is service 1 with an algorithm and backends of the weights.
func with(algorithm api.Service_Algorithm, weights ...uint32) *api.Service {
	s := web(1, len(weights), weights...)
	s.Algorithm = algorithm
	return s
}

// client is a numbered address outside.
func client(n int) packet.Addr { return packet.Addr4(0xc6000000 + uint32(mix(uint64(n))&0xffffff)) }

// counts chooses for so many flows of as many clients, and counts by backend, in the order of the service's.
func (r *rig) counts(flows int, after func(c *Choice)) []int {
	r.t.Helper()
	at := map[uint32]int{}
	members := r.table.get(1).members
	for i := range members {
		at[members[i].number] = i
	}
	counts := make([]int, len(members))
	q := r.to(1, "192.0.2.1", 0)
	for i := range flows {
		q.Src, q.SrcPort = client(i), uint16(i)
		c := r.choose(q)
		if c.Outcome != Chosen {
			r.t.Fatalf("flow %d: %+v", i, c)
		}
		counts[at[c.Number]]++
		if after != nil {
			after(&c)
		}
	}
	return counts
}

// chiSquare compares counts with weights.
func chiSquare(counts []int, weights []uint32) (x float64) {
	total, sum := 0, uint32(0)
	for i := range counts {
		total, sum = total+counts[i], sum+weights[i]
	}
	for i := range counts {
		want := float64(total) * float64(weights[i]) / float64(sum)
		x += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
	}
	return x
}

// likely is below which chi-square stays with a probability of 0.999, by degrees of freedom (Wilson and Hilferty 1931).
func likely(degrees int) float64 {
	d := float64(degrees)
	return d * math.Pow(1-2/(9*d)+3.09*math.Sqrt(2/(9*d)), 3)
}

// Flows spread over backends as the weights say.
func TestDistribution(t *testing.T) {
	even, uneven := []uint32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []uint32{1, 2, 3, 4, 10, 1, 7, 2, 5, 15}
	for algorithm := api.Service_ALGORITHM_RANDOM; algorithm <= api.Service_ALGORITHM_MAGLEV_BOUNDED; algorithm++ {
		for _, weights := range [][]uint32{even, uneven, {65535, 1}, {3}} {
			expected := weights
			switch algorithm {
			case api.Service_ALGORITHM_ROUND_ROBIN: // which has no weights
				expected = even[:min(len(weights), 2)]
				if len(weights) == 10 {
					expected = even
				}
			case api.Service_ALGORITHM_MAGLEV, api.Service_ALGORITHM_MAGLEV_BOUNDED,
				api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN:
				if weights[0] == 65535 {
					continue // more than a table tells apart
				}
			case api.Service_ALGORITHM_LEAST_CONNECTIONS, api.Service_ALGORITHM_TWO_CHOICES:
				if weights[0] == 65535 {
					continue // two choices of two are both
				}
			}
			t.Run(fmt.Sprintf("%s/%v", algorithm, weights), func(t *testing.T) {
				r := newRig(t, with(algorithm, weights...))
				counts := r.counts(20000, nil)
				x, most := chiSquare(counts, expected[:len(weights)]), likely(max(len(weights)-1, 1))
				if algorithm == api.Service_ALGORITHM_MAGLEV || algorithm == api.Service_ALGORITHM_MAGLEV_BOUNDED {
					most *= 4 // the table's own unevenness comes on top
				}
				if algorithm == api.Service_ALGORITHM_LEAST_CONNECTIONS && len(weights) == 10 && weights[1] == 2 ||
					algorithm == api.Service_ALGORITHM_TWO_CHOICES && len(weights) == 10 && weights[1] == 2 {
					return // by flows that stay: below
				}
				if x > most {
					t.Errorf("%v: chi-square %.1f is above %.1f", counts, x, most)
				}
			})
		}
	}
}

// Turns are exact, one's own for each worker, and begin anywhere.
func TestRoundRobin(t *testing.T) {
	r := newRig(t, with(api.Service_ALGORITHM_ROUND_ROBIN, 1, 1, 1, 1))
	for i, n := range r.counts(400, nil) {
		if n != 100 {
			t.Errorf("backend %d has %d of 400", i, n)
		}
	}
	first := make([]int, 4)
	for worker := range 4000 {
		r.dice.Seed(uint64(2*worker) * 0x9e3779b97f4a7c15)
		c := r.choose(r.to(1, "192.0.2.1", 1))
		first[c.Number-1]++
	}
	if x := chiSquare(first, []uint32{1, 1, 1, 1}); x > likely(3) {
		t.Errorf("workers begin with %v", first)
	}
}

// A round has each backend as often as its weight says, and at no moment more than one turn more or less.
func TestWeightedRoundRobin(t *testing.T) {
	r := newRig(t, with(api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN, 10, 30, 20))
	if counts := r.counts(600, nil); counts[0] != 100 || counts[1] != 300 || counts[2] != 200 {
		t.Errorf("%v", counts)
	}
	schedule := r.table.get(1).cluster.schedule
	if len(schedule) != 6 {
		t.Fatalf("%v", schedule)
	}
	had := make([]float64, 3)
	for i, m := range schedule {
		had[m]++
		for j, w := range []float64{1, 3, 2} {
			if owed := w * float64(i+1) / 6; math.Abs(had[j]-owed) > 1 {
				t.Errorf("after %d turns %d has %v, its share is %.1f: %v", i+1, j, had[j], owed, schedule)
			}
		}
	}
	if s := scheduleOf(r.table.get(1).members, 60); len(s) > 1024 {
		t.Errorf("%d turns", len(s))
	}
	long := newRig(t, with(api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN, 65535, 65534, 1)).table.get(1).cluster.schedule
	if len(long) > 1025 {
		t.Errorf("a round of %d turns", len(long))
	}
}

// Flows that stay are spread by weight to the last one.
func TestLeastConnections(t *testing.T) {
	weights := []uint32{1, 2, 3, 4}
	r := newRig(t, with(api.Service_ALGORITHM_LEAST_CONNECTIONS, weights...))
	for i, n := range r.counts(1000, func(c *Choice) { r.b.Opened(c.Number) }) {
		if want := 100 * int(weights[i]); n < want-1 || n > want+1 {
			t.Errorf("backend %d has %d of 1000, want %d", i, n, want)
		}
	}
	// Of a pool that is larger than what one choice looks at, none is far from the others.
	many := make([]uint32, 200)
	for i := range many {
		many[i] = 1
	}
	r = newRig(t, with(api.Service_ALGORITHM_LEAST_CONNECTIONS, many...))
	for i, n := range r.counts(20000, func(c *Choice) { r.b.Opened(c.Number) }) {
		if n < 97 || n > 103 {
			t.Errorf("backend %d of 200 has %d of 20000", i, n)
		}
	}
}

// Of two choices the one with fewer flows and faster handshakes is taken: with flows that stay the fullest backend is
// only a little above the mean, where with one choice it would be far.
func TestTwoChoices(t *testing.T) {
	even := make([]uint32, 100)
	for i := range even {
		even[i] = 1
	}
	worst := func(algorithm api.Service_Algorithm) (most int) {
		r := newRig(t, with(algorithm, even...))
		for _, n := range r.counts(10000, func(c *Choice) { r.b.Opened(c.Number) }) {
			most = max(most, n)
		}
		return most
	}
	one, two := worst(api.Service_ALGORITHM_RANDOM), worst(api.Service_ALGORITHM_TWO_CHOICES)
	if two > 104 || one < 115 {
		t.Errorf("the fullest of 100 backends has %d of 10000 flows with two choices, %d with one", two, one)
	}
	r := newRig(t, with(api.Service_ALGORITHM_TWO_CHOICES, 1, 1))
	slow, fast := r.table.get(1).members[0].number, r.table.get(1).members[1].number
	times := map[uint32]int64{slow: 30e6, fast: 10e6}
	for range 20 {
		r.b.Answered(slow, times[slow])
		r.b.Answered(fast, times[fast])
	}
	counts := r.counts(1000, func(c *Choice) { r.b.Opened(c.Number); r.b.Answered(c.Number, times[c.Number]) })
	if counts[1] < 700 || counts[1] > 760 { // three times as fast: about three times as many flows
		t.Errorf("the fast one has %d of 1000", counts[1])
	}

	r = newRig(t, with(api.Service_ALGORITHM_TWO_CHOICES, 1, 3))
	counts = r.counts(1000, func(c *Choice) { r.b.Opened(c.Number) })
	if counts[1] < 740 || counts[1] > 760 {
		t.Errorf("who has three of four of the weights has %d of 1000", counts[1])
	}
}

// One handshake that took a second does not keep a backend from ever being asked again.
func TestTwoChoicesForgets(t *testing.T) {
	r := newRig(t, with(api.Service_ALGORITHM_TWO_CHOICES, 1, 1))
	once := r.table.get(1).members[0].number
	r.b.Answered(once, 1e9)
	r.b.Answered(r.table.get(1).members[1].number, 1e5)
	counts := r.counts(20000, func(c *Choice) { r.b.Answered(c.Number, 1e5) })
	if counts[0] < 5000 {
		t.Errorf("it has %d of 20000 flows", counts[0])
	}
}

// A client stays with its backend; where one goes, only its own clients move, and where it returns they return.
func TestSourceHash(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {1, 2, 5}} {
		s := web(1, 10, weights...)
		s.Algorithm = api.Service_ALGORITHM_SOURCE_HASH
		r := newRig(t, s)
		const clients = 5000
		where := func() (list [clients]packet.Addr) {
			for i := range list {
				q := r.to(1, "192.0.2.1", uint16(i))
				q.Src = client(i)
				list[i] = r.choose(q).Backend
				q.SrcPort++
				if again := r.choose(q).Backend; again != list[i] {
					t.Fatalf("client %d went to %s and %s", i, list[i], again)
				}
			}
			return list
		}
		before := where()
		gone := r.table.get(1).members[4].addr
		less := web(1, 10, weights...)
		less.Algorithm = s.Algorithm
		less.Backends = append(less.Backends[:4:4], less.Backends[5:]...)
		r.enter(less)
		for i, to := range where() {
			if (to != before[i]) != (before[i] == gone) {
				t.Fatalf("client %d moved from %s to %s", i, before[i], to)
			}
		}
		r.enter(s)
		if where() != before {
			t.Error("clients did not return")
		}
	}
}
