// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// aim is what a flow is found by in the table.
type aim struct {
	k    key
	hash uint64
	from uint8 // of the opener, as of key.set
}

// opening is a flow that is about to be: by which packet, in which direction, how and where.
type opening struct {
	aim   // of its entry
	s     *Seen
	p     *packet.Packet
	g     segment     // TCP
	src   packet.Addr // the opener's own
	proto packet.IPProto
	state state
	port  uint32 // the opener's
	other uint32 // the other end's
	now   int64
	tick  uint32

	generation, rule uint32

	tr    *Translation // nil: it is not translated
	ends  packet.Ends  // as the opener sends
	sent  aim          // what they are found by
	stamp uint32       // the record's
	bound bool         // an alias leads to the entry
}

// Open enters the flow of a NewFlow packet that policy let in by a rule and that is really sent on, from port in to
// port out. It returns None, or why there is to be no flow and the packet is to be dropped. Where another worker has
// opened the flow meanwhile, that one stays.
//
// Where a translated flow has the same ends on the way to its backend, this one is translated too, to another source
// port: s.Translated and s.Ends say so.
//
// A SYN gets a fingerprint instead of an entry where its shard has no room or many handshakes that are not over, or
// its source has many unanswered flows.
func (t *Table) Open(s *Seen, p *packet.Packet, in, out packet.PortID, now int64,
	generation, rule uint32) verdict.Reason {
	if s.Status != NewFlow || s.Paired {
		return verdict.None
	}
	o := opening{s: s, p: p, now: now, tick: tickOf(now), generation: generation, rule: rule}
	o.begin(in, out)
	sh := t.shard(o.hash)
	sh.lock.Lock()
	r := sh.open(t, &o)
	sh.count.refuse(r)
	sh.lock.Unlock()
	switch {
	case r != taken:
		return r
	case o.state == tcpPickedUp:
		return verdict.TCPWithoutFlow
	}
	o.tr = &Translation{}
	return t.openTranslated(&o)
}

// begin reads the packet, whose ends are what the flow is found by.
func (o *opening) begin(in, out packet.PortID) {
	s, p := o.s, o.p
	o.port, o.other = uint32(in), uint32(out)
	src, dst := portsOf(p, s.kind)
	o.src, o.proto, o.hash = p.Src, p.Proto, s.hash
	o.from = o.k.set(p.Src, p.Dst, src, dst, p.Proto, s.kind, false)
	if s.Reply {
		o.port, o.other = o.other, o.port
		o.src = p.Dst
		if p.Src != p.Dst || src != dst {
			o.from ^= 1
		}
	}
	o.state = o.first()
}

// first is the state that the flow begins in.
func (o *opening) first() state {
	switch o.proto {
	case packet.ProtoTCP:
		o.g.read(o.p)
		if o.g.flags&(tcpSYN|tcpRST) == 0 {
			return tcpPickedUp
		}
		return tcpSynSent
	case packet.ProtoUDP:
		if o.tr != nil && o.tr.Direct {
			return udpReplied
		}
		return udpUnreplied
	case packet.ProtoSCTP:
		return sctpCookieWait
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return icmpAsked
	}
	return otherUnreplied
}

func (sh *shard) open(t *Table, o *opening) verdict.Reason {
	if sh.aliases.used != 0 && !t.cede(sh, &o.aim, o) {
		return verdict.NATCollision
	}
	if n := sh.standing(&o.aim, o); n != 0 {
		switch e := &sh.entries[n-1]; {
		case e.flags&aliased == 0:
			return verdict.None
		case o.from == e.opener():
			return taken
		}
		return verdict.NATCollision
	}
	var place *uint64
	scale := uint8(unknownScale)
	if o.state == tcpSynSent && o.s.Reply {
		place, scale = sh.recall(t.keys.mark(o.hash, o.from, o.g.ack-1), o.now)
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
	sh.fill(n, o)
	sh.start(n, o, scale)
	return verdict.None
}

// standing is the number of the entry that is found by x and stands; one that does not makes way.
func (sh *shard) standing(x *aim, o *opening) uint32 {
	n := sh.find(x.hash, &x.k)
	if n == 0 || sh.gives(n, x.from^sh.entries[n-1].opener(), o) {
		return 0
	}
	return n
}

// gives frees an entry that makes way to a flow between the same ends, which its packet would open in direction d.
func (sh *shard) gives(n uint32, d uint8, o *opening) bool {
	e := &sh.entries[n-1]
	if e.flags&offloaded != 0 {
		sh.catchUp(n)
	}
	switch {
	case sh.expired(n, o.tick):
		sh.free(n, causeExpired)
	case e.state.closed() || e.flags&revoked != 0 || o.state == tcpSynSent && e.beginsAnew(d):
		sh.free(n, causeReopened)
	default:
		return false
	}
	return true
}

// start takes the flow's first packet into its state.
func (sh *shard) start(n uint32, o *opening, scale uint8) {
	e, d := &sh.entries[n-1], o.direction()
	e.bytes[d], e.packets[d] = uint64(o.p.L3Len), 1
	o.s.at, o.s.hash = n, o.hash
	switch o.state {
	case tcpPickedUp:
		e.guess(&o.g, d)
	case tcpSynSent:
		sh.handshake(n, o, scale)
		if o.s.Begins = sh.mayBeginEarly(o); e.state == tcpSynReceived {
			o.s.Begins = sh.mayBegin(n, o.p, d)
		}
	case sctpCookieWait:
		c := readChunks(o.p)
		e.end[1] = c.initiate
	}
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
	place := ofIdle
	switch full := t.limits.sourceFull(o.src, takenUp); {
	case syn && o.tr != nil:
		place = ofHalf
		switch {
		case full && !sh.evictHalfOf(o.src, o.tick):
			return 0, verdict.SourceLimit
		case !full && sh.flooded() && !sh.evictHalf(o.tick):
			return 0, verdict.SourceLimit
		}
		syn = false
	case syn && (full || sh.flooded()):
		return 0, sh.mark(t, o)
	case syn:
		place = ofDone
	case full && o.state != tcpSynSent:
		return 0, verdict.SourceLimit
	}
	n := sh.take(place, o.tick)
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
	sh.remember(t.keys.mark(o.hash, o.from, o.g.seq), offered(o.p), o.now)
	sh.count.marked++
	return verdict.None
}

// fill writes the entry.
func (sh *shard) fill(n uint32, o *opening) {
	e := &sh.entries[n-1]
	e.key = o.k
	e.ports = uint64(o.port) | uint64(o.other)<<32
	e.opened, e.generation, e.rule, e.flags = o.tick, o.generation, o.rule, o.from
	e.shift, e.window = [2]uint8{}, [2]uint16{}
	e.end, e.limit, e.ack = [2]uint32{}, [2]uint32{}, [2]uint32{}
	e.bytes, e.packets = [2]uint64{}, [2]uint64{}
	if o.tr != nil {
		sh.record(n, o)
	}
	sh.enter(n, o.state)
	e.refresh(o.tick)
	sh.slots.insert(o.hash, n)
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
