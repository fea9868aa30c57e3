// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"iter"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// FlowID is a flow of the table that the kernel carries, for as long as it does.
type FlowID struct {
	hash uint64
	at   uint32
	ref  offload.Ref
}

// CarriedFlow is a flow that the kernel carries, for one who looks whether it still should.
type CarriedFlow struct {
	ID FlowID
	// Tuple is the flow for policy: as Seen.Tuple is.
	Tuple Tuple
	// Near are the ends of what the opener sends, Far of what the other end gets.
	Near, Far packet.Ends
	In, Out   packet.PortID // the opener is behind In, the other end behind Out
	// Ways are what was entered, the opener's first; zero those that are not carried.
	Ways       [2]offload.Way
	Generation uint32 // of policy that let it
	Rule       uint32
	Backend    uint32 // 0: none
	Used       int64  // when the kernel last carried a packet of it, ns; 0: it has not
}

// Kernel is Config.Offload.
func (t *Table) Kernel() *offload.Table { return t.kernel }

// Carry has the kernel carry what comes in the direction of a packet that was sent on, as Seen.Carry asks, by a way
// that repeats what became of it. It returns false where the kernel does not.
func (t *Table) Carry(s *Seen, w *offload.Way) bool {
	if t.kernel == nil || s.at == 0 || w.Out == 0 {
		return false
	}
	d := uint8(0)
	if s.Reply {
		d = 1
	}
	sh := t.shard(s.hash)
	sh.lock.Lock()
	ok := false
	if e := sh.known(s); e != nil && e.packets[d] >= sh.carriedFrom[e.state&31] && e.flags&(oneWay|revoked) == 0 {
		ok = sh.carry(s.at, d, w)
	}
	sh.lock.Unlock()
	t.hearEvicted()
	return ok
}

// Claim has the kernel leave the packets of a flow to userspace, in both directions, whatever pair there is, for as
// long as the flow is remembered; Carry takes precedence. s is of a packet that Open or OpenTranslated has opened a
// flow for, or of a Known one. It returns false where there is no room for it: then a pair that would carry its
// packets has to go.
func (t *Table) Claim(s *Seen) bool {
	if t.kernel == nil || s.at == 0 {
		return false
	}
	sh := t.shard(s.hash)
	sh.lock.Lock()
	ok := false
	if e := sh.known(s); e != nil {
		c := &sh.carriages[s.at-1]
		in, out := packet.PortID(uint32(e.ports)), packet.PortID(e.ports>>32)
		ok = true
		for d, from := range []packet.PortID{in, out} {
			if c.entered>>d&1 == 0 {
				ok = sh.put(s.at, uint8(d), &offload.Way{In: from}) && ok
			}
		}
	}
	sh.lock.Unlock()
	t.hearEvicted()
	return ok
}

// known is the entry of what Seen says, nil when another flow has taken its place.
func (sh *shard) known(s *Seen) *entry {
	if e := &sh.entries[s.at-1]; e.state != free && sh.limits.keys.hash(&e.key) == s.hash {
		return e
	}
	return nil
}

func (sh *shard) carry(n uint32, d uint8, w *offload.Way) bool {
	if !sh.put(n, d, w) {
		return false
	}
	sh.carriages[n-1].entered |= 1 << d
	return true
}

// put enters a direction into the kernel's table. A flow without ports looks like a pair.
func (sh *shard) put(n uint32, d uint8, w *offload.Way) bool {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	near, far := sh.ends(n, 0)
	if near.SrcPort|near.DstPort == 0 || far.SrcPort|far.DstPort == 0 || w.In == 0 {
		return false
	}
	if e.flags&offloaded == 0 {
		*c = carriage{}
		e.flags |= offloaded
	}
	f := offload.Flow{
		Near: near, Far: far, Proto: e.key.proto(), Generation: e.generation, Whole: e.key.proto() == packet.ProtoTCP,
	}
	ref, ok := sh.table.kernel.Enter(c.ref, &f, d, w)
	if c.ref != 0 && ref == 0 { // it had to make way
		sh.withdraw(n)
		ref, ok = sh.table.kernel.Enter(0, &f, d, w)
	}
	c.ref = ref
	return ok
}

// hearEvicted has flows know whose records had to make way. Nobody's lock may be held.
func (t *Table) hearEvicted() {
	if t.kernel == nil {
		return
	}
	for {
		ref, f := t.kernel.NextEvicted()
		if ref == 0 {
			return
		}
		sh, n := t.holderOf(ref, &f)
		if n != 0 {
			sh.withdraw(n)
		} else {
			t.kernel.Remove(ref)
		}
		sh.lock.Unlock()
	}
}

// Carried iterates over the flows that the kernel carries, in no order. Each is consistent; the whole is not of one
// moment. What it returns may be gone already.
func (t *Table) Carried() iter.Seq[CarriedFlow] {
	return func(yield func(CarriedFlow) bool) {
		t.hearEvicted()
		for i := range t.shards {
			if !t.shards[i].carried(yield) {
				return
			}
		}
	}
}

// carried copies a few flows at a time, for the caller may take its time over each.
func (sh *shard) carried(yield func(CarriedFlow) bool) bool {
	const looked = 256
	var some [16]CarriedFlow
	for at := 0; at < len(sh.carriages); {
		copied, end := 0, min(at+looked, len(sh.carriages))
		sh.lock.Lock()
		sh.foreseeCarried(at, end, len(some))
		for ; at < end && copied < len(some); at++ {
			if sh.carriages[at].entered != 0 && sh.carriedFlow(uint32(at+1), &some[copied]) {
				copied++
			}
		}
		sh.lock.Unlock()
		for i := range copied {
			if !yield(some[i]) {
				return false
			}
		}
	}
	return true
}

func (sh *shard) carriedFlow(n uint32, f *CarriedFlow) bool {
	k := sh.catchUp(n)
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if c.entered == 0 {
		return false
	}
	of, ways, ok := sh.table.kernel.Flow(c.ref)
	if !ok {
		return false
	}
	*f = CarriedFlow{
		ID: FlowID{hash: sh.limits.keys.hash(&e.key), at: n, ref: c.ref}, Tuple: sh.tuple(n), Near: of.Near, Far: of.Far,
		In: packet.PortID(uint32(e.ports)), Out: packet.PortID(e.ports >> 32), Ways: ways,
		Generation: e.generation, Rule: e.rule, Used: k.Used,
	}
	if e.flags&translated != 0 {
		f.Backend = sh.records[n-1].answerer()
	}
	return true
}

// Uncarry has packets of a flow come to userspace, where the next one decides anew. It returns false when the kernel
// did not carry it any more.
func (t *Table) Uncarry(id FlowID) bool {
	sh := t.shard(id.hash)
	sh.lock.Lock()
	defer sh.lock.Unlock()
	if !sh.is(id) {
		return false
	}
	sh.withdraw(id.at)
	return true
}

// is: the flow's record is still the one that it was.
func (sh *shard) is(id FlowID) bool {
	return id.at != 0 && sh.entries[id.at-1].state != free && sh.carriages[id.at-1].ref == id.ref
}

// Judge says what policy of a generation says of a flow at time now: for None it goes on by a rule, as of Keep; else
// it is revoked, as of Revoke, and no packet of it is carried from then on. It returns false when the kernel did not
// carry the flow any more: its next packet will be judged.
func (t *Table) Judge(id FlowID, why verdict.Reason, now int64, generation, rule uint32) bool {
	sh := t.shard(id.hash)
	sh.lock.Lock()
	defer sh.lock.Unlock()
	if !sh.is(id) {
		return false
	}
	if why == verdict.None {
		sh.keep(id.at, generation, rule, tickOf(now))
	} else {
		sh.revoke(id.at, generation, why, tickOf(now))
	}
	return true
}
