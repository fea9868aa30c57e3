// SPDX-License-Identifier: Apache-2.0

package conntrack

import "sync"

// shard is a part of the table behind one lock. Numbers of entries are 1 and up everywhere, 0 being none.
//
// Who holds a shard's lock takes another's by TryLock alone.
//
// There are so many shards that the near caches do not hold them: fields are in the order of the cache's lines, and who
// opens a flow needs five of them, each of which foresee.go has fetched.
type shard struct {
	lock    sync.Mutex // held inside calls only; a spin lock was measured and is no faster
	likely  uint32     // see foretell
	dice    uint32     // of evictions
	slots   index      // of the entries
	entries []entry

	lists  [numClasses]list // classHalf and classDone by age; the free entries in classOpen's place
	links  []link           // by number; number 0 unused
	limits *limits
	table  *Table

	records    []record // by number, and 1: of the entries that are translated
	translated uint32   // entries
	stamps     uint32   // the last that a translated entry was given
	// carriedFrom is, by state, how many packets of a direction there are to be before the kernel carries it.
	carriedFrom *[32]uint64
	cursor      uint32   // of Sweep
	held        *mapping // that the arrays are of

	count     counters
	counts    [numStates]uint32
	carriages []carriage // by number, and 1: of the entries that are offloaded

	aliases aliases

	marks []uint64
	syns  []uint32 // see repeat.go
}

// link is an entry's neighbours in its list.
type link struct{ older, newer uint32 }

// list is entries in the order in which they came.
type list struct{ oldest, newest uint32 }

func (sh *shard) init(t *Table, m memory, i, each, slots int) {
	shards := len(t.shards)
	sh.limits, sh.table, sh.held = &t.limits, t, m.held
	sh.slots = m.slots[i*slots : (i+1)*slots]
	sh.entries = m.entries[i*each : (i+1)*each]
	sh.links = m.links[i*(each+1) : (i+1)*(each+1)]
	sh.marks = m.marks[i*slots/2 : (i+1)*slots/2]
	syns := len(m.syns) / shards
	sh.syns = m.syns[i*syns : (i+1)*syns]
	sh.records = m.records[i*each : (i+1)*each]
	sh.carriedFrom = &never
	sh.carriages = m.carriages[i*each : (i+1)*each]
	sh.aliases.init(m, i, shards)
	sh.dice, sh.stamps = uint32(i)+1, uint32(i)
	for n := each; n > 0; n-- { // the newest is taken first
		sh.push(listFree, uint32(n))
	}
	sh.counts[free] = uint32(each)
	sh.foretell()
	sh.aliases.likely = sh.aliases.next()
}

// listFree is the list of free entries, which have no class.
const listFree = classOpen

func (sh *shard) push(c class, n uint32) {
	l := &sh.lists[c]
	sh.links[n] = link{older: l.newest}
	if l.newest != 0 {
		sh.links[l.newest].newer = n
	} else {
		l.oldest = n
	}
	l.newest = n
}

func (sh *shard) unlink(c class, n uint32) {
	l, at := &sh.lists[c], sh.links[n]
	if at.older != 0 {
		sh.links[at.older].newer = at.newer
	} else {
		l.oldest = at.newer
	}
	if at.newer != 0 {
		sh.links[at.newer].older = at.older
	} else {
		l.newest = at.older
	}
}

// find returns the number of the key's entry.
func (sh *shard) find(hash uint64, k *key) uint32 {
	mask := uint32(len(sh.slots) - 1)
	for i := uint32(hash) & mask; ; i = (i + 1) & mask {
		v := sh.slots[i]
		if v == 0 {
			return 0
		}
		if uint32(v>>32) != uint32(hash) {
			continue
		}
		if n := uint32(v); sh.entries[n-1].key.is(k) {
			return n
		}
	}
}

// enter moves an entry to a state, and to the list of its class.
func (sh *shard) enter(n uint32, next state) {
	e := &sh.entries[n-1]
	if e.state == next {
		return
	}
	sh.counts[e.state]--
	sh.counts[next]++
	was, is := classes[e.state], classes[next]
	if shaking := e.state.handshake(); shaking != next.handshake() {
		by := int32(1)
		if shaking {
			by = -1
		}
		sh.limits.handshakes(uint32(e.ports), by)
	}
	if next.closed() && !e.state.closed() && e.mayMeetPair() {
		sh.countEnds(n, -1)
	}
	e.state = next
	if e.flags&offloaded != 0 && next.closed() {
		sh.withdraw(n)
	}
	if e.flags&translated != 0 && next.closed() {
		sh.leave(n, true)
	}
	if was == is {
		return
	}
	if was != classOpen {
		sh.unlink(was, n)
	}
	switch classHalf {
	case was:
		sh.limits.sourceLeaves(sh.source(n))
	case is:
		sh.limits.sourceEnters(sh.source(n))
	}
	if is != classOpen {
		sh.push(is, n)
	}
}

// free gives an entry back.
func (sh *shard) free(n uint32, why cause) {
	e := &sh.entries[n-1]
	if e.flags&offloaded != 0 {
		sh.setDown(n)
	}
	sh.slots.remove(sh.limits.keys.hash(&e.key), n)
	c := classes[e.state]
	if c != classOpen {
		sh.unlink(c, n)
	}
	if c == classHalf {
		sh.limits.sourceLeaves(sh.source(n))
	}
	if e.flags&translated != 0 {
		sh.forgetTranslation(n, why)
	}
	if e.state.handshake() {
		sh.limits.handshakes(uint32(e.ports), -1)
	}
	sh.limits.portLeaves(uint32(e.ports))
	sh.counts[e.state]--
	sh.counts[free]++
	e.state = free
	sh.push(listFree, n)
	sh.foretell()
	sh.count.closed[why]++
}
