// SPDX-License-Identifier: Apache-2.0

package service

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Whom the dice are foreseen to fall for is chosen, and they fall as they would have.
func TestForesee(t *testing.T) {
	for algorithm, want := range map[api.Service_Algorithm]int{ // of six
		api.Service_ALGORITHM_RANDOM:      6,
		api.Service_ALGORITHM_ROUND_ROBIN: 4, // whose turn it is nobody knows at first
		api.Service_ALGORITHM_MAGLEV:      2, // who is alone
	} {
		foreseen := 0
		list := []*api.Service{web(1, 10), web(2, 10, 1, 2), web(3, 1), web(4, 0)}
		for _, s := range list {
			s.Algorithm = algorithm
		}
		r, other := newRig(t, list...), newRig(t, list...)
		for range 2 {
			queries := []*Query{r.to(1, "192.0.2.7", 1), r.to(3, "192.0.2.7", 2), r.to(9, "192.0.2.7", 3),
				r.to(2, "192.0.2.7", 4), r.to(4, "192.0.2.7", 5)}
			if algorithm == api.Service_ALGORITHM_ROUND_ROBIN {
				other.dice.turns = r.dice.turns
			}
			guesses := make([]Guess, len(queries))
			for i, q := range queries {
				guesses[i] = Guess{Dst: q.Dst, Port: q.DstPort, Proto: q.Proto}
			}
			r.table.Foresee(guesses, &r.dice)
			for i, q := range queries {
				c, d := r.choose(q), other.choose(q)
				if c.Backend != d.Backend || c.Outcome != d.Outcome {
					t.Errorf("%s: %d: %+v, and %+v if nothing was foreseen", algorithm, i, c, d)
				}
				to, port, known := guesses[i].Target()
				if c.Outcome == NoService {
					if !known || to != q.Dst || port != q.DstPort {
						t.Errorf("%s: %d: it goes where it is sent, and %s %d %v was foreseen", algorithm, i, to, port, known)
					}
				} else if known {
					if foreseen++; to != c.Backend || port != c.Port {
						t.Errorf("%s: %d: %s %d was foreseen, %+v chosen", algorithm, i, to, port, c)
					}
				}
			}
		}
		if foreseen != want {
			t.Errorf("%s: %d were foreseen, want %d", algorithm, foreseen, want)
		}
		allocs := testing.AllocsPerRun(100, func() {
			r.table.Foresee([]Guess{{Dst: addr("172.16.0.1"), Port: 80, Proto: packet.ProtoTCP}}, &r.dice)
		})
		if allocs != 0 {
			t.Errorf("%v allocations", allocs)
		}
	}
	(*Table)(nil).Foresee([]Guess{{}}, new(Dice))
}
