// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/internal/testenv"
)

// Steps of a talk, as play has them.
const (
	stepSYN   = 0
	stepFIN   = 2
	stepRST   = 3
	stepPlain = 14
)

// TestConnectionsAreJudged: connections that begin and end as they should, over and over between the same ports, come
// out the same, and in the same states, whether the kernel carries all but SYNs and RSTs or the pipeline sees all.
func TestConnectionsAreJudged(t *testing.T) {
	testenv.Root(t)
	for name, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newTwins(t, v6)
			w.genuine = true
			seed := uint64(time.Now().UnixNano())
			r := rand.New(rand.NewPCG(seed, 1))
			t.Log("seed", seed)
			all := talks(0)
			connections := 0
			for connections < 200 {
				w.worker.flows.Ease() // there is to be no pair
				if i := byte(r.IntN(len(all))); all[i].proto == packet.ProtoTCP {
					w.connect(all, i, r)
					connections++
				}
			}
			w.same()
			if w.begun < connections/2 || w.ended < connections {
				t.Errorf("of %d connections %d SYN-ACKs were carried, and %d FINs", connections, w.begun, w.ended)
			}
		})
	}
}

// connect has a talk begin, go on for a while and end.
func (w *twins) connect(all []*talk, i byte, r *rand.Rand) {
	c := all[i]
	c.seq = [2]uint32{c.seq[0] + 1<<20, r.Uint32()}
	c.first, c.acked = c.seq, c.seq
	play := func(back, kind, size byte) {
		w.play(all, step{i, back, kind, size})
		switch r.IntN(64) {
		case 0:
			w.rejudge(r.IntN(2) == 0)
		case 1, 2, 3, 4, 5, 6, 7, 8:
			w.same()
		}
	}
	play(0, stepSYN, 0)
	if r.IntN(8) == 0 {
		play(0, stepSYN, 0)
		c.seq[0] = c.first[0] + 1
	}
	play(1, stepSYN, 0)
	play(0, stepPlain, 0)
	for range r.IntN(6) {
		play(byte(r.IntN(2)), stepPlain, byte(r.IntN(50)))
	}
	first := byte(r.IntN(2))
	if r.IntN(8) == 0 {
		play(first, stepPlain, 0) // the RST has the number that is expected
		play(1-first, stepPlain, 0)
		play(first, stepRST, 0)
		return
	}
	play(first, stepFIN, 0)
	if r.IntN(8) == 0 { // again
		c.seq[first]--
		play(first, stepFIN, 0)
	}
	for range r.IntN(3) {
		play(1-first, stepPlain, byte(r.IntN(50)))
		play(first, stepPlain, 0)
	}
	play(1-first, stepFIN, 0)
	play(first, stepPlain, 0)
	if r.IntN(8) == 0 {
		play(1-first, stepPlain, 0) // the last FIN's sender says something more
	}
}
