// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// adopt takes over what is in the memory. Who wrote it may have been killed in the midst of it: slots that lead to
// nothing, and directions that nothing leads to, are taken out, and records that are half written or of which no
// direction is left are free. Hooks may read meanwhile.
func (t *Table) adopt() {
	t.adoptEgresses()
	found := t.adoptAllSlots()
	now := uint32(t.tick.Load())
	for n := uint32(len(t.records)); n > 0; n-- {
		r := &t.records[n-1]
		t.entered[n-1] = now
		t.slots += bits.OnesCount32(found[n-1])
		if r.written() {
			for d := range r.way {
				if w := &r.way[d]; w.from != 0 && found[n-1]&(1<<d) == 0 {
					r.write(func() { w.from = 0 })
					t.stats.Mended++
				}
			}
		}
		if !r.written() || found[n-1] == 0 {
			if r.version != 0 {
				atomic.StoreUint32(&r.version, r.version|1)
			}
			t.free = append(t.free, n)
			continue
		}
		t.stamps[n-1].Store(1)
		t.own(n, t.opener(r))
		t.stats.Records++
		if r.flags&pair != 0 {
			t.pairs.Add(1)
		}
		if r.flags&untracked != 0 {
			t.stats.Untracked++
		}
		if y := r.youth(); y.Is && !y.Answered {
			t.unborn.Add(1)
			t.waits[n-1] = true
		}
		for d := range r.way {
			if w := &r.way[d]; w.from != 0 {
				t.ports.uses(w.to, 1)
			}
		}
	}
	t.ports.adopted()
}

// written: the record is a flow's, and whole. Zeros are nobody's yet.
func (r *record) written() bool { return r.version&1 == 0 && r.version != 0 }

// adoptAllSlots empties slots that lead to nothing, or that another one leads to. It returns the directions that are
// found, by record. Records are where no cache has them, so that all CPUs look for them: no packet passes before.
func (t *Table) adoptAllSlots() []uint32 {
	found := make([]uint32, len(t.records))
	var mended atomic.Uint64
	var looking sync.WaitGroup
	each := len(t.buckets)/runtime.NumCPU() + 1
	for first := 0; first < len(t.buckets); first += each {
		looking.Go(func() { mended.Add(t.adoptSlots(first, min(first+each, len(t.buckets)), found)) })
	}
	looking.Wait()
	t.stats.Mended += mended.Load()
	return found
}

// adoptSlots does so for the buckets from first to before end, and returns how many slots it has emptied.
func (t *Table) adoptSlots(first, end int, found []uint32) (mended uint64) {
	for b := first; b < end; b++ {
		for i := range t.buckets[b] {
			s := &t.buckets[b][i]
			if *s == 0 {
				continue
			}
			if uint32(b) > t.control.bucketMask { // of an index that was about to grow
				atomic.StoreUint64(s, 0)
				continue
			}
			n, way := uint32(*s), uint32(1)<<(*s>>32&1)
			if !t.leads(uint32(b), *s) || atomic.OrUint32(&found[n-1], way)&way != 0 {
				atomic.StoreUint64(s, 0)
				mended++
			}
		}
	}
	return mended
}

// leads: a slot of a bucket is that of a record's direction.
func (t *Table) leads(b uint32, slot uint64) bool {
	n, d := uint32(slot), uint8(slot>>32)&1
	if n == 0 || int(n) > len(t.records) {
		return false
	}
	r := &t.records[n-1]
	w := &r.way[d]
	if !r.written() || w.from == 0 || w.to > t.ports.top {
		return false
	}
	e := r.ends(d)
	hash := t.control.hash(&e, r.proto, packet.PortID(w.from))
	places := t.control.places(hash)
	return slotOf(hash, d, n) == slot && (places[0] == b || places[1] == b)
}

// adoptEgresses finds the places of egresses. Of two that are one port's, one leads nowhere.
func (t *Table) adoptEgresses() {
	x := &t.ports
	x.numbers, x.most = make(map[packet.PortID]uint32), uint32(len(t.egresses))
	for n := 1; n < len(t.egresses); n++ {
		e := &t.egresses[n]
		if *e == (egress{}) {
			continue
		}
		x.grow(uint32(n))
		port := packet.PortID(e.port)
		if _, twice := x.numbers[port]; e.kind != uint8(None) && (twice || port == 0) {
			e.lead(None)
		}
		if e.kind != uint8(None) {
			x.numbers[port], x.ports[n] = uint32(n), port
		}
	}
}

// adopted has places that nothing leads to, nor that lead anywhere, be free.
func (x *egressNumbers) adopted() {
	x.grow(0)
	for n := uint32(1); n <= x.top; n++ {
		if x.ports[n] == 0 && x.used[n] == 0 {
			x.free = append(x.free, n)
		}
	}
}
