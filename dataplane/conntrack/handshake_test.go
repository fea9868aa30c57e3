// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"
)

// TestBegunByKernel: connections whose handshakes and ends the kernel carries come to the states that they have where
// every packet is seen.
func TestBegunByKernel(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range dialogues {
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 64)
				r.early = true
				for line := range strings.Lines(strings.TrimSpace(text)) {
					say, want, _ := strings.Cut(strings.TrimSpace(line), ": ")
					_, outcome := r.send(r.segment(say))
					got := outcome + " " + r.state()
					if strings.HasPrefix(want, "tcp_out_of_window") && (outcome == "carried" || outcome == "known") {
						return // of windows less is known: see carriage.go
					}
					if got != want && strings.Replace(got, "carried", "known", 1) != want {
						t.Fatalf("%s: %s, want %s", say, got, want)
					}
					r.soundCarried()
				}
			})
		}
	})
}
