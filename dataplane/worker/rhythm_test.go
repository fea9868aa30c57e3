// SPDX-License-Identifier: Apache-2.0

package worker

import "testing"

// How long a worker waits awake behind packets that came with these gaps, where it would wait for 20 µs otherwise.
func TestRhythm(t *testing.T) {
	for _, row := range []struct {
		name        string
		gaps        []int64 // ns, over and over
		least, most int64
	}{
		{"all the time", []int64{2e3}, 20e3, 20e3},
		{"short connections", []int64{250e3}, 480e3, 500e3},
		{"faster ones", []int64{100e3}, 190e3, 210e3},
		{"two packets each", []int64{300e3, 20e3}, 280e3, 380e3},
		{"seldom", []int64{600e3}, 20e3, 20e3},
		{"very seldom", []int64{1e9}, 20e3, 20e3},
	} {
		t.Run(row.name, func(t *testing.T) {
			var r rhythm
			now := int64(1e12)
			for i := range 100 {
				now += row.gaps[i%len(row.gaps)]
				r.saw(now)
			}
			if got := r.spin(20e3); got < row.least || got > row.most {
				t.Errorf("%d ns, want %d to %d", got, row.least, row.most)
			}
			if r.spin(0) != 0 {
				t.Error("who is not to wait awake does")
			}
		})
	}
}
