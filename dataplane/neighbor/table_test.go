// SPDX-License-Identifier: Apache-2.0

package neighbor

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

var (
	mac1  = packet.MAC{2, 0, 0, 0, 0, 1}
	mac2  = packet.MAC{2, 0, 0, 0, 0, 2}
	addr1 = packet.Addr4(0x0a000001)
	addr6 = packet.Addr{Hi: 0xfe80 << 48, Lo: 1}
)

// rig is a table with a clock that the test turns, and a list of what was solicited.
type rig struct {
	*Table
	now  int64
	sent []sent
}

type sent struct {
	at      int64
	addr    packet.Addr
	mac     packet.MAC
	unicast bool
}

func newRig(cfg Config) *rig { return &rig{Table: NewTable(cfg), now: 1000 * sec} }

// pass lets time go by in steps of 100 ms.
func (r *rig) pass(d int64) {
	for end := r.now + d; r.now < end; {
		r.now += 100 * ms
		r.Advance(r.now, func(e *Entry, mac packet.MAC, unicast bool) {
			r.sent = append(r.sent, sent{r.now, e.Addr, mac, unicast})
		})
	}
}

func (r *rig) take() (n int) {
	n = len(r.sent)
	r.sent = nil
	return n
}

func (r *rig) want(t *testing.T, e *Entry, s State) {
	t.Helper()
	if e.State() != s {
		t.Fatalf("state is %s, want %s", e.State(), s)
	}
}

// Both families, since the machine is one: the same tests run on both.
func both(t *testing.T, f func(t *testing.T, addr packet.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, addr1) })
	t.Run("IPv6", func(t *testing.T) { f(t, addr6) })
}

func TestResolution(t *testing.T) {
	both(t, func(t *testing.T, addr packet.Addr) {
		r := newRig(Config{})
		e, solicit := r.Resolve(1, addr, r.now)
		if e == nil || !solicit {
			t.Fatalf("first: %v, %t", e, solicit)
		}
		if same, again := r.Resolve(1, addr, r.now); same != e || again {
			t.Fatalf("second caller is told to solicit: %t", again)
		}
		if r.Lookup(1, addr) != e || r.Lookup(2, addr) != nil {
			t.Fatal("lookup does not find the entry at its port only")
		}
		if _, ok := e.MAC(); ok {
			t.Fatal("incomplete entry is usable")
		}
		g := r.Generation()
		if !r.Learn(1, addr, mac1, SolicitedOverride, r.now) {
			t.Fatal("the answer changed nothing")
		}
		if mac, ok := e.MAC(); mac != mac1 || !ok {
			t.Fatalf("MAC is %s, %t", mac, ok)
		}
		if r.Generation() == g {
			t.Error("nobody is told that the entry is usable")
		}
		r.want(t, e, Reachable)
	})
}

func TestUnansweredResolutionFails(t *testing.T) {
	r := newRig(Config{})
	e, _ := r.Resolve(1, addr1, r.now) // the caller sends the first solicitation
	start := r.now
	r.pass(2500 * ms)
	r.want(t, e, Incomplete)
	if len(r.sent) != 2 || r.sent[0].at != start+sec || r.sent[1].at != start+2*sec || r.sent[0].unicast {
		t.Fatalf("sent %+v, want two multicasts a second apart", r.sent)
	}
	g := r.Generation()
	r.pass(500 * ms)
	if !e.Failed() || r.Generation() == g {
		t.Fatalf("state %s, generation moved: %t", e.State(), r.Generation() != g)
	}
	if _, solicit := r.Resolve(1, addr1, r.now); solicit {
		t.Error("a failed neighbour is solicited for each packet")
	}
}

// A failed neighbour that is asked for all the time is solicited with growing pauses, and recovers.
func TestFailedNeighbourBacksOff(t *testing.T) {
	r := newRig(Config{})
	e, _ := r.Resolve(1, addr1, r.now)
	r.pass(3 * sec)
	r.take()
	start := r.now
	for r.now < start+60*sec {
		e.MAC()
		r.pass(100 * ms)
	}
	var pauses []int64
	for i, at := 0, start; i < len(r.sent); i++ {
		pauses = append(pauses, (r.sent[i].at-at)/sec)
		at = r.sent[i].at
	}
	want := []int64{1, 2, 4, 8, 8, 8, 8, 8, 8}
	if len(pauses) != len(want) {
		t.Fatalf("pauses %v, want %v", pauses, want)
	}
	for i := range want {
		if pauses[i] != want[i] {
			t.Fatalf("pauses %v, want %v", pauses, want)
		}
	}
	if !e.Failed() {
		t.Fatalf("state %s while unanswered", e.State())
	}
	r.Learn(1, addr1, mac1, SolicitedOverride, r.now)
	r.want(t, e, Reachable)
}

func TestFailedNeighbourIsForgotten(t *testing.T) {
	r := newRig(Config{})
	r.Resolve(1, addr1, r.now)
	r.pass(6 * sec)
	if r.Lookup(1, addr1) != nil || len(r.All(r.now)) != 0 {
		t.Error("a failed neighbour that nobody asks for is still there")
	}
	if e, solicit := r.Resolve(1, addr1, r.now); e == nil || !solicit {
		t.Error("it is not resolved afresh")
	}
}

// RFC 4861 7.3.2: reachable, stale, and when used delay, probe, and reachable again.
func TestUnreachabilityDetection(t *testing.T) {
	both(t, func(t *testing.T, addr packet.Addr) {
		r := newRig(Config{})
		e, _ := r.Resolve(1, addr, r.now)
		r.Learn(1, addr, mac1, SolicitedOverride, r.now)
		r.pass(31 * sec)
		r.want(t, e, Stale)
		r.pass(20 * sec)
		r.want(t, e, Stale)
		if r.take() != 0 {
			t.Fatal("an unused entry is probed")
		}
		e.MAC()
		r.pass(200 * ms)
		r.want(t, e, Delay)
		r.pass(5 * sec)
		r.want(t, e, Probe)
		if len(r.sent) != 1 || !r.sent[0].unicast || r.sent[0].mac != mac1 {
			t.Fatalf("sent %+v, want one unicast probe", r.sent)
		}
		if _, ok := e.MAC(); !ok {
			t.Fatal("not usable while probed")
		}
		r.Confirm(1, addr, r.now)
		r.want(t, e, Reachable)
	})
}

// After its unicast probes an entry in use is resolved from the start, by multicast; one that is not is forgotten.
func TestUnansweredProbes(t *testing.T) {
	for _, inUse := range []bool{true, false} {
		r := newRig(Config{})
		r.Learn(1, addr1, mac1, RequestSeen, r.now)
		e := r.Lookup(1, addr1)
		r.want(t, e, Stale)
		e.MAC()
		r.pass(5200 * ms)
		r.want(t, e, Probe)
		for range 30 {
			if inUse {
				e.MAC()
			}
			r.pass(100 * ms)
		}
		if !inUse {
			if r.Lookup(1, addr1) != nil {
				t.Error("an unused entry survives unanswered probes")
			}
			continue
		}
		r.want(t, e, Incomplete)
		if n := len(r.sent); n != 4 || r.sent[3].unicast || !r.sent[2].unicast {
			t.Errorf("sent %+v, want three unicasts and a multicast", r.sent)
		}
		r.Learn(1, addr1, mac2, SolicitedOverride, r.now)
		if mac, ok := e.MAC(); mac != mac2 || !ok {
			t.Errorf("MAC %s %t after the neighbour moved", mac, ok)
		}
	}
}

func TestStaleEntriesExpire(t *testing.T) {
	r := newRig(Config{StaleTime: time.Minute})
	r.Learn(1, addr1, mac1, RequestSeen, r.now)
	r.pass(59 * sec)
	if r.Lookup(1, addr1) == nil {
		t.Fatal("forgotten too early")
	}
	r.pass(2 * sec)
	if r.Lookup(1, addr1) != nil {
		t.Fatal("not forgotten")
	}
}

// The table of RFC 4861 7.2.5 (advertisements), 7.2.3 (solicitations), and RFC 826's rules, which are the same.
func TestLearning(t *testing.T) {
	const none = State(99)
	rows := []struct {
		name    string
		before  State // with mac1 where the state has a MAC
		how     How
		mac     packet.MAC
		after   State
		hasMAC  packet.MAC
		changed bool
	}{
		{"advertisement for nobody", none, SolicitedOverride, mac1, none, packet.MAC{}, false},
		{"gratuitous ARP for nobody", none, UnsolicitedOverride, mac1, none, packet.MAC{}, false},
		{"request creates", none, RequestSeen, mac1, Stale, mac1, true},
		{"group MAC", none, RequestSeen, packet.MAC{1, 0, 0, 0, 0, 1}, none, packet.MAC{}, false},
		{"zero MAC", Incomplete, SolicitedOverride, packet.MAC{}, Incomplete, packet.MAC{}, false},

		{"incomplete, solicited", Incomplete, SolicitedReply, mac2, Reachable, mac2, true},
		{"incomplete, unsolicited", Incomplete, Unsolicited, mac2, Stale, mac2, true},
		{"incomplete, request", Incomplete, RequestSeen, mac2, Stale, mac2, true},

		{"reachable, other MAC, no override", Reachable, SolicitedReply, mac2, Stale, mac1, false},
		{"reachable, other MAC, no flags", Reachable, Unsolicited, mac2, Stale, mac1, false},
		{"stale, other MAC, no override", Stale, SolicitedReply, mac2, Stale, mac1, false},
		{"probe, other MAC, no override", Probe, SolicitedReply, mac2, Probe, mac1, false},
		{"reachable, same MAC, no flags", Reachable, Unsolicited, mac1, Reachable, mac1, false},
		{"stale, same MAC, solicited", Stale, SolicitedReply, mac1, Reachable, mac1, false},
		{"probe, same MAC, solicited", Probe, SolicitedReply, mac1, Reachable, mac1, false},
		{"probe, same MAC, override", Probe, UnsolicitedOverride, mac1, Probe, mac1, false},
		{"reachable, other MAC, override", Reachable, UnsolicitedOverride, mac2, Stale, mac2, true},
		{"reachable, other MAC, both", Reachable, SolicitedOverride, mac2, Reachable, mac2, true},
		{"stale, other MAC, request", Stale, RequestSeen, mac2, Stale, mac2, true},
		{"reachable, same MAC, request", Reachable, RequestSeen, mac1, Reachable, mac1, false},
		{"permanent", Permanent, SolicitedOverride, mac2, Permanent, mac1, false},
		{"failed, request", Failed, RequestSeen, mac2, Stale, mac2, true},
	}
	for _, row := range rows {
		both(t, func(t *testing.T, addr packet.Addr) {
			r := newRig(Config{})
			r.prepare(t, addr, row.before)
			if row.before == none {
				r.DropPort(1)
			}
			if got := r.Learn(1, addr, row.mac, row.how, r.now); got != row.changed {
				t.Errorf("%s: changed is %t", row.name, got)
			}
			e := r.Lookup(1, addr)
			if (e == nil) != (row.after == none) {
				t.Fatalf("%s: entry %v", row.name, e)
			}
			if e == nil {
				return
			}
			if mac, _ := e.MAC(); e.State() != row.after || mac != row.hasMAC {
				t.Errorf("%s: %s %s, want %s %s", row.name, e.State(), mac, row.after, row.hasMAC)
			}
		})
	}
}

// prepare brings an entry with mac1 into a state, by the way that leads there.
func (r *rig) prepare(t *testing.T, addr packet.Addr, s State) {
	t.Helper()
	switch s {
	case Incomplete:
		r.Resolve(1, addr, r.now)
	case Failed:
		r.Resolve(1, addr, r.now)
		r.pass(3 * sec)
	case Reachable:
		r.Resolve(1, addr, r.now)
		r.Learn(1, addr, mac1, SolicitedOverride, r.now)
	case Stale:
		r.Learn(1, addr, mac1, RequestSeen, r.now)
	case Probe:
		r.Learn(1, addr, mac1, RequestSeen, r.now)
		r.Lookup(1, addr).MAC()
		r.pass(5200 * ms)
	case Permanent:
		r.SetPermanent(1, addr, mac1)
	default:
		return
	}
	r.want(t, r.Lookup(1, addr), s)
}

func TestPinnedEntriesStay(t *testing.T) {
	r := newRig(Config{Limit: 4, PerPortLimit: 4})
	e := r.Pin(1, addr1)
	r.want(t, e, Unresolved)
	if same, solicit := r.Resolve(1, addr1, r.now); same != e || !solicit {
		t.Fatal("a pinned entry is not resolved when asked for")
	}
	r.pass(20 * sec)
	r.want(t, e, Unresolved) // failed, not asked for, ready to be asked for again
	for i := range 20 {
		r.Learn(1, packet.Addr4(uint32(100+i)), mac2, RequestSeen, r.now)
	}
	r.DropPort(1)
	if r.Lookup(1, addr1) != e {
		t.Fatal("a pinned entry is gone")
	}
	if r.Pin(1, addr1) != e {
		t.Fatal("pinned twice, found twice")
	}
	r.Unpin(e)
	if r.Lookup(1, addr1) != e {
		t.Fatal("gone with one of two pins")
	}
	r.Unpin(e)
	r.Unpin(e) // one too many does nothing
	if r.Lookup(1, addr1) != nil || !e.Failed() {
		t.Fatal("still there without a pin, or not failed for who holds it")
	}
}

func TestPermanentEntries(t *testing.T) {
	r := newRig(Config{})
	if r.SetPermanent(1, addr1, packet.MAC{0xff}) {
		t.Error("a group MAC was taken")
	}
	r.ReplacePermanent([]Static{{1, addr1, mac1}, {1, addr6, mac2}})
	e := r.Lookup(1, addr1)
	r.pass(2000 * sec)
	r.DropPort(1)
	if mac, ok := e.MAC(); mac != mac1 || !ok {
		t.Fatalf("MAC %s %t after a long time", mac, ok)
	}
	r.ReplacePermanent([]Static{{1, addr1, mac2}})
	if mac, _ := e.MAC(); mac != mac2 || r.Lookup(1, addr6) != nil {
		t.Errorf("MAC %s, the other %v", mac, r.Lookup(1, addr6))
	}
	r.ReplacePermanent(nil)
	if n := len(r.All(r.now)); n != 0 || r.pinned != 0 {
		t.Errorf("%d entries, %d pinned without permanent ones", n, r.pinned)
	}
	pinned := r.Pin(1, addr1)
	r.SetPermanent(1, addr1, mac1)
	r.UnsetPermanent(1, addr1)
	r.want(t, pinned, Unresolved)
}

// One port cannot take the table from the others, nor a crowd the place of an entry in use.
func TestLimits(t *testing.T) {
	r := newRig(Config{Limit: 100, PerPortLimit: 40})
	used := packet.Addr4(7)
	r.Learn(1, used, mac1, RequestSeen, r.now)
	for i := range 1000 {
		r.now += ms
		r.Lookup(1, used).MAC()
		r.Learn(1, packet.Addr4(uint32(1000+i)), mac2, RequestSeen, r.now)
	}
	if n := len(r.All(r.now)); n != 40 {
		t.Errorf("port 1 has %d entries, want 40", n)
	}
	if r.Lookup(1, used) == nil {
		t.Error("the entry in use was evicted for unused ones")
	}
	for port := packet.PortID(2); port < 10; port++ {
		if !r.Learn(port, addr1, mac1, RequestSeen, r.now) {
			t.Errorf("no room for port %d", port)
		}
	}
	if s := r.Statistics(); s.Evicted != 961 || s.Entries != 48 {
		t.Errorf("%+v", s)
	}
}

func TestFullTableRefuses(t *testing.T) {
	r := newRig(Config{Limit: 8, PerPortLimit: 8})
	for i := range 8 {
		if e, _ := r.Resolve(1, packet.Addr4(uint32(i+1)), r.now); e == nil {
			t.Fatalf("no room for entry %d", i)
		}
	}
	if e, solicit := r.Resolve(1, packet.Addr4(100), r.now); e != nil || solicit {
		t.Fatal("made room at the cost of entries being resolved")
	}
	if r.Statistics().Full != 1 {
		t.Errorf("%+v", r.Statistics())
	}
	r.pass(3 * sec) // they fail, and may go
	if e, _ := r.Resolve(1, packet.Addr4(100), r.now); e == nil {
		t.Error("failed entries were not evicted")
	}
}

// A scan of an empty /16 at a million packets a second: neither memory nor the link is flooded, and another port does
// not notice.
func TestScanIsHarmless(t *testing.T) {
	r := newRig(Config{})
	asked, most := 0, 0
	for tick := range 100 { // 10 s
		for i := range 2000 {
			if _, solicit := r.Resolve(1, packet.Addr4(0x0a010000+uint32(tick*2000+i)&0xffff), r.now); solicit {
				asked++
			}
		}
		r.pass(100 * ms)
		most = max(most, r.Statistics().Entries)
		if e, solicit := r.Resolve(2, packet.Addr4(0x0b000000+uint32(tick)), r.now); e == nil || !solicit {
			t.Fatal("another port is not served")
		}
	}
	for _, s := range r.sent {
		if uint32(s.addr.Lo)>>24 == 0x0a {
			asked++
		}
	}
	if asked > 10*1000+500 {
		t.Errorf("%d solicitations in 10 s, allowed are 1000 a second", asked)
	}
	if most > 16384+200 {
		t.Errorf("%d entries", most)
	}
	if r.Statistics().Throttled == 0 {
		t.Error("nothing was counted as withheld")
	}
}

// A next hop that is asked for while the allowance is used up is asked later, by itself.
func TestThrottledPinnedEntryIsAskedLater(t *testing.T) {
	r := newRig(Config{PerPortSolicitRate: 4})
	e := r.Pin(1, addr1)
	for i := range 10 {
		r.Resolve(1, packet.Addr4(uint32(1000+i)), r.now)
	}
	if _, solicit := r.Resolve(1, addr1, r.now); solicit {
		t.Fatal("solicited over the limit")
	}
	r.pass(sec)
	found := false
	for _, s := range r.sent {
		found = found || s.addr == addr1
	}
	if !found {
		t.Errorf("never asked: %+v, state %s", r.sent, e.State())
	}
}

func TestAdvanceIsBounded(t *testing.T) {
	r := newRig(Config{})
	for i := range 5000 {
		r.Learn(1, packet.Addr4(uint32(i+1)), mac1, RequestSeen, r.now)
		r.Lookup(1, packet.Addr4(uint32(i+1))).MAC()
	}
	r.pass(200 * ms) // all are in Delay
	r.now += 5 * sec
	n := 0
	r.Advance(r.now, func(*Entry, packet.MAC, bool) { n++ })
	if n != advanceTimers {
		t.Errorf("one call fired %d timers, want %d", n, advanceTimers)
	}
	r.pass(900 * ms)
	if n += len(r.sent); n < 5000 {
		t.Errorf("%d of 5000 probes after the calls that follow", n)
	}
}

// solicit may use the table: it runs without its lock.
func TestSolicitMayCallBack(t *testing.T) {
	r := newRig(Config{})
	r.Resolve(1, addr1, r.now)
	called := false
	r.Advance(r.now+sec, func(e *Entry, _ packet.MAC, _ bool) {
		called = true
		r.Learn(e.Port, e.Addr, mac1, SolicitedOverride, r.now+sec)
	})
	if !called {
		t.Error("not called")
	}
}

func TestAll(t *testing.T) {
	r := newRig(Config{})
	e, _ := r.Resolve(3, addr1, r.now)
	r.Learn(3, addr1, mac1, SolicitedOverride, r.now)
	r.pass(200 * ms)
	r.pass(2 * sec)
	r.Pin(3, addr1)
	all := r.All(r.now)
	want := Info{Port: 3, Addr: addr1, MAC: mac1, State: Reachable, Age: 2200 * time.Millisecond,
		Idle: 2100 * time.Millisecond, Pinned: true}
	if len(all) != 1 || all[0] != want {
		t.Errorf("%+v, want %+v", all, want)
	}
	e.MAC()
	if all = r.All(r.now); all[0].Idle != 0 {
		t.Errorf("idle for %s while in use", all[0].Idle)
	}
}

// Whatever happens in whatever order, the table's books agree with each other and its bounds hold.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(Config{Limit: 6, PerPortLimit: 4, StaleTime: 20 * time.Second, SolicitRate: 40, PerPortSolicitRate: 20})
		pins := []*Entry{}
		port := rapid.Uint32Range(1, 3)
		addr := rapid.Uint32Range(1, 6)
		one := func() (packet.PortID, packet.Addr) {
			return packet.PortID(port.Draw(t, "port")), packet.Addr4(addr.Draw(t, "addr"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"resolve": func(*rapid.T) { p, a := one(); r.Resolve(p, a, r.now) },
			"learn": func(*rapid.T) {
				p, a := one()
				r.Learn(p, a, rapid.SampledFrom([]packet.MAC{mac1, mac2, {}, {1}}).Draw(t, "mac"),
					How(rapid.IntRange(0, 7).Draw(t, "how")), r.now)
			},
			"use": func(*rapid.T) {
				if e := r.Lookup(one()); e != nil {
					e.MAC()
				}
			},
			"pin": func(*rapid.T) { pins = append(pins, r.Pin(one())) },
			"unpin": func(*rapid.T) {
				if len(pins) > 0 {
					r.Unpin(pins[0])
					pins = pins[1:]
				}
			},
			"permanent":   func(*rapid.T) { p, a := one(); r.SetPermanent(p, a, mac1) },
			"unpermanent": func(*rapid.T) { r.UnsetPermanent(one()) },
			"drop":        func(*rapid.T) { p, _ := one(); r.DropPort(p) },
			"pass":        func(*rapid.T) { r.pass(rapid.Int64Range(1, 200).Draw(t, "steps") * 100 * ms) },
			"":            func(t *rapid.T) { invariants(t, r, pins) },
		})
	})
}

func invariants(t *rapid.T, r *rig, pins []*Entry) {
	pinned, chained := 0, 0
	for i, e := range r.entries {
		if e.slot != i || e.port != r.ports[e.Port] || e.port.entries[e.portSlot] != e || r.Lookup(e.Port, e.Addr) != e {
			t.Fatalf("entry %d is not where it says", i)
		}
		if e.pins > 0 {
			pinned++
		}
		timed := e.State() != Unresolved && e.State() != Permanent
		if timed != (e.timer >= 0) || timed && r.timers[e.timer] != e {
			t.Fatalf("entry in state %s has timer %d", e.State(), e.timer)
		}
		if e.State() == Unresolved && e.pins == 0 {
			t.Fatal("an unresolved entry that nobody pins")
		}
		if mac := e.mac(); e.State().Usable() != unicast(mac) {
			t.Fatalf("state %s with MAC %s", e.State(), mac)
		}
	}
	for i := range r.buckets {
		for e := r.buckets[i].Load(); e != nil; e = e.next.Load() {
			chained++
		}
	}
	if pinned != r.pinned || chained != len(r.entries) || len(r.entries)-pinned > 6+len(pins) {
		t.Fatalf("%d pinned of %d noted, %d chained of %d", pinned, r.pinned, chained, len(r.entries))
	}
	for _, e := range pins {
		if r.Lookup(e.Port, e.Addr) != e {
			t.Fatal("a pinned entry is gone")
		}
	}
}

// Readers see whole entries only, while others come and go around them.
func TestConcurrentReaders(t *testing.T) {
	table := NewTable(Config{Limit: 256, PerPortLimit: 64})
	keep := table.Pin(9, addr1)
	table.Learn(9, addr1, mac1, UnsolicitedOverride, 1)
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := uint32(0); !done.Load(); i++ {
				if e := table.Lookup(9, addr1); e != keep {
					t.Error("a pinned entry was not found")
					return
				}
				e := table.Lookup(packet.PortID(i%4), packet.Addr4(i%512))
				if e == nil {
					continue
				}
				if mac, ok := e.MAC(); ok && mac != mac1 && mac != mac2 {
					t.Errorf("torn MAC %s", mac)
					return
				}
			}
		})
	}
	now := sec
	for i := range uint32(20000) {
		now += ms
		port, addr := packet.PortID(i%4), packet.Addr4(i*7%512)
		table.Learn(port, addr, [2]packet.MAC{mac1, mac2}[i%2], RequestSeen, now)
		if i%50 == 0 {
			table.Advance(now, func(*Entry, packet.MAC, bool) {})
		}
		if i%1000 == 0 {
			table.DropPort(port)
		}
	}
	done.Store(true)
	readers.Wait()
}

// Of many that ask at once, one is told to send.
func TestOneSolicits(t *testing.T) {
	table := NewTable(Config{})
	var told atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, solicit := table.Resolve(1, addr1, sec); solicit {
				told.Add(1)
			}
		})
	}
	all.Wait()
	if told.Load() != 1 {
		t.Errorf("%d were told to solicit", told.Load())
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	r := newRig(Config{})
	r.Learn(1, addr1, mac1, RequestSeen, r.now)
	nothing := func(*Entry, packet.MAC, bool) {}
	if n := testing.AllocsPerRun(100, func() {
		r.Lookup(1, addr1).MAC()
		r.Resolve(1, addr1, r.now)
		r.Learn(1, addr1, mac1, SolicitedOverride, r.now)
		r.now += 100 * ms
		r.Advance(r.now, nothing)
	}); n != 0 {
		t.Errorf("%.1f allocations", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		table := NewTable(Config{PerPortLimit: 65536})
		addrs := make([]packet.Addr, n)
		for i := range addrs {
			addrs[i] = packet.Addr4(0x0a000000 + uint32(i))
			table.Learn(1, addrs[i], mac1, RequestSeen, sec)
		}
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			usable, j := 0, 0
			for range b.N {
				if j++; j == n {
					j = 0
				}
				if _, ok := table.Lookup(1, addrs[j]).MAC(); ok {
					usable++
				}
			}
			if usable != b.N {
				b.Fatal("not all found")
			}
		})
	}
}

func BenchmarkMAC(b *testing.B) {
	table := NewTable(Config{})
	table.SetPermanent(1, addr1, mac1)
	e := table.Lookup(1, addr1)
	for range b.N {
		if mac, ok := e.MAC(); !ok || mac != mac1 {
			b.Fatal("not found")
		}
	}
}

func BenchmarkAdvance(b *testing.B) {
	r := newRig(Config{PerPortLimit: 65536})
	for i := range 60000 {
		r.Learn(1, packet.Addr4(uint32(i+1)), mac1, RequestSeen, r.now)
	}
	for range b.N {
		r.Advance(r.now, func(*Entry, packet.MAC, bool) {})
	}
}
