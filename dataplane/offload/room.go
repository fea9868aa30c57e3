// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Where all records are taken, the one makes way that has not been used for longest, of a few that a hand comes by as
// it goes round; before it one that waits for the answer to a SYN in vain (connection.go). None does that was used
// within the last seconds, but for a port that has much less of the table (share.go): a table that is too small for all
// that goes on carries some of it all the time rather than all of it some of the time. Pairs do not, of which there are
// half as many as records at most, nor do records that keep packets in userspace: without them a pair would take those.
//
// The owner of a record that made way finds out by its Ref, and is told by TakeEvicted. Until he was, what is known of
// the record is kept; where too many owners have not been told none makes way.
const (
	looked     = 8
	minUnused  = 5 * time.Second
	maxVictims = 256
	resting    = 64
)

// victim is a record that made way.
type victim struct {
	ref     Ref
	flow    Flow
	carried Carried
}

// take returns the number of a free record for a flow that a port opened, 0 when there is none and none makes way.
func (t *Table) take(opener packet.PortID, pair bool) uint32 {
	if pair && uint32(t.pairs.Load()) >= t.stats.Capacity/2 {
		return 0
	}
	s := t.shareOf(opener)
	if t.full(s) {
		n := t.leastUsedOf(s)
		if n == 0 {
			s.Refused++
			t.stats.RefusedShare++
			return 0
		}
		t.yields(n)
	}
	if n := t.takeFree(); n != 0 {
		return n
	}
	n, poor := t.leastUsed(s)
	switch {
	case n == 0:
		return 0
	case poor:
		t.yields(n)
	default:
		t.evict(n)
	}
	return t.takeFree()
}

// yields evicts a record since its port has too many.
func (t *Table) yields(n uint32) {
	t.shares[t.places[n-1].owner].Evicted++
	t.stats.EvictedShare++
	t.evict(n)
}

// takeFree is a free record: the last that has rested, or the one that has rested for longest; 0: there is none.
func (t *Table) takeFree() (n uint32) {
	if last := len(t.free) - 1; last >= 0 {
		n = t.free[last]
		t.free = t.free[:last]
		return n
	}
	if t.stats.Records == t.stats.Capacity {
		return 0
	}
	for i := range uint32(resting) {
		if at := &t.resting[(t.rest+i)%resting]; *at != 0 {
			n, *at = *at, 0
			return n
		}
	}
	return 0
}

// oldest is when a record that makes way was used last, at the latest, in ticks.
func (t *Table) oldest() int64 { return t.kernel()>>tickShift - int64(minUnused)>>tickShift }

// movable: the record may make way.
func (t *Table) movable(n uint32) bool {
	return t.stamps[n-1].Load()&1 != 0 && t.records[n-1].flags&(pair|claimed) == 0 && len(t.victims) < cap(t.victims)
}

// leastUsed is the record that makes way for another port's, 0 when none does; used: it is in use, and that port has
// much less.
func (t *Table) leastUsed(of *share) (least uint32, used bool) {
	oldest, latest := t.oldest(), int64(math.MaxInt64)
	var rich uint32
	for range min(looked, len(t.records)) {
		if t.hand++; int(t.hand) > len(t.records) {
			t.hand = 1
		}
		n := t.hand
		if !t.movable(n) {
			continue
		}
		if t.waitsInVain(n) {
			return n, false
		}
		switch used := t.used(n); {
		case used <= oldest:
			least, oldest = n, used
		case used < latest && t.richer(n, of):
			rich, latest = n, used
		}
	}
	if least == 0 {
		return rich, rich != 0
	}
	return least, false
}

// evict removes a record, for whose owner what is known of it is kept, if there is room for that.
func (t *Table) evict(n uint32) {
	v := victim{ref: t.ref(n), flow: t.records[n-1].flow()}
	t.withdraw(n)
	v.carried = t.carried(n)
	t.end(n)
	t.stats.Evicted++
	if len(t.victims) < cap(t.victims) && !v.flow.Untracked {
		t.victims = append(t.victims, v)
		t.waiting.Store(int32(len(t.victims)))
	}
}

// NextEvicted returns a record that was evicted, and of whose owner nobody has called Remove since; 0: there is none.
// Who calls it calls Remove, or has the owner do so, lest others may not be evicted.
func (t *Table) NextEvicted() (Ref, Flow) {
	if t.waiting.Load() == 0 {
		return 0, Flow{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.victims) == 0 {
		return 0, Flow{}
	}
	v := &t.victims[len(t.victims)-1]
	return v.ref, v.flow
}

// forgetVictim returns what was known of a record that was evicted, once.
func (t *Table) forgetVictim(ref Ref) (Carried, bool) {
	for i := range t.victims {
		if t.victims[i].ref != ref {
			continue
		}
		c, last := t.victims[i].carried, len(t.victims)-1
		t.victims[i] = t.victims[last]
		t.victims = t.victims[:last]
		t.waiting.Store(int32(last))
		return c, true
	}
	return Carried{}, false
}
