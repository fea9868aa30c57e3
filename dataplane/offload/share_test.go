// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// by enters a flow that a port has opened, of which the kernel carries direction d, and says whether it was entered.
func (r *rig) by(port packet.PortID, n int, d uint8) (Ref, bool) {
	f, w := plain(n), r.way(0)
	f.Near.Src.Lo += uint64(port) << 32
	f.Far = f.Near
	if w.In = port; d != 0 {
		w.In, w.Out = portB, port
	}
	return r.tab.Enter(0, &f, d, w)
}

// use has a record be used now.
func (r *rig) use(ref Ref) {
	atomic.StoreUint32(&r.tab.records[ref.number()-1].way[0].used, uint32(r.now>>tickShift))
}

func (r *rig) pass(d time.Duration) {
	r.now += int64(d)
	r.tab.Beat()
}

// A port that has as many records as it may gets others' places no more: its own make way once they are not used, and
// the table has room for others all the while, in either direction, tracked or not, also in the hands of the next
// process.
func TestLimit(t *testing.T) {
	const perPort = 100
	r := newRig(t, 1024)
	r.tab.Limit(perPort)
	var refs []Ref
	for n := range perPort {
		ref, ok := r.by(portA, n, uint8(n%3/2))
		if !ok {
			t.Fatalf("%d: %+v", n, r.tab.Stats())
		}
		refs = append(refs, ref)
	}
	full := func() {
		t.Helper()
		for d := range uint8(2) {
			if _, ok := r.by(portA, 2000, d); ok {
				t.Fatalf("direction %d: the port has %+v", d, r.tab.Share(portA))
			}
		}
		if e := plain(2001).Near; r.tab.EnterUntracked(&e, packet.ProtoUDP, 0, r.way(0)) {
			t.Fatal("a flow that is not tracked was entered")
		}
	}
	full()
	if s, all := r.tab.Share(portA), r.tab.Stats(); s != (Share{Records: perPort, Refused: 3}) || all.RefusedShare != 3 ||
		all.Refused != 3 {
		t.Fatalf("%+v, %+v", s, all)
	}
	for n := range perPort {
		if _, ok := r.by(portA+1, n, 0); !ok {
			t.Fatalf("another port: %+v", r.tab.Stats())
		}
	}
	r.sound()
	r.restart()
	r.tab.Limit(perPort)
	r.sound()
	full()

	r.pass(2 * minUnused)
	for i, ref := range refs {
		if i != 70 {
			r.use(Ref(ref.number()))
		}
	}
	for range perPort { // until the hand comes by
		if _, ok := r.by(portA, 2000, 0); ok {
			break
		}
	}
	evicted, _ := r.tab.NextEvicted()
	if s := r.tab.Share(portA); s.Records != perPort || s.Evicted != 1 || evicted.number() != refs[70].number() {
		t.Fatalf("%+v, %d has made way, want %d", s, evicted.number(), refs[70].number())
	}
	r.sound()
	r.tab.Remove(r.tab.ref(refs[3].number()))
	if _, ok := r.by(portA, 2002, 0); !ok {
		t.Error("there is no room where one is gone")
	}
	r.sound()
	if r.tab.Depart(portA); r.tab.Share(portA) != (Share{Records: perPort}) {
		t.Errorf("what the port before has suffered counts for the next: %+v", r.tab.Share(portA))
	}
}

// Behind some ports are many: they have no limit, but as long as they are said to be such.
func TestFrontier(t *testing.T) {
	r := newRig(t, 512)
	r.tab.Limit(0)
	r.tab.Frontier(portA, true)
	for n := range 256 {
		if _, ok := r.by(portA, n, 0); !ok {
			t.Fatalf("%d: %+v", n, r.tab.Stats())
		}
	}
	for n := range 129 {
		if _, ok := r.by(portB, n, 0); ok != (n < 128) {
			t.Fatalf("%d of a quarter of 512: %t", n, ok)
		}
	}
	r.tab.Frontier(portA, false)
	if _, ok := r.by(portA, 999, 0); ok {
		t.Error("a port that has become like others has no limit")
	}
	r.sound()
}

// In a table that a few ports fill with flows that are all used, others get room until they have half of what those
// have, and no more: what is pushed out does not push out in turn.
func TestRichMakeWay(t *testing.T) {
	r := newRig(t, 1200)
	const rich, poor, none = packet.PortID(20), packet.PortID(21), packet.PortID(22)
	for n := range 1100 {
		r.by(rich, n, 0)
	}
	for n := range 100 {
		r.by(poor, n, 0)
	}
	enter := func(port packet.PortID, from int) (entered int) {
		for n := range 2400 {
			if _, ok := r.by(port, from+n, 0); ok {
				entered++
			}
			for ref, _ := r.tab.NextEvicted(); ref != 0; ref, _ = r.tab.NextEvicted() {
				r.tab.Remove(ref)
			}
		}
		return entered
	}
	if enter(rich, 5000) != 0 || r.tab.Share(rich).Records != 1100 {
		t.Fatalf("the rich have got more: %+v", r.tab.Share(rich))
	}
	if n := enter(none, 0); n < 350 || n > 380 || r.tab.Share(poor).Records != 100 {
		t.Fatalf("%d were entered; %+v, %+v", n, r.tab.Share(rich), r.tab.Share(poor))
	}
	if s := r.tab.Share(rich); s.Evicted == 0 || s.Evicted != r.tab.Stats().EvictedShare || enter(rich, 9000) != 0 {
		t.Fatalf("%+v, %+v", s, r.tab.Stats())
	}
	r.sound()
}

// BenchmarkEnterFull enters flows of a port that has as many as it may, all of which are used.
func BenchmarkEnterFull(b *testing.B) {
	r := newBench(b, 1<<17)
	r.tab.Limit(0)
	all := flows(1 << 16)
	for i := range all {
		r.tab.Enter(0, &all[i], 0, r.way(0))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.tab.Enter(0, &all[1<<15+i&(1<<15-1)], 0, r.way(0))
	}
}
