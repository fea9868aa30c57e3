// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// A TCP flow that is translated has other ends on the way to its other end, and those may be between the addresses of a
// pair. The pair must have neither its answers, which would reach the opener as they are, nor what the opener sends
// from the same port without the service: that is another connection, which needs another port. So as the flow is
// opened both are claimed for userspace, before its first packet leaves; until they are, as far as the kernel carries
// the flow, it has records of its own. A pair whose addresses such a flow already has is not entered.

// betweens counts TCP flows that are translated and not over, by the addresses that they have on the way to the other
// end: a count-min sketch, of which the lower of two counters counts. It may say too much.
type betweens [2][]atomic.Int32

func (c *betweens) init(flows int) {
	for i := range c {
		c[i] = make([]atomic.Int32, ceilPower(max(flows/4, 64)))
	}
}

func (c *betweens) of(keys *Seed, a, b packet.Addr) (x, y *atomic.Int32) {
	var k key
	k.set(a, b, 0, 0, packet.ProtoTCP, 0, false)
	h := keys.hash(&k)
	mask := uint32(len(c[0]) - 1)
	return &c[0][uint32(h)&mask], &c[1][uint32(h>>32)&mask]
}

func (c *betweens) count(keys *Seed, k *key, by int32) {
	x, y := c.of(keys, k.lo, k.hi)
	x.Add(by)
	y.Add(by)
}

// some says whether there are such flows between two addresses.
func (c *betweens) some(keys *Seed, a, b packet.Addr) bool {
	x, y := c.of(keys, a, b)
	return min(x.Load(), y.Load()) > 0
}

// mayMeetPair: the entry is of a flow whose packets a pair might take for its own.
func (e *entry) mayMeetPair() bool {
	return e.flags&(translated|oneWay) == translated && e.key.proto() == packet.ProtoTCP
}

// claimEnds claims the ends of a flow that was opened just now, if there is a pair that has them; where there is no
// room for that, the pair goes.
func (t *Table) claimEnds(o *opening, far packet.Ends) {
	if t.kernel == nil || o.proto != packet.ProtoTCP || o.tr.Direct {
		return
	}
	ref, _ := t.kernel.Pair(far.Dst, far.Src, packet.PortID(o.other))
	if ref == 0 || t.Claim(o.s) && (far == o.ends || t.claimFar(far, packet.PortID(o.port))) {
		return
	}
	t.pairs.mu.Lock()
	t.dropPair(ref, far.Src, far.Dst, o.now)
	t.pairs.mu.Unlock()
}

// claimFar has packets that come with the far ends as they are be userspace's.
func (t *Table) claimFar(far packet.Ends, in packet.PortID) bool {
	f := offload.Flow{Near: far, Far: far, Proto: packet.ProtoTCP}
	_, ok := t.kernel.Enter(0, &f, 0, &offload.Way{In: in})
	if ok {
		t.pairs.claims.Add(1)
	}
	return ok
}

// countEnds counts the far ends of a flow that is opened, or is over.
func (sh *shard) countEnds(n uint32, by int32) {
	if t := sh.table; t.kernel != nil {
		t.pairs.between.count(&t.keys, &sh.entries[n-1].key, by)
	}
}

// unclaimFar takes claimFar's record out, if there is one.
func (sh *shard) unclaimFar(n uint32) {
	t, e := sh.table, &sh.entries[n-1]
	if t.pairs.claims.Load() == 0 {
		return
	}
	_, far := sh.ends(n, 0)
	ref, d := t.kernel.Find(far, packet.ProtoTCP, packet.PortID(uint32(e.ports)))
	if f, ways, is := t.kernel.Flow(ref); is && d == 0 && t.claimsFar(ref, &f, &ways) {
		t.kernel.Remove(ref)
		t.pairs.claims.Add(-1)
	}
}

// claimsFar: the record is one of claimFar's.
func (t *Table) claimsFar(ref offload.Ref, f *offload.Flow, ways *[2]offload.Way) bool {
	return f.Near == f.Far && ways[1].In == 0 && t.kernel.Claimed(ref)
}
