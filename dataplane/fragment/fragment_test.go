// SPDX-License-Identifier: Apache-2.0

package fragment

import (
	"fmt"
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// The rows' reasons, short.
const (
	on   = verdict.None
	no   = verdict.EgressDenied
	lap  = verdict.FragmentOverlap
	stay = verdict.WaitingForFragment
	late = verdict.FragmentTimeout
	full = verdict.FragmentQueueFull
)

var (
	a    = piece{0, 16, true}
	b    = piece{16, 32, true}
	c    = piece{32, 48, true}
	last = piece{48, 51, false}
)

var rows = []struct {
	name   string
	first  verdict.Reason
	pieces []piece
	want   []pass // in the order of what happens
	left   int    // datagrams that are still known
}{
	{"in order", on, []piece{a, b, c, last}, []pass{{1, on}, {2, on}, {3, on}, {4, on}}, 0},
	{"in order, denied", no, []piece{a, b, c, last}, []pass{{1, no}, {2, no}, {3, no}, {4, no}}, 0},
	{"the last missing", on, []piece{a, b, c}, []pass{{1, on}, {2, on}, {3, on}}, 1},
	{"one missing", on, []piece{a, c, last}, []pass{{1, on}, {2, on}, {3, on}}, 1},
	{"backwards", on, []piece{last, c, b, a},
		[]pass{{1, stay}, {2, stay}, {3, stay}, {4, on}, {1, on}, {2, on}, {3, on}}, 0},
	{"backwards, denied", no, []piece{last, c, b, a},
		[]pass{{1, stay}, {2, stay}, {3, stay}, {4, no}, {1, no}, {2, no}, {3, no}}, 0},
	{"the first second", on, []piece{b, a, c, last}, []pass{{1, stay}, {2, on}, {1, on}, {3, on}, {4, on}}, 0},
	{"the next datagram of the same identification", on, []piece{a, {16, 24, false}, a, b},
		[]pass{{1, on}, {2, on}, {3, on}, {4, on}}, 1},
	{"late duplicate", on, []piece{a, {16, 24, false}, {16, 24, false}}, []pass{{1, on}, {2, on}, {3, stay}}, 1},

	{"duplicate", on, []piece{a, b, b, c}, []pass{{1, on}, {2, on}, {3, lap}, {4, on}}, 1},
	{"duplicate first", on, []piece{a, a, b}, []pass{{1, on}, {2, lap}, {3, on}}, 1},
	{"within what came", on, []piece{a, b, {8, 24, true}, c}, []pass{{1, on}, {2, on}, {3, lap}, {4, on}}, 1},
	{"duplicate last", on, []piece{a, last, last, c}, []pass{{1, on}, {2, on}, {3, lap}, {4, on}}, 1},
	{"duplicate that waits", on, []piece{b, b, a}, []pass{{1, stay}, {2, lap}, {3, on}, {1, on}}, 1},

	{"overlap from the left", on, []piece{a, c, {24, 40, true}, b},
		[]pass{{1, on}, {2, on}, {3, lap}, {4, lap}}, 1},
	{"overlap from the right", on, []piece{a, {8, 32, true}, c}, []pass{{1, on}, {2, lap}, {3, lap}}, 1},
	{"over the first's header", on, []piece{a, {8, 24, true}, {16, 24, false}},
		[]pass{{1, on}, {2, lap}, {3, lap}}, 1},
	{"around another", on, []piece{a, {24, 32, true}, {16, 40, true}}, []pass{{1, on}, {2, on}, {3, lap}}, 1},
	{"around two runs", on, []piece{a, {24, 32, true}, {40, 48, true}, {24, 48, true}},
		[]pass{{1, on}, {2, on}, {3, on}, {4, lap}}, 1},
	{"overlap while waiting", on, []piece{c, b, {24, 40, true}, {24, 56, true}, a},
		[]pass{{1, stay}, {2, stay}, {3, lap}, {4, lap}, {1, lap}, {2, lap}, {5, lap}}, 1},
	{"a first over one that waits", on, []piece{b, {0, 24, true}, c}, []pass{{1, stay}, {2, lap}, {1, lap}, {3, lap}}, 1},
	{"a longer first", on, []piece{a, {0, 24, true}, b}, []pass{{1, on}, {2, lap}, {3, lap}}, 1},
	{"overlap, denied", no, []piece{a, {8, 32, true}, c}, []pass{{1, no}, {2, lap}, {3, lap}}, 1},

	{"another last behind", on, []piece{a, last, {56, 60, false}, b}, []pass{{1, on}, {2, on}, {3, lap}, {4, lap}}, 1},
	{"another last in front", on, []piece{a, last, {32, 36, false}, b}, []pass{{1, on}, {2, on}, {3, lap}, {4, lap}}, 1},
	{"a last of another length", on, []piece{a, last, {48, 50, false}}, []pass{{1, on}, {2, on}, {3, lap}}, 1},
	{"data behind the last", on, []piece{a, last, {56, 64, true}, b}, []pass{{1, on}, {2, on}, {3, lap}, {4, lap}}, 1},
	{"the last in front of data", on, []piece{a, c, {16, 24, false}, b}, []pass{{1, on}, {2, on}, {3, lap}, {4, lap}}, 1},
	{"a last that was not", on, []piece{a, c, {32, 48, false}}, []pass{{1, on}, {2, on}, {3, lap}}, 1},
	{"an empty last", on, []piece{a, b, {32, 32, false}}, []pass{{1, on}, {2, on}, {3, on}}, 0},
	{"an empty last, twice", on, []piece{a, {32, 32, false}, {32, 32, false}, b},
		[]pass{{1, on}, {2, on}, {3, lap}, {4, on}}, 0},
}

func TestOrders(t *testing.T) {
	for _, row := range rows {
		for _, v6 := range []bool{false, true} {
			r := newRig(t, limits{})
			r.verdict = row.first
			var got []pass
			for _, a := range row.pieces {
				got = append(got, r.enter(craft(t, v6, 1, 7, a))...)
				r.check()
			}
			if !slices.Equal(got, row.want) || r.inUse != row.left {
				t.Errorf("%s, IPv6 %v: %v, want %v; %d are left", row.name, v6, got, row.want, r.inUse)
			}
		}
	}
}

// Datagrams are told apart by all that a receiver tells them apart by, and by the port.
func TestDatagramsAreApart(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		r := newRig(t, limits{})
		r.enter(craft(t, v6, 1, 7, a))
		other := craft(t, v6, 1, 7, b)
		other.In = 2
		if got := r.enter(other); got[0].reason != stay {
			t.Errorf("of another port: %v", got)
		}
		other = craft(t, v6, 1, 7, b)
		other.Dst.Lo++
		if got := r.enter(other); got[0].reason != stay {
			t.Errorf("to another: %v", got)
		}
		for host := range byte(2) {
			if got := r.enter(craft(t, v6, host+1, 7+uint32(1-host), b)); got[0].reason != stay {
				t.Errorf("of another: %v", got)
			}
		}
		// Of IPv6 only the first tells the protocol (RFC 8200 4.5): one that says another belongs to it all the same.
		other = craft(t, v6, 1, 7, b)
		other.Proto = packet.ProtoTCP
		want := stay
		if v6 {
			want = on
		}
		if got := r.enter(other); got[0].reason != want {
			t.Errorf("of another protocol, IPv6 %v: %v", v6, got)
		}
		r.check()
	}
}

// What a receiver can put together of what is let on is what came first: the largest datagram, in any stride.
func TestLargestDatagram(t *testing.T) {
	for _, stride := range []int{1, 2, 3} {
		r := newRig(t, limits{})
		r.enter(craft(t, true, 1, 7, piece{0, 1448, true}))
		for start := 1; start <= stride; start++ {
			for at := start * 1448; at < 65535; at += stride * 1448 {
				end := min(at+1448, 65535)
				if got := r.enter(craft(t, true, 1, 7, piece{at, end, end < 65535})); stride != 2 && got[0].reason != on {
					t.Fatalf("at %d of stride %d: %v", at, stride, got)
				}
			}
		}
		if stride != 2 && r.inUse != 0 {
			t.Errorf("stride %d: the datagram is not known to be whole", stride)
		}
		if stride == 2 && r.datagrams[1].state != spoiled {
			t.Errorf("a datagram in more than %d runs is let on: %+v", maxSpans, r.datagrams[1])
		}
		r.check()
	}
}

func TestTimes(t *testing.T) {
	type event struct {
		after int64 // nanoseconds
		piece *piece
		want  []pass
	}
	none := []pass(nil)
	for _, row := range []struct {
		name   string
		events []event
	}{
		{"the first does not come", []event{
			{0, &b, []pass{{1, stay}}}, {waitTime / 2, &c, []pass{{2, stay}}}, {waitTime/2 - 1, nil, none},
			{1, nil, []pass{{1, late}, {2, late}}}, {0, &last, []pass{{3, late}}},
			{keepTime - 1, &last, []pass{{4, late}}}, {1, &last, []pass{{5, stay}}},
		}},
		{"the first comes late", []event{
			{0, &b, []pass{{1, stay}}}, {waitTime, nil, []pass{{1, late}}}, {0, &a, []pass{{2, on}}}, {0, &b, []pass{{3, on}}},
		}},
		{"known for its time", []event{
			{0, &a, []pass{{1, on}}}, {keepTime - 1, &b, []pass{{2, on}}}, {1, nil, none}, {0, &c, []pass{{3, stay}}},
		}},
		{"spoiled for its time", []event{
			{0, &a, []pass{{1, on}}}, {10, &piece{8, 24, true}, []pass{{2, lap}}}, {keepTime - 11, &a, []pass{{3, lap}}},
			{1, &a, []pass{{4, on}}},
		}},
	} {
		r := newRig(t, limits{})
		now := r.now
		for i, e := range row.events {
			now += e.after
			r.Advance(now)
			got := r.left()
			if e.piece != nil {
				got = append(got, r.enter(craft(t, false, 1, 7, *e.piece))...)
			}
			if !slices.Equal(got, e.want) {
				t.Errorf("%s, event %d: %v, want %v", row.name, i, got, e.want)
			}
			r.check()
		}
	}
}

// One port's flood takes its own share, and its own oldest go.
func TestFloodKeepsToItsPort(t *testing.T) {
	r := newRig(t, limits{})
	r.enter(craft(t, false, 2, 1, a))
	r.enter(craft(t, false, 2, 2, b))
	counts := map[verdict.Reason]int{}
	for i := range uint32(3 * maxDatagrams) {
		for _, p := range r.enter(craft(t, false, 1, i, b)) {
			counts[p.reason]++
		}
	}
	r.check()
	if r.inUse != maxDatagrams/shareOf+2 || r.held != maxHeld/shareOf+1 {
		t.Errorf("%d datagrams, %d wait", r.inUse, r.held)
	}
	if counts[stay]-maxHeld/shareOf != counts[full]-(3*maxDatagrams-counts[stay]) || counts[full] == 0 {
		t.Errorf("%v", counts)
	}
	if got := r.enter(craft(t, false, 2, 1, b)); got[0].reason != on {
		t.Errorf("another port's datagram is forgotten: %v", got)
	}
	if got := r.enter(craft(t, false, 2, 2, a)); len(got) != 2 || got[1] != (pass{2, on}) {
		t.Errorf("another port's fragment no longer waits: %v", got)
	}
}

// Where all is in use, the oldest of all goes.
func TestOldestGoes(t *testing.T) {
	r := newRig(t, limits{datagrams: 4, datagramsPort: 3, held: 4, heldPort: 3})
	for i, p := range []*packet.Packet{
		craft(t, false, 1, 1, b), craft(t, false, 1, 2, a), craft(t, false, 1, 3, b), craft(t, false, 2, 1, a),
	} {
		r.Advance(r.now + 1)
		if got := r.enter(p); len(got) != 1 {
			t.Fatalf("%d: %v", i, got)
		}
	}
	if got, want := r.enter(craft(t, false, 1, 4, a)), []pass{{5, on}, {1, full}}; !slices.Equal(got, want) {
		t.Errorf("the port's share: %v, want %v", got, want)
	}
	if got := r.enter(craft(t, false, 3, 1, a)); len(got) != 1 || r.inUse != 4 {
		t.Errorf("all: %v", got)
	}
	if got := r.enter(craft(t, false, 1, 2, b)); got[0].reason != stay {
		t.Errorf("the oldest is still known: %v", got)
	}
	r.check()
}

func TestFrameBudget(t *testing.T) {
	r := newRig(t, limits{})
	hold := func(host byte, id uint32, frames int) bool {
		n, reason := r.Enter(craft(t, false, host, id, b))
		if reason != stay {
			t.Fatal(reason)
		}
		ticket, ok := r.Hold(n, frames, 80)
		if ok != (ticket != 0) {
			t.Errorf("ticket %d, %v", ticket, ok)
		}
		return ok
	}
	for i, row := range []struct {
		host   byte
		frames int
		want   bool
	}{
		{1, 9, true}, {1, 2, false}, {1, 1, true}, {1, 1, false}, // a port has 10
		{2, 40, true}, {2, 1, false}, // one packet may wait, whatever it takes
		{3, 30, true}, {4, 1, false}, // of 80 all are taken
	} {
		if got := hold(row.host, uint32(i), row.frames); got != row.want {
			t.Errorf("row %d: %v", i, got)
		}
	}
	r.Abandon(verdict.PortClosed)
	for range 4 {
		if _, reason, ok := r.Due(); !ok || reason != verdict.PortClosed {
			t.Errorf("%v, %v", reason, ok)
		}
	}
	if _, _, ok := r.Due(); ok || r.frames != 0 || r.held != 0 || !hold(4, 9, 1) {
		t.Errorf("%d frames, %d packets are left", r.frames, r.held)
	}
}

// What comes to be judged again does not overlap itself, and takes no part in what is counted.
func TestAgain(t *testing.T) {
	r := newRig(t, limits{})
	again := func(a piece) (Datagram, verdict.Reason) { return r.Again(craft(t, false, 1, 7, a)) }
	if n, reason := again(b); n != 0 || reason != on || r.datagrams != nil {
		t.Errorf("an empty table: %d, %v", n, reason)
	}
	r.enter(craft(t, false, 1, 7, a))
	r.enter(craft(t, false, 1, 7, b))
	n, reason := again(a)
	if n == 0 || reason != on {
		t.Errorf("the first: %d, %v", n, reason)
	}
	if _, reason := again(b); reason != on {
		t.Errorf("a later one: %v", reason)
	}
	r.JudgeAgain(n, no, Addresses{})
	if _, reason := again(b); reason != no {
		t.Errorf("a later one, the first denied since: %v", reason)
	}
	if _, reason := again(a); reason != on {
		t.Errorf("the first is judged by itself: %v", reason)
	}
	if got := r.enter(craft(t, false, 1, 7, c)); got[0].reason != no {
		t.Errorf("one that comes now: %v", got)
	}
	r.enter(craft(t, false, 1, 7, piece{40, 56, true}))
	for _, a := range []piece{a, b} {
		if _, reason := again(a); reason != lap {
			t.Errorf("spoiled: %v", reason)
		}
	}
	r.enter(craft(t, false, 1, 8, b))
	if n, reason := r.Again(craft(t, false, 1, 8, a)); n != 0 || reason != on {
		t.Errorf("the first of one that waits: %d, %v", n, reason)
	}
	r.JudgeAgain(0, no, Addresses{})
	r.check()
}

// Fragments that come, wait, go on, overlap and push others out allocate nothing once the table is there.
func TestDoesNotAllocate(t *testing.T) {
	var table Table
	var packets []*packet.Packet
	for i := range 2000 {
		v6, host := i%2 == 0, byte(i%3)
		for _, a := range []piece{a, b, {8, 24, true}, last} {
			packets = append(packets, craft(t, v6, host, uint32(i%1500), a))
		}
	}
	slices.Reverse(packets[1000:4000])
	now, at := int64(1e12), 0
	step := func() {
		for range 200 {
			p := packets[at%len(packets)]
			at++
			switch n, r := table.Enter(p); {
			case r == verdict.WaitingForFragment:
				table.Hold(n, 1, 400)
			case r == verdict.None && p.Flags&packet.FirstFragment != 0:
				table.Judge(n, verdict.None)
			}
			table.Again(p)
			for ok := true; ok; {
				_, _, ok = table.Due()
			}
		}
		now += 1e7
		table.Advance(now)
	}
	step()
	if allocs := testing.AllocsPerRun(200, step); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// BenchmarkLater is the cost of a later fragment whose first is known, in a table of so many datagrams; with it the
// first's, once in 45.
func BenchmarkLater(b *testing.B) {
	for _, known := range []int{1, maxDatagrams / shareOf} {
		for _, v6 := range []bool{false, true} {
			b.Run(fmt.Sprintf("known=%d/IPv6=%v", known, v6), func(b *testing.B) { benchmarkLater(b, known, v6) })
		}
	}
}

func benchmarkLater(b *testing.B, known int, v6 bool) {
	const pieces = 45
	datagrams := make([][]*packet.Packet, known)
	for i := range datagrams {
		for at := range pieces {
			p := craft(b, v6, 1, uint32(i), piece{at * 1448, (at + 1) * 1448, at < pieces-1})
			p.Frame = slices.Clone(p.Frame[:100]) // headers alone, so that packets do not fill the caches
			p.End = 100
			datagrams[i] = append(datagrams[i], p)
		}
	}
	var t Table
	n := 0
	for b.Loop() {
		p := datagrams[n%known][n/known%pieces]
		n++
		d, r := t.Enter(p)
		if r != verdict.None {
			b.Fatal(r)
		}
		if p.Flags&packet.FirstFragment != 0 {
			t.Judge(d, verdict.None)
		}
	}
}
