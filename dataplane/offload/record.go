// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// A record is written in this order: its version becomes odd, then it is written, then its version is even again and
// another one; slots lead to it from then on. Before it is another flow's, its slots are emptied and its version is
// odd. A hook that has found it copies what it needs, counts, and reads the version again: where that has changed the
// packet is a miss. What it counts or takes back after that would be the next flow's: a record that is free rests for
// a while.

// Times of records are in ticks of 2^24 ns of CLOCK_MONOTONIC, 17 ms; 32 bits of them are 2.3 years.
const tickShift = 24

// number and stamp of a Ref: the record's number from 1 on, and what no earlier owner of it had.
func (r Ref) number() uint32 { return uint32(r) }
func (r Ref) stamp() uint32  { return uint32(r >> 32) }

func refOf(n, stamp uint32) Ref { return Ref(n) | Ref(stamp)<<32 }

func (t *Table) ref(n uint32) Ref { return refOf(n, t.stamps[n-1].Load()) }

func (t *Table) lives(ref Ref) bool {
	n := ref.number()
	return n != 0 && int(n) <= len(t.stamps) && t.stamps[n-1].Load() == ref.stamp()
}

// alive is the Ref, 0 when its record is another's.
func (t *Table) alive(ref Ref) Ref {
	if t.lives(ref) {
		return ref
	}
	return 0
}

// write has hooks take the record for none meanwhile.
func (r *record) write(f func()) {
	atomic.StoreUint32(&r.version, r.version|1)
	f()
	atomic.StoreUint32(&r.version, r.version+1)
}

// begin writes a flow, which a port opened, into a free record, without ways.
func (t *Table) begin(n uint32, f *Flow, opener packet.PortID) {
	r := &t.records[n-1]
	r.write(func() {
		r.nearSrc, r.nearDst, r.farSrc = addressOf(f.Near.Src), addressOf(f.Near.Dst), addressOf(f.Far.Src)
		r.nearSrcPort = bits.ReverseBytes16(f.Near.SrcPort)
		r.nearDstPort = bits.ReverseBytes16(f.Near.DstPort)
		r.farSrcPort = bits.ReverseBytes16(f.Far.SrcPort)
		r.proto, r.generation, r.flags = f.Proto, f.Generation, 0
		if f.Near != f.Far {
			r.flags |= translated
		}
		if f.Pair {
			r.flags |= pair
			t.pairs.Add(1)
		}
		r.flags |= endings(f)
		if f.Untracked {
			r.flags |= untracked
			t.stats.Untracked++
		}
		for d := range r.way {
			w := &r.way[d]
			w.from, w.farDst, w.farDstPort = 0, addressOf(f.Far.Dst).words(), bits.ReverseBytes16(f.Far.DstPort)
			atomic.StoreUint64(&w.packets, 0)
			atomic.StoreUint64(&w.bytes, 0)
			atomic.StoreUint32(&w.used, 0)
			atomic.StoreUint32(&w.ack, 0)
			atomic.StoreUint32(&w.fin, 0)
			w.answered = 0
		}
	})
	t.stamps[n-1].Add(1)
	t.entered[n-1] = uint32(t.tick.Load())
	t.own(n, opener)
	t.stats.Records++
}

// enterWay writes a direction, and has it be found. Where there is no place for its slot, it returns false and the
// direction is not carried.
func (t *Table) enterWay(n uint32, d uint8, to uint32, w *Way) bool {
	r := &t.records[n-1]
	x := &r.way[d&1]
	if x.from != 0 && x.from != uint32(w.In) {
		t.withdrawWay(n, d)
	}
	e := r.ends(d)
	hash := t.control.hash(&e, r.proto, w.In)
	found, way := t.find(hash, &e, r.proto, w.In)
	if found != 0 && (found != n || way != d&1) {
		t.displace(found, n, way)
		found = 0
	}
	t.ports.uses(to, 1)
	r.write(func() {
		if x.from != 0 {
			t.ports.uses(x.to, -1)
		}
		x.from, x.to, x.mac, x.mtu = uint32(w.In), to, w.MAC, uint16(min(max(w.MTU, 0), 0xffff))
		if to == 0 {
			r.flags |= claimed
		}
	})
	if found == 0 && !t.insert(hash, slotOf(hash, d, n)) {
		r.write(func() { x.from = 0 })
		t.ports.uses(to, -1)
		t.stats.Refused++
		return false
	}
	return true
}

// displace has packets no longer be those of another record, or of the same one's other direction.
func (t *Table) displace(found, n uint32, d uint8) {
	t.stats.Displaced++
	if found == n {
		t.withdrawWay(n, d)
		return
	}
	t.evict(found)
}

// withdraw has nothing lead to a record any more, and hooks that are about to use it see so.
func (t *Table) withdraw(n uint32) {
	for d := range uint8(2) {
		t.withdrawWay(n, d)
	}
	r := &t.records[n-1]
	atomic.StoreUint32(&r.version, r.version|1)
}

func (t *Table) withdrawWay(n uint32, d uint8) {
	r := &t.records[n-1]
	w := &r.way[d&1]
	if w.from == 0 {
		return
	}
	e := r.ends(d)
	hash := t.control.hash(&e, r.proto, packet.PortID(w.from))
	t.remove(hash, slotOf(hash, d, n))
	r.write(func() { w.from = 0 })
	t.ports.uses(w.to, -1)
}

// end gives back a record that nothing leads to.
func (t *Table) end(n uint32) {
	t.withdraw(n)
	if t.records[n-1].flags&pair != 0 {
		t.pairs.Add(-1)
	}
	if t.records[n-1].flags&untracked != 0 {
		t.stats.Untracked--
	}
	t.stamps[n-1].Add(1)
	t.grow(n) // which who reads the record is not to take for the flow's
	t.disown(n)
	t.stats.Records--
	at := &t.resting[t.rest%resting]
	if *at != 0 {
		t.free = append(t.free, *at)
	}
	*at = n
	t.rest++
}

// ends are those of packets in direction d.
func (r *record) ends(d uint8) packet.Ends {
	if d&1 == 0 {
		return r.near()
	}
	return r.far().Reverse()
}

func (r *record) near() packet.Ends {
	return packet.Ends{
		Src: r.nearSrc.addr(), Dst: r.nearDst.addr(),
		SrcPort: bits.ReverseBytes16(r.nearSrcPort), DstPort: bits.ReverseBytes16(r.nearDstPort),
	}
}

func (r *record) far() packet.Ends {
	w := &r.way[0]
	return packet.Ends{
		Src: r.farSrc.addr(), Dst: w.farDst.addr(),
		SrcPort: bits.ReverseBytes16(r.farSrcPort), DstPort: bits.ReverseBytes16(w.farDstPort),
	}
}

func (r *record) flow() Flow {
	return Flow{
		Near: r.near(), Far: r.far(), Proto: r.proto, Generation: atomic.LoadUint32(&r.generation),
		Pair: r.flags&pair != 0, Untracked: r.flags&untracked != 0,
		Whole: r.flags&whole != 0, Young: r.youth(),
		Closed: [2]bool{
			r.flags&closed != 0 || atomic.LoadUint32(&r.way[0].fin) != 0,
			r.flags&closedToo != 0 || atomic.LoadUint32(&r.way[1].fin) != 0,
		},
	}
}

// way is what was entered of a direction.
func (t *Table) way(x *way) Way {
	if x.from == 0 {
		return Way{}
	}
	return Way{In: packet.PortID(x.from), Out: t.ports.port(x.to), MAC: x.mac, MTU: int(x.mtu)}
}

// carried reads what hooks have written. It needs no lock.
func (t *Table) carried(n uint32) (c Carried) {
	r := &t.records[n-1]
	used := int64(0)
	c.Young = r.youth()
	for d := range r.way {
		w := &r.way[d]
		c.Traffic[d] = Traffic{Packets: counted(&w.packets), Bytes: counted(&w.bytes)}
		if u := atomic.LoadUint32(&w.used); u != 0 {
			used = max(used, t.extend(u))
		}
		ack := bits.ReverseBytes32(atomic.LoadUint32(&w.ack))
		c.Acks[d], c.Acked[d] = ack, ack != 0 && c.Traffic[d].Bytes != 0
		c.Fins[d] = atomic.LoadUint32(&w.fin)
	}
	if used != 0 {
		c.Used = max(used<<tickShift+t.clock()-t.kernel(), 1)
	}
	return c
}

// counted reads a counter. What a hook takes back again may have been counted of the flow before.
func counted(counter *uint64) uint64 { return uint64(max(int64(atomic.LoadUint64(counter)), 0)) }

// extend is a tick of 32 bits in full: the one that is nearest to the present.
func (t *Table) extend(tick uint32) int64 {
	present := t.tick.Load()
	return present + int64(int32(tick-uint32(present)))
}

// used is when the record was last used, or entered, in ticks.
func (t *Table) used(n uint32) int64 {
	last := t.extend(t.entered[n-1])
	for d := range t.records[n-1].way {
		if u := atomic.LoadUint32(&t.records[n-1].way[d].used); u != 0 {
			last = max(last, t.extend(u))
		}
	}
	return last
}
