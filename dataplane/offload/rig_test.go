// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

const (
	portA = packet.PortID(7)
	portB = packet.PortID(9)

	fewEgresses = 8

	began  = int64(1000 * time.Second)
	behind = int64(900 * time.Second) // the dataplane's clock, the kernel's
)

// rig is a table in memory that no hook reads, with two ports that lead somewhere.
type rig struct {
	t   testing.TB
	tab *Table
	mem Memory
	now int64 // CLOCK_MONOTONIC
}

func newRig(t testing.TB, records int) *rig {
	r := &rig{t: t, mem: newMemory(records, fewEgresses), now: began}
	r.restart()
	for i, port := range []packet.PortID{portA, portB} {
		if err := r.tab.SetEgress(port, Egress{Kind: Pod, IfIndex: i + 2}); err != nil {
			t.Fatal(err)
		}
	}
	r.tab.SetCarry(true)
	return r
}

// restart has another table take over the memory.
func (r *rig) restart() {
	r.t.Helper()
	tab, err := New(Config{
		Memory: r.mem, Clock: func() int64 { return r.now - behind }, Kernel: func() int64 { return r.now },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.tab = tab
}

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

// plain is the n-th flow, not translated.
func plain(n int) Flow {
	e := packet.Ends{Src: addr("10.1.0.10"), Dst: addr("10.1.0.2"), SrcPort: uint16(1000 + n), DstPort: 80}
	if n%2 != 0 {
		e.Src, e.Dst = addr("2001:db8::a"), addr("2001:db8:1::1")
	}
	return Flow{Near: e, Far: e, Proto: packet.ProtoTCP, Generation: 5}
}

// natted is the n-th flow, translated at both ends.
func natted(n int) Flow {
	f := plain(n)
	f.Far = packet.Ends{Src: addr("10.9.0.1"), Dst: addr("10.1.0.3"), SrcPort: uint16(20000 + n), DstPort: 8080}
	if n%2 != 0 {
		f.Far.Src, f.Far.Dst = addr("2001:db8:9::1"), addr("2001:db8:1::2")
	}
	return f
}

func (r *rig) enter(ref Ref, f Flow, d uint8) Ref {
	r.t.Helper()
	ref, ok := r.tab.Enter(ref, &f, d, r.way(d))
	if !ok {
		r.t.Fatalf("not entered: %+v", r.tab.Stats())
	}
	return ref
}

func (r *rig) way(d uint8) *Way {
	w := &Way{In: portA, Out: portB, MAC: packet.MAC{2, 0, 0, 0, 0, 1}, MTU: 1500}
	if d != 0 {
		w.In, w.Out = portB, portA
	}
	return w
}

// sound checks what has to hold of a table at any time.
func (r *rig) sound() {
	r.t.Helper()
	t := r.tab
	found := make(map[[2]uint32]int)
	for b := range t.control.bucketMask + 1 {
		for i, s := range t.buckets[b] {
			if s == 0 || t.isLeftOver(b, i) {
				continue
			}
			n, d := uint32(s), uint32(s>>32)&1
			found[[2]uint32{n, d}]++
			if !t.leads(b, s) || t.stamps[n-1].Load()&1 == 0 {
				r.t.Fatalf("slot %x of bucket %d leads to nothing", s, b)
			}
		}
	}
	records, pairs, ways := uint32(0), uint32(0), 0
	used := make([]uint32, len(t.ports.used))
	for i := range t.records {
		x := &t.records[i]
		if t.stamps[i].Load()&1 == 0 {
			if x.version != 0 && x.version&1 == 0 {
				r.t.Fatalf("record %d is free and reads as a flow's", i+1)
			}
			continue
		}
		records++
		if x.flags&pair != 0 {
			pairs++
		}
		for d := range x.way {
			if x.way[d].from == 0 {
				continue
			}
			ways++
			if to := x.way[d].to; to != 0 {
				used[to]++
			}
			if found[[2]uint32{uint32(i + 1), uint32(d)}] != 1 {
				r.t.Fatalf("direction %d of record %d has %d slots", d, i+1, found[[2]uint32{uint32(i + 1), uint32(d)}])
			}
		}
	}
	free := make(map[uint32]bool)
	for _, n := range append(append([]uint32{}, t.free...), t.resting[:]...) {
		if n != 0 && (free[n] || t.stamps[n-1].Load()&1 != 0) {
			r.t.Fatalf("record %d is not free once", n)
		}
		free[n] = true
	}
	delete(free, 0)
	if t.slots != len(found) {
		r.t.Fatalf("%d slots are taken, counted %d", len(found), t.slots)
	}
	if st := t.Stats(); st.Records != records || st.Pairs != pairs || len(found) != ways ||
		len(free)+int(records) != len(t.records) {
		r.t.Fatalf("%+v: %d records, %d pairs, %d ways, %d slots, %d free", st, records, pairs, ways, len(found), len(free))
	}
	r.soundEgresses(used)
	r.soundShares()
}

// soundShares: each record is in the ring of the port of its opener.
func (r *rig) soundShares() {
	r.t.Helper()
	t := r.tab
	want := make(map[uint16]uint32)
	for i := range t.records {
		if t.stamps[i].Load()&1 == 0 {
			continue
		}
		want[t.places[i].owner]++
		if x := &t.records[i]; x.way[0].from != 0 && t.places[i].owner != uint16(x.way[0].from%maxPorts) {
			r.t.Fatalf("record %d, which port %d opened, counts for %d", i+1, x.way[0].from, t.places[i].owner)
		}
	}
	for i := range t.shares {
		s, owner := &t.shares[i], uint16(i)
		if s.Records != want[owner] || (s.hand == 0) != (s.Records == 0) {
			r.t.Fatalf("port %d has %d records, counted %+v", i, want[owner], s)
		}
		n := s.hand
		for range s.Records {
			p := &t.places[n-1]
			if t.stamps[n-1].Load()&1 == 0 || p.owner != owner || t.places[p.next-1].previous != n {
				r.t.Fatalf("record %d in the ring of port %d: %+v", n, i, p)
			}
			n = p.next
		}
		if n != s.hand {
			r.t.Fatalf("the ring of port %d is no ring of %d", i, s.Records)
		}
	}
}

func (r *rig) soundEgresses(used []uint32) {
	r.t.Helper()
	x := &r.tab.ports
	free := make(map[uint32]bool)
	for _, n := range x.free {
		if free[n] {
			r.t.Fatalf("egress %d is free twice", n)
		}
		free[n] = true
	}
	for n := uint32(1); n <= x.top; n++ {
		e := &r.tab.egresses[n]
		switch {
		case x.used[n] != used[n]:
			r.t.Fatalf("egress %d is used %d times, counted %d", n, used[n], x.used[n])
		case (x.ports[n] != 0) != (e.kind != 0), x.ports[n] != 0 && x.numbers[x.ports[n]] != n:
			r.t.Fatalf("egress %d is of port %d, kind %d", n, x.ports[n], e.kind)
		case free[n] != (x.ports[n] == 0 && used[n] == 0):
			r.t.Fatalf("egress %d free: %t", n, free[n])
		}
	}
}
