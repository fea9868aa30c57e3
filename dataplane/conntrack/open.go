// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// opening is a flow that is about to be: by which packet, in which direction, how and where.
type opening struct {
	s     *Seen
	p     *packet.Packet
	g     segment // TCP
	k     key
	from  uint8 // of the opener, as of key.set
	state state
	port  uint32 // the opener's
	other uint32 // the other end's
	now   int64
	tick  uint32
}

// Open enters the flow of a NewFlow packet that policy let in by a rule and that is really sent on, from port in to
// port out. It returns None, or why there is to be no flow and the packet is to be dropped. Where another worker has
// opened the flow meanwhile, that one stays.
//
// A SYN gets a fingerprint instead of an entry where its shard has no room or many handshakes that are not over, or
// its source has many unanswered flows.
func (t *Table) Open(s *Seen, p *packet.Packet, in, out packet.PortID, now int64,
	generation, rule uint32) verdict.Reason {
	if s.Status != NewFlow {
		return verdict.None
	}
	o := opening{s: s, p: p, now: now, tick: tickOf(now)}
	o.port, o.other = uint32(in), uint32(out)
	if s.Reply {
		o.port, o.other = o.other, o.port
	}
	u := &s.Tuple
	o.from = o.k.set(u.Src, u.Dst, u.SrcPort, u.DstPort, u.Proto, s.kind, false)
	o.state = o.first()
	sh := t.shard(s.hash)
	sh.lock.Lock()
	r := sh.open(t, &o, generation, rule)
	sh.count.refuse(r)
	sh.lock.Unlock()
	return r
}

// first is the state that the flow begins in.
func (o *opening) first() state {
	switch o.s.Tuple.Proto {
	case packet.ProtoTCP:
		o.g.read(o.p)
		if o.g.flags&(tcpSYN|tcpRST) == 0 {
			return tcpPickedUp
		}
		return tcpSynSent
	case packet.ProtoUDP:
		return udpUnreplied
	case packet.ProtoSCTP:
		return sctpCookieWait
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return icmpAsked
	}
	return otherUnreplied
}

func (sh *shard) open(t *Table, o *opening, generation, rule uint32) verdict.Reason {
	if n := sh.find(o.s.hash, &o.k); n != 0 {
		switch e := &sh.entries[n-1]; {
		case e.expired(o.tick):
			sh.free(n, causeExpired)
		case e.state.closed() || e.flags&revoked != 0 || o.state == tcpSynSent && e.beginsAnew(o.from^e.opener()):
			sh.free(n, causeReopened)
		default:
			return verdict.None
		}
	}
	var place *uint64
	scale := uint8(unknownScale)
	if o.state == tcpSynSent && o.s.Reply {
		place, scale = sh.recall(t.keys.mark(o.s.hash, o.from, o.g.ack-1), o.now)
		if o.g.has(tcpRST) {
			if place != nil {
				*place = 0
			}
			return verdict.None
		}
		if place == nil { // nobody asked for it here: see Config.Loose
			o.state = tcpPickedUp
		}
	}
	n, r := sh.admit(t, o)
	if n == 0 {
		return r
	}
	if place != nil {
		*place = 0
		sh.count.recalled++
	}
	sh.fill(n, o, generation, rule)
	switch o.state {
	case tcpPickedUp:
		sh.entries[n-1].guess(&o.g, o.direction())
	case tcpSynSent:
		sh.handshake(n, o, scale)
	case sctpCookieWait:
		c := readChunks(o.p)
		sh.entries[n-1].end[1] = c.initiate
	}
	return verdict.None
}

func (o *opening) direction() uint8 {
	if o.s.Reply {
		return 1
	}
	return 0
}

// admit finds an entry for the flow, 0 for none: a fingerprint does, or the reason says why not.
func (sh *shard) admit(t *Table, o *opening) (uint32, verdict.Reason) {
	syn := o.state == tcpSynSent && !o.s.Reply
	if t.limits.portFull(o.port) {
		return 0, verdict.FlowLimit
	}
	takenUp := o.state == tcpPickedUp && o.s.Reply
	switch full := t.limits.sourceFull(o.s.Tuple, takenUp); {
	case syn && (full || sh.flooded()):
		return 0, sh.mark(t, o)
	case full && o.state != tcpSynSent:
		return 0, verdict.SourceLimit
	}
	n := sh.take(syn, o.tick)
	switch {
	case n == 0 && syn:
		return 0, sh.mark(t, o)
	case n == 0:
		return 0, verdict.FlowTableFull
	case !t.limits.portEnters(o.port): // others were faster
		sh.push(listFree, n)
		return 0, verdict.FlowLimit
	}
	return n, verdict.None
}

func (sh *shard) mark(t *Table, o *opening) verdict.Reason {
	sh.remember(t.keys.mark(o.s.hash, o.from, o.g.seq), offered(o.p), o.now)
	sh.count.marked++
	return verdict.None
}

// fill writes the entry. It writes word by word what foresee.go reads without the lock.
func (sh *shard) fill(n uint32, o *opening, generation, rule uint32) {
	e, d := &sh.entries[n-1], o.direction()
	e.key.lo, e.key.hi = o.k.lo, o.k.hi
	atomic.StoreUint64(&e.key.word, o.k.word)
	atomic.StoreUint64(&e.ports, uint64(o.port)|uint64(o.other)<<32)
	e.opened, e.generation, e.rule, e.flags = o.tick, generation, rule, o.from
	e.shift, e.window = [2]uint8{}, [2]uint16{}
	e.end, e.limit, e.ack = [2]uint32{}, [2]uint32{}, [2]uint32{}
	e.bytes, e.packets = [2]uint64{}, [2]uint64{}
	e.bytes[d], e.packets[d] = uint64(o.p.L3Len), 1
	sh.enter(n, o.state)
	e.refresh(o.tick)
	sh.insert(o.s.hash, n)
	sh.count.opened++
}

// handshake sets the bounds by a SYN, or by the SYN-ACK to one that is no more.
func (sh *shard) handshake(n uint32, o *opening, scale uint8) {
	e := &sh.entries[n-1]
	if !o.s.Reply {
		own, scaled := scaleOf(o.p)
		e.begin(&o.g, 0, own, scaled)
		return
	}
	e.packets[0], e.bytes[0] = 1, 0
	_ = sh.answered(n, o.p, &o.g, scale, o.tick)
}
