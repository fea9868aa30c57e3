// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// followTCP takes a segment into its connection.
func (sh *shard) followTCP(n uint32, p *packet.Packet, in packet.PortID, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	if e.flags&oneWay != 0 {
		return sh.followOneWay(n, p, d, tick)
	}
	var g segment
	g.read(p)
	if g.has(tcpRST) {
		return sh.reset(n, &g, d, tick)
	}
	if g.has(tcpSYN) {
		return sh.syn(n, p, in, &g, d, tick)
	}
	if e.state == tcpSynSent {
		return e.stray(&g, d)
	}
	var fits bool
	if e.flags&offloaded != 0 {
		fits = sh.fits(n, &g, d)
	} else {
		fits = e.inWindow(&g, d, e.end[d&1^1])
	}
	if !fits {
		return sh.outOfWindow(n, d)
	}
	e.advance(&g, d)
	if e.state == tcpEstablished && !g.has(tcpFIN) { // most are
		e.refresh(tick)
		return verdict.None
	}
	var next state
	if e.flags&offloaded != 0 {
		next = sh.closing(n, d)
	} else {
		next = e.next(d, 0)
	}
	if next != e.state || e.state < tcpTimeWait {
		sh.enter(n, next)
		e.refresh(tick)
	}
	return verdict.None
}

// next is the state after a segment without SYN and RST. Ends of which it is known otherwise that they have sent a
// FIN are bits of finished.
func (e *entry) next(d, finished uint8) state {
	switch e.state {
	case tcpSynSent2: // both SYNs have to be acknowledged
		if e.shift[0]&e.shift[1]&dirAcked == 0 {
			return tcpSynSent2
		}
	case tcpSynReceived: // the SYN of the end that said SYN-ACK has to be
		if e.shift[d&1]&(dirAcked|dirSynAck) != dirAcked {
			return tcpSynReceived
		}
	case tcpPickedUp: // the other end has to speak
		if e.window[0] == 0 || e.window[1] == 0 {
			return tcpPickedUp
		}
	case tcpTimeWait, tcpClosed:
		return e.state
	}
	fin := [2]bool{e.shift[0]&dirFin != 0, e.shift[1]&dirFin != 0}
	acked := [2]bool{fin[0] && e.ack[1] == e.end[0], fin[1] && e.ack[0] == e.end[1]}
	fin[0], fin[1] = fin[0] || finished&1 != 0, fin[1] || finished&2 != 0
	switch {
	case !fin[0] && !fin[1]:
		return tcpEstablished
	case acked[0] && acked[1]:
		return tcpTimeWait
	case fin[0] && fin[1]:
		return tcpLastAck
	case acked[0] || acked[1]:
		return tcpCloseWait
	}
	return tcpFinWait
}

// stray is a segment with neither SYN nor RST where a SYN has not been answered. One of the end that was asked may be
// its challenge, for it has still an old connection (RFC 9293 3.5.1): the opener resets that by the number
// acknowledged.
func (e *entry) stray(g *segment, d uint8) verdict.Reason {
	if d == 0 {
		return verdict.TCPOutOfWindow
	}
	e.end[1] = g.ack
	e.shift[1] |= dirChallenged
	return verdict.None
}

// syn is a segment with SYN. Where a connection stands it passes without effect, and the end answers with a challenge
// (RFC 5961 4.2), unless both ends have forgotten it (see anew); so does a retransmission. Of what was taken up in
// mid-stream nobody knows whether it stands at the end that has not been heard, and that policy has not let in: of its
// SYN policy is asked.
func (sh *shard) syn(n uint32, p *packet.Packet, in packet.PortID, g *segment, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	answer := g.has(tcpACK)
	switch {
	case !answer && e.beginsAnew(d):
		return reopen
	case e.state == tcpSynSent && d == 0:
		if answer {
			return verdict.TCPOutOfWindow
		}
		if e.flags&offloaded != 0 && g.end != e.end[0] {
			sh.withdraw(n) // which expects another number to be acknowledged
		}
		scale, scaled := scaleOf(p)
		e.begin(g, 0, scale, scaled) // again, or a new attempt
		e.refresh(tick)
	case e.state == tcpSynSent && !answer: // simultaneous open (RFC 9293 3.5, figure 7)
		if e.flags&offloaded != 0 {
			sh.withdraw(n)
		}
		scale, scaled := scaleOf(p)
		e.begin(g, 1, scale, scaled)
		e.agree()
		sh.enter(n, tcpSynSent2)
		e.refresh(tick)
	case e.state == tcpSynSent, e.state == tcpSynSent2 && answer:
		return sh.synAck(n, p, g, d, tick)
	case e.state == tcpSynReceived && answer && e.shift[d&1]&dirSynAck == 0: // the second one of a simultaneous open
		return sh.synAck(n, p, g, d, tick)
	case e.state.stands() && !e.moved(in, d):
		return sh.anew(n, p, g, d, tick)
	}
	return verdict.None
}

// beginsAnew: a SYN in direction d opens the flow once more.
func (e *entry) beginsAnew(d uint8) bool {
	return e.state.closed() || e.state == tcpPickedUp && d != 0 || e.state == tcpFinWait && e.flags&oneWay != 0
}

// synAck is the answer to a SYN: it acknowledges that, and data that came with it, and nothing else.
func (sh *shard) synAck(n uint32, p *packet.Packet, g *segment, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	d &= 1
	o := d ^ 1
	if before(g.ack, e.ack[d]) || after(g.ack, e.end[o]) {
		return verdict.TCPOutOfWindow
	}
	if e.state == tcpSynSent {
		if e.flags&offloaded != 0 {
			sh.withdraw(n) // it is another answer than the kernel was to carry
		}
		scale, scaled := scaleOf(p)
		e.begin(g, d, scale, scaled)
		e.agree()
	} else if g.seq+1 != e.ack[o] {
		return verdict.TCPOutOfWindow
	}
	e.ack[d] = g.ack
	e.shift[d] |= dirAcked | dirSynAck
	e.limit[o] = g.ack + g.window
	e.limit[d] = e.end[d] + e.width(o)
	if e.state == tcpSynReceived {
		sh.enter(n, tcpEstablished)
	} else {
		sh.enter(n, tcpSynReceived)
	}
	e.refresh(tick)
	return verdict.None
}

// reset is a segment with RST (RFC 5961 3.2): with exactly the number that is expected next it ends the connection,
// and within the window it passes, for the end to challenge. What is expected next is what the other end has
// acknowledged, or, when that is still on its way, what comes behind all that was sent.
func (sh *shard) reset(n uint32, g *segment, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	d &= 1
	o := d ^ 1
	exact := (g.seq == e.end[d] || g.seq == e.ack[o]) && sh.expects(n, d)
	if e.state == tcpSynSent {
		switch {
		case d == 0 && e.shift[1]&dirChallenged != 0 && g.seq == e.end[1] && !exact:
			return verdict.None
		case d == 0:
			exact = g.seq == e.end[0]
		default: // RFC 9293 3.10.7.3: it has to acknowledge the SYN
			exact = g.has(tcpACK) && !before(g.ack, e.ack[1]) && !after(g.ack, e.end[0])
		}
		if !exact {
			return verdict.TCPOutOfWindow
		}
	}
	if !exact && (before(g.seq, e.ack[o]) || after(g.seq, e.limit[d])) && sh.expects(n, d) {
		return verdict.TCPOutOfWindow
	}
	if !exact && e.flags&offloaded != 0 {
		sh.doubt(n, d, tick)
	}
	if exact && !e.state.closed() { // time wait is not to be cut short (RFC 1337)
		sh.enter(n, tcpClosed)
		e.refresh(tick)
	}
	return verdict.None
}

// unknownTCP says whether a segment of no flow may open one: a SYN, the answer to a SYN of which there is a
// fingerprint, and a segment with ACK, in mid-stream.
func (t *Table) unknownTCP(sh *shard, p *packet.Packet, in packet.PortID, from uint8, now int64, s *Seen) {
	switch {
	case p.L4 == 0:
		s.refuse(verdict.TCPWithoutFlow)
		return
	case t.paired(p, in, s):
		s.Paired = true
		return
	}
	loose := t.loosely(p.Src, p.Dst, now)
	var g segment
	g.read(p)
	switch {
	case g.flags&(tcpSYN|tcpRST) == 0:
		midStream(p, loose, s)
	case g.flags&(tcpSYN|tcpACK) == tcpSYN:
		if t.limits.floods(uint32(in)) && !sh.repeated(t.keys.mark(s.hash, from, g.seq), now) {
			sh.count.unrepeated++
			s.refuse(verdict.SYNFlood)
		}
	case g.has(tcpACK):
		place, _ := sh.recall(t.keys.mark(s.hash, from^1, g.ack-1), now)
		if place != nil || loose && g.has(tcpSYN) {
			s.Turn()
			return
		}
		fallthrough
	default:
		s.refuse(verdict.TCPWithoutFlow)
	}
}

// ephemeral is the first of the ports that ends choose by themselves (Linux' ip_local_port_range; RFC 6056 2.1 asks
// for 49152 and up): who speaks from one of them to another port has opened the connection, as far as can be told.
const ephemeral = 32768

// midStream says who has opened the connection of a segment that nobody knows. The answer of an end that was asked
// opens nothing: what was revoked or denied before a restart would go on as a connection of that end's. Until loose
// ends it is taken for the answer that it is, and policy asked about the one who asked. Where the ports do not tell,
// policy has to let it either way then.
func midStream(p *packet.Packet, loose bool, s *Seen) {
	from, to := p.SrcPort >= ephemeral, p.DstPort >= ephemeral
	switch {
	case from && !to:
	case to && !from && loose:
		s.Turn()
	case to && !from:
		s.refuse(verdict.TCPWithoutFlow)
	default:
		s.Either = loose
	}
}
