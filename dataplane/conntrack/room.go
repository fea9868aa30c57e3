// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/cacheline"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Whose place a new flow takes when its shard is full, first to last:
//
//   - of the flow that has been over for longest: closed, in time wait, or a question that was answered (classDone).
//     Without this a busy table would throw away handshakes in favour of flows that are done;
//   - of the flow that has waited for an answer for longest (classHalf);
//   - of the most idle of a few others, if nothing came of it in a while.
//
// A SYN takes the place of the first kind alone, and else gets a fingerprint: see syn.go. Of a flow that is to be
// translated a fingerprint cannot tell how, so that its SYN takes the place of the second kind; that of a source which
// has as many unanswered flows as it may, the place of its own.
const (
	sampled  = 8
	minIdle  = 10 * time.Second
	doneIdle = 2 * time.Second // a question that was answered may go on
)

var (
	minIdleTicks  = ticks(int64(minIdle))
	doneIdleTicks = ticks(int64(doneIdle))
)

// room is whose place may be taken.
type room uint8

const (
	ofDone room = iota
	ofHalf      // and of those who wait for an answer
	ofIdle      // and of the most idle
)

// take returns a free entry's number, 0 when there is none and none may go.
func (sh *shard) take(place room, tick uint32) uint32 {
	if sh.lists[listFree].newest == 0 && !sh.evict(place, tick) {
		return 0
	}
	n := sh.lists[listFree].newest // what it was is likely to be in the cache still
	sh.unlink(listFree, n)
	sh.foretell()
	return n
}

// foretell publishes, for foresee.go, the entry that take is likely to return next.
func (sh *shard) foretell() {
	n := sh.lists[listFree].newest
	if n == 0 {
		n = sh.lists[classDone].oldest
	}
	if n == 0 {
		n = sh.lists[classHalf].oldest
	}
	cacheline.Publish32(&sh.likely, n)
}

func (sh *shard) evict(place room, tick uint32) bool {
	if n := sh.done(tick); n != 0 {
		sh.makeWay(n, causeEvictedDone, tick)
		return true
	}
	if place >= ofHalf && sh.evictHalf(tick) {
		return true
	}
	if place < ofIdle {
		return false
	}
	if n := sh.mostIdle(tick); n != 0 {
		sh.makeWay(n, causeEvictedIdle, tick)
		return true
	}
	return false
}

// evictHalf evicts the flow that has waited for an answer for longest.
func (sh *shard) evictHalf(tick uint32) bool {
	n := sh.waiting(sh.lists[classHalf].oldest)
	if n == 0 {
		return false
	}
	sh.makeWay(n, causeEvictedHalf, tick)
	return true
}

// waiting is n, or the next after it in the list of those that wait for an answer of which the kernel has carried none;
// 0: none of a few is.
func (sh *shard) waiting(n uint32) uint32 {
	for range sampled {
		if n == 0 {
			return 0
		}
		e, next := &sh.entries[n-1], sh.links[n].newer
		if e.flags&offloaded != 0 {
			sh.catchUp(n)
		}
		if classes[e.state] == classHalf {
			return n
		}
		n = next
	}
	return 0
}

// evictHalfOf evicts a flow of a source that has as many unanswered ones as it may, and nobody else's: the oldest of
// them, if it is among the oldest of all, as those of one who floods are.
func (sh *shard) evictHalfOf(src packet.Addr, tick uint32) bool {
	n := sh.lists[classHalf].oldest
	for range sampled {
		if n = sh.waiting(n); n == 0 {
			return false
		}
		if sh.source(n) == src {
			sh.makeWay(n, causeEvictedHalf, tick)
			return true
		}
		n = sh.links[n].newer
	}
	return false
}

// done returns the oldest of the flows that are over. Questions that go on, such as a ping's, stand behind the others
// from then on.
func (sh *shard) done(tick uint32) uint32 {
	for range sampled {
		n := sh.lists[classDone].oldest
		if n == 0 {
			return 0
		}
		idle := sh.idle(n, tick)
		switch e := &sh.entries[n-1]; {
		case classes[e.state] != classDone: // it turned out to go on
			continue
		case e.state.closed() || idle >= doneIdleTicks:
			return n
		}
		sh.unlink(classDone, n)
		sh.push(classDone, n)
	}
	return 0
}

func (sh *shard) makeWay(n uint32, why cause, tick uint32) {
	if sh.expired(n, tick) {
		why = causeExpired
	}
	sh.free(n, why)
}

// mostIdle samples entries, beginning at a random one, and returns the most idle.
func (sh *shard) mostIdle(tick uint32) (most uint32) {
	sh.dice = sh.dice*1664525 + 1013904223 // Numerical Recipes' generator: nobody else draws from it
	size := uint32(len(sh.entries))
	at := uint32(uint64(sh.dice) * uint64(size) >> 32)
	longest := minIdleTicks
	for range min(sampled, size) {
		e := &sh.entries[at]
		if e.state != free && classes[e.state] == classOpen {
			if idle := sh.idle(at+1, tick); idle >= longest {
				most, longest = at+1, idle
			}
		}
		if at++; at == size {
			at = 0
		}
	}
	return most
}
