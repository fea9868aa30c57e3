// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// The kernel may carry a connection from its beginning on: both directions are entered once its SYN has been sent on,
// or the SYN-ACK where somebody wants to see that. Until the handshake is over the record is young (offload), and hooks
// carry the answer to this SYN and what comes behind it. They have news of a handshake that goes on, and of FINs, upon
// which states, counts and limits are as if the packets had come here. Who is asked about a flow before that finds out
// for himself.

// earlyShare is the reciprocal of the share of Config.Handshakes that a port may have under way for what it begins to
// be carried before it has been answered.
const earlyShare = 2

// EndsOf returns the ends of what the opener of a packet's flow sends, and of what the other end gets; false: the flow
// is no more.
func (t *Table) EndsOf(s *Seen) (near, far packet.Ends, ok bool) {
	if s.at == 0 {
		return near, far, false
	}
	sh := t.shard(s.hash)
	sh.lock.Lock()
	defer sh.lock.Unlock()
	if sh.known(s) == nil {
		return near, far, false
	}
	near, far = sh.ends(s.at, 0)
	return near, far, true
}

// CarryBoth has the kernel carry a connection from a packet of its handshake on, as Seen.Begins asks: what its opener
// sends by the first way, answers by the other one. It returns false where the kernel does not.
func (t *Table) CarryBoth(s *Seen, ways *[2]offload.Way) bool {
	if t.kernel == nil || !s.Begins || ways[0].Out == 0 || ways[1].Out == 0 {
		return false
	}
	sh := t.shard(s.hash)
	sh.lock.Lock()
	ok := false
	if e := sh.known(s); e != nil && !e.moved(ways[0].In, 0) && !e.moved(ways[1].In, 1) {
		ok = sh.carryBoth(s.at, ways)
	}
	sh.lock.Unlock()
	if ok {
		t.rest.rouse()
	}
	t.hearEvicted()
	return ok
}

// rest lets the reader of news sleep for long. Hundreds of connections may begin at once after that, and would count as
// handshakes that nobody answers, until they are a flood, were he not roused by the first.
type rest struct {
	is     atomic.Bool
	roused chan struct{}
}

func (r *rest) rouse() {
	if !r.is.Load() || !r.is.CompareAndSwap(true, false) {
		return
	}
	select {
	case r.roused <- struct{}{}:
	default:
	}
}

// Rest returns what tells the one caller, once, that there will be news before long: a connection has begun that the
// kernel carries since he called it.
func (t *Table) Rest() <-chan struct{} {
	t.rest.is.Store(true)
	return t.rest.roused
}

func (sh *shard) carryBoth(n uint32, ways *[2]offload.Way) bool {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if e.flags&(oneWay|revoked|unlinked) != 0 || e.flags&offloaded != 0 && c.ref != 0 {
		return false
	}
	f := offload.Flow{Proto: e.key.proto(), Generation: e.generation, Whole: true}
	switch f.Young.Is = true; e.state {
	case tcpSynSent:
		f.Expects = e.end[0]
	case tcpSynReceived:
		f.Expects, f.Answered = e.ack[0], true
		f.Scaled, f.Scale = e.shift[1]&dirScaled != 0, e.shift[1]&dirScale
	default:
		return false
	}
	if f.Near, f.Far = sh.ends(n, 0); f.Near.SrcPort|f.Near.DstPort == 0 || f.Far.SrcPort|f.Far.DstPort == 0 {
		return false
	}
	ref := sh.table.kernel.EnterYoung(&f, ways)
	if ref == 0 {
		return false
	}
	if e.flags&offloaded == 0 {
		*c = carriage{}
		e.flags |= offloaded
	}
	c.ref, c.entered = ref, bothWays
	return true
}

// mayBeginEarly: what has opened the flow is a SYN without data, and its port does not begin more connections than are
// answered.
func (sh *shard) mayBeginEarly(o *opening) bool {
	return sh.table.kernel != nil && o.state == tcpSynSent && !o.s.Reply && o.g.whole && o.g.end == o.g.seq+1 &&
		o.g.end != 0 && sh.entries[o.s.at-1].flags&oneWay == 0 && !sh.flooded() && !sh.limits.begins(o.port)
}

// mayBegin: a packet in direction d was the SYN-ACK to the flow's SYN.
func (sh *shard) mayBegin(n uint32, p *packet.Packet, d uint8) bool {
	e := &sh.entries[n-1]
	switch {
	case sh.table.kernel == nil || d == 0 || p.Flags&packet.Fragment != 0 || p.L4 == 0:
		return false
	case e.flags&(oneWay|revoked) != 0 || e.flags&offloaded != 0 && sh.carriages[n-1].ref != 0:
		return false
	case e.shift[1]&dirSynAck == 0 || e.shift[0]&dirSynAck != 0: // simultaneous open
		return false
	}
	return p.Frame[p.L4+13]&(tcpSYN|tcpACK) == tcpSYN|tcpACK && e.ack[0] != 0
}

// learnHandshake takes what the kernel has carried of a handshake into the flow's state. What the SYN-ACK's window was
// is not known, but that it may have been the largest.
func (sh *shard) learnHandshake(n uint32, k *offload.Carried) {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if e.state == tcpSynSent && k.Answered {
		g := segment{seq: k.Expects - 1, end: k.Expects, ack: e.end[0], window: 0xffff}
		e.begin(&g, 1, k.Scale, k.Scaled)
		e.agree()
		e.ack[1] = g.ack
		e.shift[1] |= dirAcked | dirSynAck
		e.limit[0], e.limit[1] = g.ack+g.window, g.end+e.width(0)
		if k.Acked[0] { // what the SYN-ACK's number was is not known any more
			c.unknown |= 1
		}
		if e.flags&translated != 0 {
			sh.records[n-1].asked = 0
		}
		sh.enter(n, tcpSynReceived)
	}
	if e.state == tcpSynReceived && k.Traffic[0].Bytes != 0 {
		e.shift[0] |= dirAcked
		sh.enter(n, tcpEstablished)
	}
	if !e.state.handshake() {
		sh.table.kernel.Grown(c.ref)
	}
}

// TakeNews has flows know what the kernel has carried of their beginnings and ends, and returns how many it looked at.
// It is to be called every 10 ms or so while there are connections, and sooner where there was news.
func (t *Table) TakeNews() (looked int) {
	if t.kernel == nil {
		return 0
	}
	for ref := range t.kernel.TakeNews() {
		f, _, ok := t.kernel.Flow(ref)
		if !ok || f.Pair || f.Untracked {
			continue
		}
		looked++
		sh, n := t.holderOf(ref, &f)
		if n != 0 {
			sh.catchUp(n)
		}
		sh.lock.Unlock()
	}
	return looked
}

// holderOf is the entry of a record of a flow, 0 where none has it any more, and its shard, whose lock is held.
func (t *Table) holderOf(ref offload.Ref, f *offload.Flow) (sh *shard, n uint32) {
	var k key
	k.set(f.Far.Src, f.Far.Dst, f.Far.SrcPort, f.Far.DstPort, f.Proto, 0, false)
	hash := t.keys.hash(&k)
	sh = t.shard(hash)
	sh.lock.Lock()
	if n = sh.find(hash, &k); n != 0 && sh.carriages[n-1].ref == ref {
		return sh, n
	}
	return sh, 0
}
