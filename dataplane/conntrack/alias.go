// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/cacheline"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// alias leads from the ends that a translated flow's opener sends to its entry, which lies where the translated ends
// hash to, mostly in another shard: a cache line. It is only a hint. No two shards are locked at once, so that the flow
// may be gone, and the entry another's: who follows it compares with the record.
type alias struct {
	key   key
	hash  uint64 // of the entry's key
	n     uint32 // the entry's number; 0: the alias is unused
	stamp uint32 // the record's
	next  uint32 // unused ones are chained
	from  uint8  // of the opener, as of key.set
}

// aliases is the aliases of a shard and their index. Numbers are 1 and up.
type aliases struct {
	// What who opens a flow needs comes first, and fills a line of the cache.
	used   uint32 // how many there are
	top    uint32 // how many there ever were; the memory behind has not been touched
	unused uint32 // the first of the chain
	likely uint32 // what next said last; published for foresee.go
	slots  index
	all    []alias

	over   atomic.Bool // of some the flow may be gone
	left   uint32      // of a sweep: how many are to be looked at
	cursor uint32
}

// aliasesFor is how many aliases a shard of so many entries has. Were all flows translated, there would be as many of
// either, and the hash fills shards within 5 %.
func aliasesFor(entries int) int { return entries + entries/8 + 1 }

func (a *aliases) init(m memory, i, shards int) {
	each, slots := len(m.aliases)/shards, len(m.aliasSlots)/shards
	a.all, a.slots = m.aliases[i*each:(i+1)*each], m.aliasSlots[i*slots:(i+1)*slots]
}

func (a *aliases) find(hash uint64, k *key) uint32 {
	mask := uint32(len(a.slots) - 1)
	for i := uint32(hash) & mask; ; i = (i + 1) & mask {
		v := a.slots[i]
		if v == 0 {
			return 0
		}
		if uint32(v>>32) != uint32(hash) {
			continue
		}
		if n := uint32(v); a.all[n-1].key.is(k) {
			return n
		}
	}
}

// add returns false when there is no room.
func (a *aliases) add(x *aim, to *aim, n, stamp uint32) bool {
	at := a.next()
	switch at {
	case 0:
		return false
	case a.unused:
		a.unused = a.all[at-1].next
	default:
		a.top = at
	}
	l := &a.all[at-1]
	l.key, l.stamp, l.next, l.from = x.k, stamp, 0, x.from
	l.lead(to.hash, n)
	a.slots.insert(x.hash, at)
	a.used++
	cacheline.Publish32(&a.likely, a.next())
	return true
}

// next is the number of the alias that is used next; 0: there is no room.
func (a *aliases) next() uint32 {
	if a.unused == 0 && int(a.top) < len(a.all) {
		return a.top + 1
	}
	return a.unused
}

// lead has an alias lead to an entry. It publishes what foresee.go reads without the lock.
func (a *alias) lead(hash uint64, n uint32) {
	cacheline.Publish64(&a.hash, hash)
	cacheline.Publish32(&a.n, n)
}

// remove removes the alias of a stamp, if it is there still.
func (a *aliases) remove(hash uint64, k *key, stamp uint32) {
	n := a.find(hash, k)
	if n == 0 || a.all[n-1].stamp != stamp {
		return
	}
	a.slots.remove(hash, n)
	a.all[n-1].next = a.unused
	a.all[n-1].lead(0, 0)
	a.unused = n
	a.used--
	cacheline.Publish32(&a.likely, n)
}

// holds: the alias is of this shard's entry of its number.
func (sh *shard) holds(a *alias) bool {
	e, r := &sh.entries[a.n-1], &sh.records[a.n-1]
	if e.state == free || e.flags&aliased == 0 || r.stamp != a.stamp {
		return false
	}
	var x packet.Ends
	a.key.ends(a.from, &x)
	return r.ends.Src == x.Src && r.ends.Dst == x.Dst && r.ends.SrcPort == x.SrcPort && r.ends.DstPort == x.DstPort
}

// unalias removes the alias of an entry that is about to be free. Where that one's shard is busy it is left over, for
// whoever finds it or sweeps.
func (sh *shard) unalias(n uint32) {
	r := &sh.records[n-1]
	e := &sh.entries[n-1]
	at := sh.table.shard(r.hash)
	if at != sh {
		if !at.lock.TryLock() {
			at.aliases.over.Store(true)
			return
		}
		defer at.lock.Unlock()
	}
	var k key
	k.set(r.ends.Src, r.ends.Dst, r.ends.SrcPort, r.ends.DstPort, e.key.proto(), e.key.kind(), false)
	at.aliases.remove(r.hash, &k, r.stamp)
}

// sweepAliases frees those that are left over, where there may be some. Like Sweep it looks at a few of them at a time.
func (sh *shard) sweepAliases() {
	a := &sh.aliases
	if a.over.Load() && a.over.Swap(false) {
		a.left = a.top
	}
	if a.left == 0 {
		return
	}
	some := min(a.top/sweepShare+1, a.left)
	a.left -= some
	for range some {
		if a.cursor >= a.top {
			a.cursor = 0
		}
		if l := &a.all[a.cursor]; l.n != 0 && sh.leftOver(l) {
			a.remove(sh.limits.keys.hash(&l.key), &l.key, l.stamp)
		}
		a.cursor++
	}
}

// leftOver: the flow of an alias of this shard is gone. Where its shard is busy it is for the next sweep to say.
func (sh *shard) leftOver(a *alias) bool {
	at := sh.table.shard(a.hash)
	if at == sh {
		return !sh.holds(a)
	}
	if !at.lock.TryLock() {
		sh.aliases.over.Store(true)
		return false
	}
	defer at.lock.Unlock()
	return !at.holds(a)
}
