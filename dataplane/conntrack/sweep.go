// SPDX-License-Identifier: Apache-2.0

package conntrack

import "github.com/viaduct-net/viaduct/dataplane/packet"

// sweepShare is the reciprocal of the share of a shard that one call of Sweep looks at: 32 calls for each part go
// round. It holds a lock for microseconds.
const sweepShare = 32

// Sweep frees expired entries, and aliases that are left over, of the shards whose number modulo parts is part. It
// looks at a few of them in each call. Track does not see an expired entry anyway: this is for the limits and for those
// who count.
func (t *Table) Sweep(now int64, part, parts int) {
	tick := tickOf(now)
	for i := part; i < len(t.shards); i += max(parts, 1) {
		t.shards[i].sweep(tick)
	}
	t.hearEvicted()
}

// Forget frees the flows that have one of the ports at an end: its number, and the addresses behind it, may be another
// station's next. It looks at all of the table, some milliseconds for 100,000 entries, and holds each lock in turn.
func (t *Table) Forget(gone map[packet.PortID]bool) {
	for i := range t.shards {
		t.shards[i].forget(gone)
	}
}

func (sh *shard) forget(gone map[packet.PortID]bool) {
	sh.lock.Lock()
	defer sh.lock.Unlock()
	left := len(sh.entries) - int(sh.counts[free])
	for i := 0; left > 0; i++ {
		e := &sh.entries[i]
		if e.state == free {
			continue
		}
		left--
		if gone[packet.PortID(uint32(e.ports))] || gone[packet.PortID(e.ports>>32)] {
			sh.free(uint32(i+1), causeForgotten)
		}
	}
}

func (sh *shard) sweep(tick uint32) {
	sh.lock.Lock()
	defer sh.lock.Unlock()
	sh.sweepAliases()
	size := uint32(len(sh.entries))
	if sh.counts[free] == size {
		return
	}
	for range min(size/sweepShare+1, size) {
		if sh.cursor >= size {
			sh.cursor = 0
		}
		if sh.entries[sh.cursor].state != free && sh.expired(sh.cursor+1, tick) {
			sh.free(sh.cursor+1, causeExpired)
		}
		sh.cursor++
	}
}
