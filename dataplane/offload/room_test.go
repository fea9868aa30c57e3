// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// TestRoom: the record that has not been used for longest makes way, its owner is told what it carried, and none does
// that was used of late.
func TestRoom(t *testing.T) {
	r := newRig(t, 4)
	var refs []Ref
	for n := range 4 {
		refs = append(refs, r.enter(0, plain(n), 0))
	}
	f := plain(9)
	if _, ok := r.tab.Enter(0, &f, 0, r.way(0)); ok || r.tab.Stats().Refused != 1 {
		t.Fatalf("%+v", r.tab.Stats())
	}
	r.now += int64(20 * time.Second)
	r.tab.Beat()
	for n, ago := range []int{8, 15, 0, 12} {
		w := &r.tab.records[refs[n].number()-1].way[0]
		atomic.StoreUint32(&w.used, uint32((r.now-int64(ago)*int64(time.Second))>>tickShift))
		w.packets = uint64(n)
	}
	for _, n := range []int{1, 3, 0} {
		r.enter(0, plain(10+n), 0)
		ref, of := r.tab.NextEvicted()
		if ref != refs[n] || of != plain(n) {
			t.Fatalf("%x has made way, want %x", ref, refs[n])
		}
		if c, ok := r.tab.Remove(ref); !ok || c.Traffic[0].Packets != uint64(n) {
			t.Fatalf("%+v", c)
		}
		if ref, _ := r.tab.NextEvicted(); ref != 0 {
			t.Fatal("told twice")
		}
		r.sound()
	}
	if _, ok := r.tab.Enter(0, &f, 0, r.way(0)); ok || r.tab.Stats().Evicted != 3 {
		t.Fatalf("one that is used has made way: %+v", r.tab.Stats())
	}
}

// TestRoomOfPairs: pairs and claims do not make way, and pairs have half of the table at most.
func TestRoomOfPairs(t *testing.T) {
	r := newRig(t, 4)
	for n, want := range []bool{true, true, false} {
		f := plain(n)
		f.Pair, f.Near.SrcPort, f.Near.DstPort = true, 0, uint16(n)
		f.Far = f.Near
		if _, ok := r.tab.Enter(0, &f, 0, r.way(0)); ok != want {
			t.Fatalf("pair %d: %t", n, ok)
		}
	}
	for n := range 2 {
		f := plain(10 + n)
		claim := r.way(0)
		claim.Out = 0
		ref, _ := r.tab.Enter(0, &f, 0, claim)
		if ref, ok := r.tab.Enter(ref, &f, 0, r.way(0)); !ok || r.tab.Stats().Records != uint32(3+n) {
			t.Fatal(ref, ok)
		}
	}
	r.now += int64(time.Hour)
	f := plain(20)
	if _, ok := r.tab.Enter(0, &f, 0, r.way(0)); ok {
		t.Fatal("there is no room")
	}
	r.sound()
}

// TestUntold: where owners are not told, none makes way, and nothing is lost.
func TestUntold(t *testing.T) {
	r := newRig(t, 8)
	for n := range 2 * maxVictims {
		f := plain(n)
		r.tab.Enter(0, &f, 0, r.way(0))
		r.now += int64(10 * time.Second)
	}
	if st := r.tab.Stats(); st.Evicted != maxVictims || len(r.tab.victims) != maxVictims {
		t.Fatalf("%+v", st)
	}
	r.sound()
	told := 0
	for ref, _ := r.tab.NextEvicted(); ref != 0; ref, _ = r.tab.NextEvicted() {
		r.tab.Remove(ref)
		told++
	}
	if told != maxVictims {
		t.Fatal(told)
	}
}

// TestEgressChanged: what leads to an egress that is changed leads to userspace until it is entered anew, and its
// place is not another's as long as something leads there.
func TestEgressChanged(t *testing.T) {
	r := newRig(t, 4)
	ref := r.enter(0, plain(1), 0)
	to := r.tab.records[ref.number()-1].way[0].to
	change := Egress{Kind: Wire, IfIndex: 5, VLANs: packet.VLANs{Outer: 3, Inner: 4}}
	if err := r.tab.SetEgress(portB, change); err != nil {
		t.Fatal(err)
	}
	if _, ways, _ := r.tab.Flow(ref); ways[0].Out != 0 || r.tab.egresses[to].kind != 0 || r.tab.Egress(portB) != change {
		t.Fatalf("%+v, %+v", ways, r.tab.egresses[to])
	}
	for port := range packet.PortID(20) {
		_ = r.tab.SetEgress(100+port, Egress{Kind: Pod, IfIndex: 1}) // until all are taken
	}
	if r.tab.egresses[to].kind != 0 {
		t.Fatal("a place that something leads to is another's")
	}
	r.restart()
	ref, _ = r.tab.Find(plain(1).Near, packet.ProtoTCP, portA)
	r.enter(ref, plain(1), 0)
	if _, ways, _ := r.tab.Flow(ref); ways[0] != *r.way(0) {
		t.Fatalf("%+v", ways)
	}
	if err := r.tab.SetEgress(200, Egress{Kind: Pod, IfIndex: 1}); err != nil || r.tab.ports.numbers[200] != to {
		t.Fatal(err, r.tab.ports.numbers)
	}
	if err := r.tab.SetEgress(201, Egress{Kind: Pod, IfIndex: 1}); err == nil {
		t.Fatal("all are taken")
	}
	r.sound()
	for _, e := range []Egress{{Kind: Wire + 1, IfIndex: 1}, {Kind: Pod}, {Kind: Pod, IfIndex: -1}} {
		if r.tab.SetEgress(portA, e) == nil {
			t.Errorf("%+v was taken", e)
		}
	}
}

// TestNoEgress: nothing is entered that leads nowhere.
func TestNoEgress(t *testing.T) {
	r := newRig(t, 4)
	f, w := plain(1), r.way(0)
	w.Out = 77
	if ref, ok := r.tab.Enter(0, &f, 0, w); ok || ref != 0 || r.tab.Stats().Unreachable != 1 {
		t.Fatalf("%+v", r.tab.Stats())
	}
	r.sound()
}
