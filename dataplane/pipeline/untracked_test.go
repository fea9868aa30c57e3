// SPDX-License-Identifier: Apache-2.0

package pipeline

import "testing"

// TestGlimpses: of flows whose packets come in turns, all are seen twice before long, also where they share a set and
// are more than it holds. One that was seen twice is not told of again before 256 packets more.
func TestGlimpses(t *testing.T) {
	for _, flows := range []uint32{1, 2, 4, 5, 9} {
		g := glimpses{sets: make([][4]uint32, glimpsed)}
		hashOf := func(n uint32) uint32 { return (n+1)<<16 | 77 } // all in one set
		told := make(map[uint32]bool)
		for range 100 { // rounds, in which the others, that others told of before, do not come
			for n := range flows {
				if told[n] {
					continue
				}
				told[n] = g.again(hashOf(n))
			}
		}
		for n := range flows {
			if !told[n] {
				t.Errorf("of %d flows the %d. was not seen twice", flows, n)
			}
		}
	}
	g := glimpses{sets: make([][4]uint32, glimpsed)}
	var times []int
	for n := range 600 {
		if g.again(0x12345678) {
			times = append(times, n)
		}
	}
	if len(times) != 3 || times[0] != 1 || times[1] != 257 || times[2] != 513 {
		t.Errorf("told of with packets %v", times)
	}
}
