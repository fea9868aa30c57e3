// SPDX-License-Identifier: Apache-2.0

package service

import (
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// numbers are the service's backends'.
func (r *rig) numbers(id uint32) (list []uint32) {
	for _, m := range r.table.get(id).members {
		list = append(list, m.number)
	}
	return list
}

// A backend's number stays the same while it is there and while it has flows, and is another's only then.
func TestNumbers(t *testing.T) {
	r := newRig(t, web(1, 3))
	was := r.numbers(1)
	r.b.Opened(was[2])
	two := web(1, 2)
	two.Removal = api.Service_REMOVAL_RESET
	r.enter(two)
	if got := r.numbers(1); got[0] != was[0] || got[1] != was[1] {
		t.Errorf("numbers %v became %v", was, got)
	}
	if r.b.Standing(was[2]) != Reset || r.b.Standing(was[0]) != InForce {
		t.Error("standings")
	}
	if gone := r.b.Gone()[1]; len(gone) != 1 || gone[0].Number != was[2] || gone[0].Active != 1 ||
		string(gone[0].Config.Address) != string(podIP(18)) || gone[0].Config.Weight != 0 {
		t.Errorf("gone: %+v", gone)
	}
	r.now += 10 * grace
	r.enter(two, web(2, 1)) // looks for numbers to reclaim; that one has a flow
	if n := r.numbers(2)[0]; n == was[2] {
		t.Error("the number of a backend with flows is another's")
	}
	r.enter(web(1, 3), web(2, 1))
	if got := r.numbers(1); got[2] != was[2] || r.b.Standing(was[2]) != InForce {
		t.Errorf("it came back as %v", got)
	}
	if got := r.b.TotalsOf(r.table.get(1)).Opened; got != 1 {
		t.Errorf("%d flows were opened", got)
	}
	r.enter(two)
	if got := r.b.TotalsOf(r.table.get(1)).Opened; got != 1 {
		t.Errorf("%d flows were opened, when it is gone", got)
	}
	if gone := r.b.Gone()[1]; len(gone) != 1 {
		t.Errorf("it is gone again: %+v", gone)
	}
	r.b.Left(was[2], true)
	if gone := r.b.Gone(); len(gone) != 0 {
		t.Errorf("gone, with flows: %+v", gone)
	}
	r.enter() // all are gone
	for _, n := range was[:2] {
		if r.b.Standing(n) != Reset {
			t.Error("of a service that is gone its last setting holds")
		}
	}
	r.now += 10 * grace
	r.enter()
	if len(r.b.gone) != 0 || len(r.b.numbers) != 0 || len(r.b.groups) != 0 {
		t.Errorf("%d are gone with %d numbers of %d services", len(r.b.gone), len(r.b.numbers), len(r.b.groups))
	}
	if got := r.b.Totals().Opened; got != 1 {
		t.Errorf("%d flows in all", got)
	}
	r.enter(web(3, 4))
	if len(r.b.records) != 5 {
		t.Errorf("numbers are not used again: %d records", len(r.b.records))
	}
}

// Removal by draining, and what was built and never entered.
func TestStandings(t *testing.T) {
	r := newRig(t, web(1, 2))
	n := r.numbers(1)[0]
	aside, err := Build(r.table, snapshot(web(1, 2), web(2, 5)), r.b)
	if err != nil {
		t.Fatal(err)
	}
	if r.b.Standing(aside.get(2).members[0].number) != InForce {
		t.Error("a backend that is about to come is gone")
	}
	r.enter(web(1, 2))
	if len(r.b.numbers) != 2 || len(r.b.pending) != 0 {
		t.Errorf("numbers of tables that never came into force are kept: %v", r.b.numbers)
	}
	r.enter()
	if r.b.Standing(n) != Draining {
		t.Error("not draining")
	}
	for _, none := range []uint32{0, 77777, maxBackends, 1 << 31} {
		r.b.Opened(none)
		r.b.Left(none, false)
		r.b.Answered(none, 1)
		r.b.Refused(none, 1)
		if r.b.Standing(none) != InForce || r.b.Name(none) != "" {
			t.Error("a number that is nobody's")
		}
	}
	if r.b.Name(n) != "default/web-00001" {
		t.Errorf("it is of %q", r.b.Name(n))
	}
}

func TestHandshake(t *testing.T) {
	r := newRig(t, web(1, 1))
	n := r.numbers(1)[0]
	r.b.Answered(n, 0)
	for _, row := range []struct{ after, want int64 }{{8000, 8000}, {16000, 9000}, {1, 7876}, {1 << 40, 1 << 29}} {
		r.b.Answered(n, row.after)
		if got := int64(r.table.get(1).Backends()[0].Handshake); got < row.want-1 || got > row.want+8000 {
			t.Errorf("after %d: %d, want %d", row.after, got, row.want)
		}
	}
}

// A client's flows go to one backend until its time is over, each flow beginning it anew, or until the backend is gone.
func TestAffinity(t *testing.T) {
	s := web(1, 10)
	s.AffinitySeconds = 60
	r := newRig(t, s)
	q := r.to(1, "192.0.2.1", 0)
	first := r.choose(q).Backend
	same := func() bool {
		q.SrcPort++
		q.Now = r.now
		return r.choose(q).Backend == first
	}
	for range 20 {
		if r.now += 50e9; !same() {
			t.Fatal("another backend within the time")
		}
	}
	if n, evictions := r.b.Affinities(r.now); n != 1 || evictions != 0 {
		t.Errorf("%d clients, %d evicted", n, evictions)
	}
	others := 0
	for range 20 {
		if r.now += 61e9; !same() {
			others++
		}
	}
	if others == 0 {
		t.Error("the same backend for ever")
	}
	first = r.choose(q).Backend
	less := web(1, 10)
	less.AffinitySeconds = 60
	for i, b := range less.Backends {
		if a, _ := netip.AddrFromSlice(b.Address); packet.AddrFrom(a) == first {
			less.Backends = append(less.Backends[:i:i], less.Backends[i+1:]...)
			break
		}
	}
	r.enter(less)
	if same() {
		t.Error("to a backend that is gone")
	}
	second := r.choose(q).Backend
	if r.choose(q).Backend != second {
		t.Error("the next one is not kept")
	}
	// Another service of the same client has another memory.
	other := web(2, 10)
	other.AffinitySeconds = 60
	r.enter(less, other)
	if c := r.choose(r.to(2, "192.0.2.1", 1)); c.Service.ID != 2 || c.Outcome != Chosen {
		t.Errorf("%+v", c)
	}
}

// The memory of affinity is bounded: of too many clients those are forgotten whose time is over first.
func TestAffinityBounded(t *testing.T) {
	s := web(1, 2)
	s.AffinitySeconds = 3600
	r := newRig(t, s)
	q := r.to(1, "192.0.2.1", 0)
	const clients = 2 * affinityPlaces * affinityWays
	for i := range clients {
		q.Src = packet.Addr{Hi: 0x20010db8 << 32, Lo: uint64(i)}
		q.Now += 1000
		r.choose(q)
	}
	n, evictions := r.b.Affinities(q.Now)
	if n > affinityPlaces*affinityWays || n < affinityPlaces*affinityWays*9/10 || int(evictions)+n != clients {
		t.Errorf("%d clients are known, %d were evicted", n, evictions)
	}
}

// A newcomer begins with a tenth of its share and has all of it in the end; those that were there first had it at once.
func TestSlowStart(t *testing.T) {
	for _, algorithm := range []api.Service_Algorithm{
		api.Service_ALGORITHM_RANDOM, api.Service_ALGORITHM_ROUND_ROBIN, api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN,
		api.Service_ALGORITHM_TWO_CHOICES,
	} {
		service := func(n int) *api.Service {
			s := web(1, n)
			s.Algorithm, s.SlowStartSeconds = algorithm, 100
			return s
		}
		r := newRig(t, service(4))
		if c := r.counts(4000, nil); chiSquare(c, []uint32{1, 1, 1, 1}) > likely(3) {
			t.Errorf("%s: the first ones: %v", algorithm, c)
		}
		r.enter(service(5))
		for _, step := range []struct {
			after    int64 // seconds
			from, to int   // of 10000 flows; all would be 2000
		}{{0, 180, 320}, {50, 1050, 1350}, {50, 1850, 2150}} {
			r.now += step.after * second
			if n := r.counts(10000, nil)[4]; n < step.from || n > step.to {
				t.Errorf("%s: after %d more seconds it has %d of 10000", algorithm, step.after, n)
			}
		}
	}
	s := web(1, 2)
	s.Algorithm, s.SlowStartSeconds = api.Service_ALGORITHM_LEAST_CONNECTIONS, 100
	r := newRig(t, s)
	more := web(1, 3)
	more.Algorithm, more.SlowStartSeconds = s.Algorithm, 100
	r.enter(more)
	if n := r.counts(2100, func(c *Choice) { r.b.Opened(c.Number) })[2]; n < 90 || n > 110 { // 0.1 of 2.1
		t.Errorf("least connections: it has %d of 2100", n)
	}
}
