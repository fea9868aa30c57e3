// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// TestRestart: a table that takes over has the same flows, ways and counters, and goes on.
func TestRestart(t *testing.T) {
	r := newRig(t, 32)
	var before []Flow
	for n := range 20 {
		f := plain(n)
		if n%3 == 0 {
			f = natted(n)
		}
		ref := r.enter(0, f, 0)
		if n%4 != 0 {
			r.enter(ref, f, 1)
		}
		before = append(before, f)
		r.tab.records[ref.number()-1].way[0].packets = uint64(n)
	}
	seed := r.tab.control.seed
	r.restart()
	r.sound()
	if r.tab.control.seed != seed || r.tab.control.carry == 0 || r.tab.Stats().Mended != 0 {
		t.Fatalf("%+v %+v", r.tab.control, r.tab.Stats())
	}
	for n, f := range before {
		ref, d := r.tab.Find(f.Near, f.Proto, portA)
		got, ways, ok := r.tab.Flow(ref)
		if !ok || d != 0 || got != f || ways[0] != *r.way(0) || (ways[1] == *r.way(1)) != (n%4 != 0) {
			t.Fatalf("%+v %+v, want %+v", got, ways, f)
		}
		if c, ok := r.tab.Remove(ref); !ok || c.Traffic[0].Packets != uint64(n) {
			t.Fatalf("%+v", c)
		}
		r.sound()
	}
}

// TestRestartWithoutEgress: a record may lead to userspace alone, and no port to an egress.
func TestRestartWithoutEgress(t *testing.T) {
	r := &rig{t: t, mem: newMemory(4, fewEgresses), now: began}
	r.restart()
	f := plain(1)
	if _, ok := r.tab.Enter(0, &f, 1, &Way{In: portB, MTU: 1500}); !ok {
		t.Fatalf("not entered: %+v", r.tab.Stats())
	}
	r.restart()
	if n := r.tab.Stats().Records; n != 1 {
		t.Fatalf("%d records", n)
	}
}

// TestRefsDoNotOutlive: a Ref of a record that has been another's since is nobody's.
func TestRefsDoNotOutlive(t *testing.T) {
	r := newRig(t, 1)
	ref := r.enter(0, plain(1), 0)
	r.tab.Remove(ref)
	again := r.enter(0, plain(2), 0)
	if again == ref || again.number() != ref.number() {
		t.Fatal(ref, again)
	}
	f := plain(1)
	if got, ok := r.tab.Enter(ref, &f, 1, r.way(1)); ok || got != 0 {
		t.Fatal("entered", got)
	}
	if _, ok := r.tab.Read(ref); ok {
		t.Fatal("read")
	}
	if _, ok := r.tab.Remove(ref); ok {
		t.Fatal("removed")
	}
	if _, _, ok := r.tab.Withdraw(ref); ok {
		t.Fatal("withdrawn")
	}
	r.tab.Keep(ref, 77)
	if f, _, ok := r.tab.Flow(again); !ok || f.Generation == 77 {
		t.Fatal("another's was kept")
	}
}

// TestForeignMemory: what is no table, or another's, is refused.
func TestForeignMemory(t *testing.T) {
	for name, spoil := range map[string]func(m *Memory){
		"layout":        func(m *Memory) { m.Control[24]++ },
		"mask":          func(m *Memory) { m.Control[28]++ },
		"records":       func(m *Memory) { m.Control[32]++ },
		"no buckets":    func(m *Memory) { m.Buckets = nil },
		"three buckets": func(m *Memory) { m.Buckets = append(m.Buckets, m.Buckets[:64]...) },
		"part of one":   func(m *Memory) { m.Records = m.Records[:100] },
		"no control":    func(m *Memory) { m.Control = m.Control[:8] },
		"egresses":      func(m *Memory) { m.Egresses = m.Egresses[:31] },
		"not aligned":   func(m *Memory) { m.Records = m.Records[4 : 4+192] },
	} {
		r := newRig(t, 8)
		spoil(&r.mem)
		if _, err := New(Config{Memory: r.mem, Clock: r.tab.clock, Kernel: r.tab.kernel}); err == nil {
			t.Errorf("%s: taken over", name)
		}
	}
}

// TestTorn kills the writer at each byte of what an operation writes, in any order in which the bytes may have come.
// What remains is sound, and no packet is carried that would not have been before or after.
func TestTorn(t *testing.T) {
	one, other := natted(2), plain(5)
	for name, change := range map[string]func(r *rig, ref Ref){
		"enter":    func(r *rig, _ Ref) { r.enter(0, other, 0) },
		"answer":   func(r *rig, ref Ref) { r.enter(ref, one, 1) },
		"reroute":  func(r *rig, ref Ref) { r.tab.Enter(ref, &one, 0, &Way{In: portA, Out: portA, MTU: 9000}) },
		"remove":   func(r *rig, ref Ref) { r.tab.Remove(ref) },
		"withdraw": func(r *rig, ref Ref) { r.tab.Withdraw(ref) },
		"egress":   func(r *rig, _ Ref) { _ = r.tab.SetEgress(portB, Egress{Kind: Wire, IfIndex: 7}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 8)
			ref := r.enter(0, one, 0)
			r.enter(0, plain(7), 0)
			before := r.copyMemory()
			change(r, ref)
			after := r.copyMemory()
			for range 2000 {
				mixed := &rig{t: t, now: r.now, mem: mix(before, after)}
				mixed.restart()
				mixed.sound()
				mixed.only(one, other, plain(7))
			}
		})
	}
}

// mix takes each word of memory as it was before or after, at random, but for those of a record, which count only by
// its version: where that is odd anything may be in them.
func mix(before, after Memory) Memory {
	m := newMemory(len(before.Records)/192, fewEgresses)
	words := func(to, a, b []byte) {
		for i := 0; i < len(to); i += 8 {
			from := a
			if rand.IntN(2) == 0 {
				from = b
			}
			copy(to[i:i+8], from[i:i+8])
		}
	}
	words(m.Buckets, before.Buckets, after.Buckets)
	copy(m.Control, before.Control)
	words(m.Egresses, before.Egresses, after.Egresses)
	for at := 0; at < len(m.Records); at += 192 {
		a, b, to := before.Records[at:at+192], after.Records[at:at+192], m.Records[at:at+192]
		switch {
		case bytes.Equal(a, b), rand.IntN(3) == 0:
			copy(to, a)
		case rand.IntN(2) == 0:
			copy(to, b)
		default:
			words(to, a, b)
			to[60] |= 1
		}
	}
	return m
}

func (r *rig) copyMemory() Memory {
	m := newMemory(len(r.mem.Records)/192, fewEgresses)
	copy(m.Buckets, r.mem.Buckets)
	copy(m.Records, r.mem.Records)
	copy(m.Egresses, r.mem.Egresses)
	copy(m.Control, r.mem.Control)
	return m
}

// only: there are no flows but some of these, led as they were entered.
func (r *rig) only(flows ...Flow) {
	r.t.Helper()
	for ref := range r.tab.All() {
		got, ways, _ := r.tab.Flow(ref)
		known := false
		for _, f := range flows {
			known = known || got == f
		}
		if !known || ways[0].In|ways[1].In == 0 {
			r.t.Fatalf("%+v %+v is none of them", got, ways)
		}
	}
}

// FuzzMemory: whatever is in the memory, what a table makes of it is sound, and so is what comes then.
func FuzzMemory(f *testing.F) {
	f.Add([]byte{}, uint64(1))
	f.Add([]byte{0, 0, 1, 60, 0, 1, 255, 3, 9}, uint64(2))
	f.Fuzz(func(t *testing.T, spoil []byte, seed uint64) {
		r := newRig(t, 8)
		for n := range 6 {
			f := natted(n)
			ref := r.enter(0, f, 0)
			r.enter(ref, f, 1)
		}
		areas := [][]byte{r.mem.Records, r.mem.Buckets, r.mem.Egresses, r.mem.Control[36:]}
		for ; len(spoil) >= 3; spoil = spoil[3:] {
			area := areas[spoil[0]%4]
			area[(int(spoil[0]/4)*256+int(spoil[1]))%len(area)] ^= spoil[2]
		}
		r.restart()
		r.sound()
		x := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			f, d := natted(x.IntN(10)), uint8(x.IntN(2))
			switch x.IntN(4) {
			case 0:
				r.tab.Enter(0, &f, d, r.way(d))
			case 1:
				for ref := range r.tab.All() {
					r.tab.Enter(ref, &f, d, r.way(d))
					break
				}
			case 2:
				for ref := range r.tab.All() {
					r.tab.Remove(ref)
					break
				}
			case 3:
				port := []packet.PortID{portA, portB, 11}[x.IntN(3)]
				_ = r.tab.SetEgress(port, Egress{Kind: EgressKind(x.IntN(4)), IfIndex: 9}) // all may be taken
			}
			r.sound()
		}
	})
}
