// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"math"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// What the kernel carries of a flow is not seen here. Its record (offload) says how much that was, when the last of it
// came, what both ends of a connection have acknowledged last, whether the SYN was answered, and which FINs were sent.
// That is asked when a packet of the flow comes here
// all the same, or somebody wants to know whether the flow goes on:
//
//   - it lives for as long as the kernel has carried something within its timeout;
//   - of sequence numbers the bounds are as far as what is acknowledged says. How large a window was offered meanwhile
//     is not known, so that it may have been the largest that its header can express. An end may have sent anything up
//     to that, so that it may be acknowledged;
//   - a FIN counts whose number is within the bounds. Another one is not carried by the same record, and so comes here;
//   - an acknowledgement that speaks of more than the kernel has carried is somebody else's. The next segment that
//     comes here says where the connection stands then, as for one in mid-stream;
//   - a RST ends the connection if its number is what the other end has acknowledged last. Another within the bounds
//     may be right too, for what is acknowledged late: it passes, all comes here from then on, and if that is nothing
//     the flow ends as one that is closing does.
//
// What is outside of the bounds goes on without effect where the kernel would have carried it, had it not been for its
// flags, and where bounds may be those of somebody who knows the ends alone: who sends an acknowledgement that the
// kernel carries, and then a RST, is not to keep the ends from each other. RST does not.

// carriage is what is kept of a flow that the kernel carries, or has carried. Bits are of directions: 1 the opener's.
type carriage struct {
	ref     offload.Ref // 0: there is no record
	entered uint8       // the kernel carries it
	adrift  uint8       // what was sent last in it is not known, but that it is at most e.limit
	unknown uint8       // nor what was acknowledged last
	odd     uint8       // what was acknowledged last cannot be
	fin     uint8       // the end has sent a FIN, whose number may be unknown
	forged  bool        // somebody may have sent what neither end did, and the bounds be his
	bytes   [2]uint64   // of each direction, that the record had counted when what is acknowledged of it was known last
}

// blind are the directions of which it is not known what was acknowledged last.
func (c *carriage) blind() uint8 { return c.unknown | c.odd }

// know: nothing is left to wonder about.
func (c *carriage) know() { *c = carriage{ref: c.ref, bytes: c.bytes} }

// wonder: nothing is known.
func (c *carriage) wonder() { c.adrift, c.unknown = 3, 3 }

// carriedFrom is, by state, how many packets of a direction there are to be before the kernel carries it: of TCP one
// behind the handshake, of others two, for most questions have one answer. never is for a kernel that carries nothing.
var carriedFrom, never [32]uint64

func init() {
	for i := range never {
		carriedFrom[i], never[i] = math.MaxUint64, math.MaxUint64
	}
	carriedFrom[tcpEstablished] = 1
	carriedFrom[udpUnreplied], carriedFrom[udpReplied], carriedFrom[udpStream] = 2, 2, 2
}

// mayCarry: the kernel may carry a direction of the flow, and does not.
func (sh *shard) mayCarry(n uint32, d uint8) bool {
	switch flags := sh.entries[n-1].flags & (offloaded | oneWay | revoked); flags {
	case 0:
		return true
	case offloaded:
		return sh.carriages[n-1].entered>>(d&1)&1 == 0
	}
	return false
}

// plain: the packet is one that hooks would carry, as far as conntrack knows.
func plain(p *packet.Packet) bool {
	if p.L4 == 0 || p.Flags&packet.Fragment != 0 {
		return false
	}
	return p.Proto != packet.ProtoTCP || p.Frame[p.L4+13]&(tcpSYN|tcpFIN|tcpRST) == 0
}

// catchUp has an entry that is offloaded know what the kernel has carried, and returns it.
func (sh *shard) catchUp(n uint32) offload.Carried {
	c := &sh.carriages[n-1]
	if c.ref == 0 {
		return offload.Carried{}
	}
	k, ok := sh.table.kernel.Read(c.ref)
	if !ok { // it had to make way
		sh.withdraw(n)
		return offload.Carried{}
	}
	sh.learn(n, &k)
	if c.ref == 0 { // the connection is over: what was carried of it is the entry's
		k.Traffic = [2]offload.Traffic{}
	}
	return k
}

// withdraw has the packets of an offloaded entry come here.
func (sh *shard) withdraw(n uint32) {
	c := &sh.carriages[n-1]
	if c.ref == 0 {
		return
	}
	k, stays, known := sh.table.kernel.Withdraw(c.ref)
	c.entered = 0
	if stays {
		sh.learn(n, &k)
		return
	}
	c.ref = 0 // learn may find the connection over
	if known {
		sh.learn(n, &k)
		sh.fold(n, &k)
	} else {
		c.wonder()
	}
	c.bytes = [2]uint64{}
}

// setDown is withdraw for an entry that is about to be free.
func (sh *shard) setDown(n uint32) {
	c := &sh.carriages[n-1]
	if c.ref != 0 {
		k, _ := sh.table.kernel.Remove(c.ref)
		sh.fold(n, &k)
	}
	*c = carriage{}
}

// fold adds what a record has counted that is no more.
func (sh *shard) fold(n uint32, k *offload.Carried) {
	e := &sh.entries[n-1]
	for d := range k.Traffic {
		e.packets[d] += k.Traffic[d].Packets
		e.bytes[d] += k.Traffic[d].Bytes
	}
}

// learn takes what the kernel has carried into the flow's state.
func (sh *shard) learn(n uint32, k *offload.Carried) {
	e := &sh.entries[n-1]
	was := e.state
	switch e.key.proto() {
	case packet.ProtoTCP:
		sh.learnTCP(n, k)
	case packet.ProtoUDP:
		if e.state == udpUnreplied && k.Traffic[1].Bytes != 0 {
			sh.enter(n, udpReplied)
		}
		if e.state == udpReplied && k.Used != 0 && int32(tickOf(k.Used)-e.opened-streamTicks) >= 0 {
			sh.enter(n, udpStream)
		}
	}
	if k.Used != 0 && e.flags&revoked == 0 {
		if until := tickOf(k.Used) + timeouts[e.state&31]; int32(until-e.expires) > 0 || e.state != was {
			e.expires = until
		}
	}
}

func (sh *shard) learnTCP(n uint32, k *offload.Carried) {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if k.Young.Is {
		sh.learnHandshake(n, k)
	}
	for d := range uint8(2) {
		if k.Traffic[d].Bytes == 0 {
			continue
		}
		c.adrift |= 1 << d
		e.window[d] = 0xffff
		if k.Acked[d] {
			c.acknowledged(e, d, k.Acks[d], k.Traffic[d^1].Bytes)
		}
	}
	for d, fin := range k.Fins {
		if fin != 0 {
			c.finished(e, uint8(d), fin)
		}
	}
	if c.fin != 0 && e.state >= tcpEstablished && e.state <= tcpLastAck {
		sh.enter(n, e.next(0, c.fin))
	}
}

// finished: an end has sent a FIN with this number behind it, which is to be where the other end may expect it.
func (c *carriage) finished(e *entry, d uint8, fin uint32) {
	d &= 1
	o := d ^ 1
	switch {
	case e.shift[d]&dirFin != 0:
	case c.blind()>>o&1 != 0:
		c.fin |= 1 << d
	case !before(fin, e.ack[o]) && !before(fin, e.end[d]) && !after(fin-1, e.limit[d]):
		e.end[d] = fin
		e.shift[d] |= dirFin
		c.fin |= 1 << d
	}
}

// acknowledged: an end has acknowledged this last. The kernel has carried so many bytes of the other's, which tell how
// far that is: numbers wrap within a second or two of what a fast link carries.
func (c *carriage) acknowledged(e *entry, d uint8, ack uint32, bytes uint64) {
	d &= 1
	o := d ^ 1
	c.odd &^= 1 << d
	if c.unknown>>d&1 != 0 {
		c.unknown &^= 1 << d
		e.ack[d], e.end[o], e.limit[o] = ack, ack, ack
	}
	further := ack - e.ack[d]
	sent, room := max(int32(e.end[o]-e.ack[d]), 0), max(int32(e.limit[o]-e.ack[d]), 0)
	switch {
	case uint64(further) <= bytes-c.bytes[o]+uint64(room) && (e.shift[o]&dirFin == 0 || further <= uint32(sent)):
	case -further <= max(e.width(d), leastWidth): // one that came here, or later, was newer
		return
	default:
		c.odd |= 1 << d
		return
	}
	c.bytes[o] = bytes
	e.ack[d] = ack
	e.shift[d] |= dirAcked
	if further > uint32(sent) {
		e.end[o] = ack
	}
	if uint64(further)+uint64(e.width(d)) > uint64(room) {
		e.limit[o] = ack + e.width(d)
	}
}

// fits is inWindow for an entry that is offloaded. Bounds that are unknown are set by a segment that is within the
// others.
func (sh *shard) fits(n uint32, g *segment, d uint8) bool {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if c.blind() == 0 {
		return e.inWindow(g, d, sh.mostSent(n, d))
	}
	c.forged = c.forged || c.odd != 0
	was, knew := *e, *c
	c.orient(e, g, d)
	if e.inWindow(g, d, sh.mostSent(n, d)) {
		return true
	}
	*e, *c = was, knew
	return false
}

// mostSent is what the end may have sent at most that a segment in direction d is for. Until the handshake is over it
// is no more than came from there: to acknowledge it is to know its number, and not to have offered a large window.
func (sh *shard) mostSent(n uint32, d uint8) uint32 {
	e, c, o := &sh.entries[n-1], &sh.carriages[n-1], d&1^1
	if c.adrift>>o&1 == 0 || e.shift[o]&dirFin != 0 || !after(e.limit[o], e.end[o]) {
		return e.end[o]
	}
	if !e.state.handshake() {
		return e.limit[o]
	}
	came := e.bytes[o]
	if k, ok := sh.table.kernel.Read(c.ref); ok {
		came += k.Traffic[o].Bytes
	}
	return e.end[o] + uint32(min(came, uint64(e.limit[o]-e.end[o])))
}

// orient sets the bounds that are unknown by a segment.
func (c *carriage) orient(e *entry, g *segment, d uint8) {
	d &= 1
	o := d ^ 1
	if c.blind()>>d&1 != 0 {
		e.window[d] = 0xffff
		e.ack[d], e.end[o], e.limit[o] = g.ack, g.ack, g.ack+e.width(d)
		e.shift[d] |= dirAcked
	}
	if c.blind()>>o&1 != 0 {
		e.window[o] = 0xffff
		e.ack[o], e.end[d], e.limit[d] = g.seq, g.end, g.end+unseenWindow
	}
	c.unknown, c.odd, c.adrift = 0, 0, 3
}

// outOfWindow is what becomes of a segment in direction d that is outside of the bounds.
func (sh *shard) outOfWindow(n uint32, d uint8) verdict.Reason {
	c := &sh.carriages[n-1]
	if sh.entries[n-1].flags&offloaded != 0 && (c.forged || c.entered>>(d&1)&1 != 0) {
		return verdict.None
	}
	return verdict.TCPOutOfWindow
}

// closing is the state after a segment, for an entry that is offloaded.
func (sh *shard) closing(n uint32, d uint8) state {
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	if bit := uint8(1) << (d & 1); e.shift[d&1]&dirFin != 0 && c.fin&bit == 0 {
		c.fin |= bit
		if c.ref != 0 {
			sh.table.kernel.Close(c.ref, d)
		}
	}
	return e.next(d, c.fin)
}

// expects: it is known what number is expected next of an end.
func (sh *shard) expects(n uint32, d uint8) bool {
	return sh.entries[n-1].flags&offloaded == 0 || sh.carriages[n-1].blind()>>(d&1^1)&1 == 0
}

// doubt is a RST within the bounds, with a number that nobody is known to expect: see above.
func (sh *shard) doubt(n uint32, d uint8, tick uint32) {
	c := &sh.carriages[n-1]
	if d &= 1; c.adrift>>d&1 == 0 && c.blind()>>(d^1)&1 == 0 {
		return
	}
	c.forged = true
	sh.withdraw(n)
	if e := &sh.entries[n-1]; int32(e.expires-tick-timeouts[tcpFinWait]) > 0 {
		e.expires = tick + timeouts[tcpFinWait]
	}
}

// maySent says whether an end may have sent what an ICMP error quotes, if errors are about what it has sent within a
// width.
func (sh *shard) maySent(n uint32, d uint8, seq, width uint32) bool {
	sh.catchUp(n)
	e, c := &sh.entries[n-1], &sh.carriages[n-1]
	d &= 1
	if c.blind()>>(d^1)&1 != 0 {
		return true
	}
	most := e.end[d]
	if c.adrift>>d&1 != 0 && after(e.limit[d], most) {
		width += e.limit[d] - most
		most = e.limit[d]
	}
	return most-seq <= width
}

// expired: the entry does not count any more, and the kernel has carried nothing of late.
func (sh *shard) expired(n, tick uint32) bool {
	e := &sh.entries[n-1]
	if !e.expired(tick) {
		return false
	}
	if e.flags&offloaded != 0 {
		sh.catchUp(n)
		return e.expired(tick)
	}
	return true
}

// idle is for how long, in ticks, nothing has refreshed the entry, nor has the kernel carried anything.
func (sh *shard) idle(n, tick uint32) uint32 {
	e := &sh.entries[n-1]
	if e.flags&offloaded != 0 && e.state != free {
		sh.catchUp(n)
	}
	return e.idle(tick)
}
