// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Of the index as many buckets are in use as what is in it needs: each that hooks look into is a line of cache and,
// where there are many, a page table entry that is in no cache. It doubles, a few buckets with each insertion:
//
//   - first each slot whose hash belongs into the upper half, once there is one, is copied there, to the same place of
//     the bucket that differs in the mask's next bit; hooks look where they have looked before;
//   - then the mask is another one, and everything is found where it says;
//   - then what is left over in the lower half is emptied. A hook that has read the mask before may miss it.
//
// Who is killed in between leaves copies, which adopt takes out. An index does not shrink.
const (
	leastBuckets = 1024 // in use of an index that is empty, where there are so many
	growAt       = 4    // slots of a bucket in use, on average, from which on the index doubles
	growStep     = 4    // buckets that one insertion copies, or tidies
)

// growth is how far that has come.
type growth struct {
	from   uint32 // buckets in use before; 0: the index does not grow
	at     uint32 // the first bucket that is not copied, or not tidied
	copied bool   // everything is at its place, and hooks look there
}

// bucketsAtFirst are in use of an empty index with room for so many.
func bucketsAtFirst(room int) int { return min(room, leastBuckets) }

func (t *Table) growIndex() {
	g := &t.growth
	if g.from == 0 {
		used := t.control.bucketMask + 1
		if t.slots < growAt*int(used) || int(used) == len(t.buckets) {
			return
		}
		*g = growth{from: used}
	}
	for end := min(g.at+growStep, g.from); g.at < end; g.at++ {
		if g.copied {
			t.tidy(g.at)
		} else {
			t.copyUp(g.at)
		}
	}
	switch {
	case g.at < g.from:
	case g.copied:
		*g = growth{}
	default:
		atomic.StoreUint32(&t.control.bucketMask, 2*g.from-1)
		g.copied, g.at = true, 0
	}
}

func (t *Table) copyUp(b uint32) {
	for i, s := range t.buckets[b] {
		if s != 0 && t.goesUp(b, t.hashOf(s)) {
			atomic.StoreUint64(&t.buckets[b+t.growth.from][i], s)
		}
	}
}

func (t *Table) tidy(b uint32) {
	for i := range t.buckets[b] {
		if t.isLeftOver(b, i) {
			atomic.StoreUint64(&t.buckets[b][i], 0)
		}
	}
}

// goesUp says of a hash in a bucket whether it belongs into the one above, once there is one. It is in one of both: the
// buckets of a hash differ in their first bit.
func (t *Table) goesUp(b uint32, hash uint64) bool {
	places := placesOf(hash, 2*t.growth.from-1)
	return places[0] == b+t.growth.from || places[1] == b+t.growth.from
}

// isLeftOver says of a slot of a bucket whether it is in the one above, where hooks look, as well.
func (t *Table) isLeftOver(b uint32, i int) bool {
	g := &t.growth
	return g.copied && b >= g.at && b < g.from && t.buckets[b][i] != 0 && t.buckets[b][i] == t.buckets[b+g.from][i]
}

// fill writes a slot of a hash, and its copy.
func (t *Table) fill(b uint32, i int, hash, slot uint64) {
	atomic.StoreUint64(&t.buckets[b][i], slot)
	if g := &t.growth; !g.copied && b < g.at && t.goesUp(b, hash) {
		atomic.StoreUint64(&t.buckets[b+g.from][i], slot)
	}
}

// empty empties a slot, and its copy or what is left over of it.
func (t *Table) empty(b uint32, i int) {
	g := &t.growth
	switch {
	case !g.copied && b < g.at:
		atomic.StoreUint64(&t.buckets[b+g.from][i], 0)
	case g.copied && b >= g.from && t.isLeftOver(b-g.from, i):
		atomic.StoreUint64(&t.buckets[b-g.from][i], 0)
	}
	atomic.StoreUint64(&t.buckets[b][i], 0)
}

// hashOf is that of a slot which leads to a record.
func (t *Table) hashOf(slot uint64) uint64 {
	r, d := &t.records[uint32(slot)-1], uint8(slot>>32)&1
	e := r.ends(d)
	return t.control.hash(&e, r.proto, packet.PortID(r.way[d].from))
}
