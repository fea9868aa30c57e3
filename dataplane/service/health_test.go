// SPDX-License-Identifier: Apache-2.0

package service

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
)

// frail is a service of which backends are ejected after three failures.
func frail(backends int, algorithm api.Service_Algorithm) *api.Service {
	s := web(1, backends)
	s.EjectionFailures, s.Algorithm = 3, algorithm
	return s
}

// gets is how many of so many flows a backend gets.
func (r *rig) gets(flows, backend int) int {
	r.t.Helper()
	return r.counts(flows, nil)[backend]
}

// The way of a backend that fails, is ejected, tried, ejected for longer, tried and taken back.
func TestEjection(t *testing.T) {
	for algorithm := api.Service_ALGORITHM_RANDOM; algorithm <= api.Service_ALGORITHM_MAGLEV_BOUNDED; algorithm++ {
		t.Run(algorithm.String(), func(t *testing.T) {
			r := newRig(t, frail(4, algorithm))
			n := r.numbers(1)[1]
			if r.gets(400, 1) == 0 {
				t.Fatal("no flows before")
			}
			r.b.Refused(n, r.now)
			r.b.Refused(n, r.now)
			r.b.Answered(n, 0)
			r.b.Refused(n, r.now)
			r.b.Refused(n, r.now)
			if r.gets(400, 1) == 0 {
				t.Error("ejected for failures that are not in a row")
			}
			r.b.Refused(n, r.now)
			for round := int64(1); round <= 3; round++ {
				r.now += round*ejection - 1
				if got := r.gets(400, 1); got != 0 {
					t.Fatalf("round %d: %d flows while it is ejected", round, got)
				}
				r.now++
				if got := r.gets(2000, 1); got != 1 {
					t.Fatalf("round %d: tried by %d flows", round, got)
				}
				r.b.Refused(n, r.now)
			}
			if got := r.b.Totals().Ejections; got != 4 || r.b.Ejected() != 1 {
				t.Errorf("%d ejections, %d are ejected", got, r.b.Ejected())
			}
			r.now += 4 * ejection
			if got := r.gets(2000, 1); got != 1 {
				t.Fatalf("tried by %d flows", got)
			}
			r.now += trial // nothing was heard of the trial
			if got := r.gets(2000, 1); got != 1 {
				t.Fatalf("tried again by %d flows", got)
			}
			r.b.Answered(n, 5)
			if got := r.gets(400, 1); got == 0 || r.b.Ejected() != 0 {
				t.Errorf("it is back and gets %d flows", got)
			}
			if r.table.get(1).Backends()[1].Failed == 0 {
				t.Error("no failures are counted")
			}
		})
	}
}

// Ejection ends at some length.
func TestLongestEjection(t *testing.T) {
	r := newRig(t, frail(4, api.Service_ALGORITHM_RANDOM))
	m := &r.table.get(1).members[0]
	for range 3 {
		r.b.Refused(m.number, r.now)
	}
	for range 50 {
		r.now = m.slot.until.Load()
		r.counts(200, nil)
		r.b.Refused(m.number, r.now)
	}
	if span := m.slot.until.Load() - r.now; span != longest {
		t.Errorf("ejected for %d s", span/second)
	}
}

// No more than half of the backends are ejected, and where their number falls so that more than half are, all are used.
func TestHalfEjected(t *testing.T) {
	r := newRig(t, frail(4, api.Service_ALGORITHM_RANDOM))
	for _, n := range r.numbers(1) {
		for range 5 {
			r.b.Refused(n, r.now)
		}
	}
	if r.b.Ejected() != 2 {
		t.Errorf("%d of 4 are ejected", r.b.Ejected())
	}
	counts := r.counts(400, nil)
	if counts[0] != 0 || counts[1] != 0 || counts[2] == 0 || counts[3] == 0 {
		t.Errorf("%v", counts)
	}
	r.enter(frail(3, api.Service_ALGORITHM_RANDOM))
	for i, n := range r.counts(400, nil) {
		if n == 0 {
			t.Errorf("backend %d of 3, of which 2 failed, gets nothing", i)
		}
	}
	r.enter(frail(1, api.Service_ALGORITHM_RANDOM)) // the one that is left is not well
	if n := r.gets(10, 0); n != 10 {
		t.Errorf("the last one gets %d of 10", n)
	}
	off := frail(4, api.Service_ALGORITHM_RANDOM)
	off.EjectionFailures = 0
	r.enter(off)
	if r.b.Ejected() != 0 {
		t.Error("ejected, when that was turned off")
	}
	for range 100 {
		r.b.Refused(r.numbers(1)[0], r.now)
	}
	if r.gets(400, 0) == 0 {
		t.Error("ejected, where it is off")
	}
}

// A flow that ends unanswered is a failure of who should have answered a handshake, and none of UDP.
func TestUnanswered(t *testing.T) {
	for proto, want := range map[api.Protocol]int{6: 1, 132: 1, 17: 0} {
		s := frail(4, api.Service_ALGORITHM_RANDOM)
		s.Protocol = proto
		r := newRig(t, s)
		n := r.numbers(1)[0]
		for range 5 {
			r.b.Opened(n)
			r.b.Left(n, false)
		}
		if got := r.b.Ejected(); got != want {
			t.Errorf("%s: %d are ejected", proto, got)
		}
		if got := r.table.get(1).Backends()[0]; got.Active != 0 || got.Opened != 5 {
			t.Errorf("%+v", got)
		}
	}
}

// Who goes while it is ejected is not counted as ejected any more.
func TestEjectedGoes(t *testing.T) {
	r := newRig(t, frail(4, api.Service_ALGORITHM_RANDOM))
	for range 3 {
		r.b.Refused(r.numbers(1)[3], r.now)
	}
	r.enter(frail(3, api.Service_ALGORITHM_RANDOM))
	if r.b.Ejected() != 0 {
		t.Errorf("%d are ejected", r.b.Ejected())
	}
}

// What begins no flow tries no backend, and is nobody's affinity.
func TestStray(t *testing.T) {
	s := frail(2, api.Service_ALGORITHM_ROUND_ROBIN)
	s.AffinitySeconds = 60
	r := newRig(t, s)
	for range 3 {
		r.b.Refused(r.numbers(1)[1], r.now)
	}
	r.now += ejection
	for i := range uint16(100) {
		q := r.to(1, "10.9.9.9", 1000+i)
		q.Stray = true
		if c := r.choose(q); c.Outcome != Refused || c.Service == nil {
			t.Fatalf("%+v", c)
		}
	}
	if n, _ := r.b.Affinities(r.now); n != 0 {
		t.Errorf("%d clients are known", n)
	}
	tried := 0
	for i := range uint16(100) {
		q := r.to(1, "10.9.9."+string('0'+rune(i%10)), 1000+i)
		if r.choose(q).Number == r.numbers(1)[1] {
			tried++
		}
	}
	if tried == 0 {
		t.Error("no flow has tried the backend")
	}
}
