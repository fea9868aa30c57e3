// SPDX-License-Identifier: Apache-2.0

package offload

import "time"

// Where all records are taken, the one makes way that has not been used for longest, of a few that a hand comes by as
// it goes round; before it one that waits for the answer to a SYN in vain (connection.go). None does that was used
// within the last seconds: a table that is too small for all that goes on carries some of it all the time rather than
// all of it some of the time. Pairs do not, of which there are half as many as records at most, nor do records that
// keep packets in userspace: without them a pair would take those.
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

// take returns a free record's number, 0 when there is none and none makes way.
func (t *Table) take(pair bool) uint32 {
	if pair && uint32(t.pairs.Load()) >= t.stats.Capacity/2 {
		return 0
	}
	if n := t.takeFree(); n != 0 {
		return n
	}
	if n := t.leastUsed(); n != 0 {
		t.evict(n)
		return t.takeFree()
	}
	return 0
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

// leastUsed is the record that makes way, 0 when none does.
func (t *Table) leastUsed() (least uint32) {
	if len(t.victims) == cap(t.victims) {
		return 0
	}
	oldest := t.kernel()>>tickShift - int64(minUnused)>>tickShift
	for range min(looked, len(t.records)) {
		if t.hand++; int(t.hand) > len(t.records) {
			t.hand = 1
		}
		n := t.hand
		if t.stamps[n-1].Load()&1 == 0 || t.records[n-1].flags&(pair|claimed) != 0 {
			continue
		}
		if t.waitsInVain(n) {
			return n
		}
		if used := t.used(n); used <= oldest {
			least, oldest = n, used
		}
	}
	return least
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
