// SPDX-License-Identifier: Apache-2.0

package conntrack

// Which segments belong to a connection, seen from the middle: the scheme of Guido van Rooij, "Real Stateful TCP
// Packet Filtering in IP Filter" (2000), as tcp_in_window of the kernel's nf_conntrack_proto_tcp.c has it. A segment
// of one end
//
//	I    begins within what the other end has offered to take,
//	II   ends no more than a window before what has been sent already, as a retransmission may,
//	III  acknowledges nothing that has not been sent,
//	IV   acknowledges nothing older than a window.
//
// SACK blocks make no difference: they lie between the bounds of III and IV.

// leastWidth is the window taken in IV at least: acknowledgments of ends with a small window may be this late
// (MAXACKWINCONST).
const leastWidth = 66000

// unknownScale is taken of flows whose handshake nobody has seen: windows are then too wide rather than too narrow.
const unknownScale = maxScale

// width is the largest window that an end has offered, in bytes.
func (e *entry) width(d uint8) uint32 { return uint32(e.window[d&1]) << (e.shift[d&1] & dirScale) }

// widen takes note of a window as it stands in a header; it is 1 at least, for 0 says that nothing has been sent.
func (e *entry) widen(d uint8, window uint32) {
	e.window[d&1] = max(e.window[d&1], uint16(min(window, 0xffff)), 1)
}

// widenBytes is widen of bytes.
func (e *entry) widenBytes(d uint8, bytes uint32) {
	scale := e.shift[d&1] & dirScale
	e.widen(d, (bytes+1<<scale-1)>>scale)
}

// inWindow judges a segment with ACK and without SYN; most is what the other end has sent at most. Of an end that has
// not been heard nobody knows what it has sent and offered: II asks for nothing then, and III that it may have sent
// what is acknowledged.
func (e *entry) inWindow(g *segment, d uint8, most uint32) bool {
	d &= 1
	o := d ^ 1
	oldest := e.end[o] - max(e.width(d), leastWidth)
	if e.window[o] == 0 {
		return !after(g.seq, e.limit[d]) && !after(g.ack, e.limit[o]) && !before(g.ack, oldest)
	}
	return !after(g.seq, e.limit[d]) &&
		!before(g.end, e.end[d]-e.width(o)) &&
		!after(g.ack, most) &&
		!before(g.ack, oldest)
}

// advance moves the bounds by a segment that inWindow took.
func (e *entry) advance(g *segment, d uint8) {
	d &= 1
	o := d ^ 1
	if !g.whole && after(g.end, e.limit[d]) {
		g.end = e.limit[d] // of a fragment: as far as it can reach
	}
	if uint32(e.window[d]) < g.window || e.window[d] == 0 {
		e.widen(d, g.window)
	}
	if after(g.end, e.limit[d]) { // the other end takes more than it said
		e.widenBytes(o, e.width(o)+g.end-e.limit[d])
	}
	if !before(g.end, e.end[d]) {
		e.end[d] = g.end
		if g.whole && g.has(tcpFIN) {
			e.shift[d] |= dirFin
		}
	}
	if after(g.ack, e.end[o]) { // inWindow knew that it may have
		e.end[o] = g.ack
	}
	if !before(g.ack, e.ack[d]) {
		e.ack[d] = g.ack
		e.shift[d] |= dirAcked
	}
	if limit := g.ack + g.window<<(e.shift[d]&dirScale); after(limit, e.limit[o]) {
		e.limit[o] = limit
	}
}

// begin sets the bounds of an end by its SYN, whose window is not scaled (RFC 7323 2.2).
func (e *entry) begin(g *segment, d, scale uint8, scaled bool) {
	d &= 1
	e.end[d], e.limit[d] = g.end, g.end
	e.ack[d^1] = g.seq + 1 // what the other end acknowledges at least
	e.shift[d] &^= dirScale | dirScaled | dirChallenged
	if scaled {
		e.shift[d] |= scale | dirScaled
	}
	e.window[d] = 0
	e.widenBytes(d, g.window)
}

// agree ends the negotiation of window scales: they count where both ends have the option.
func (e *entry) agree() {
	if e.shift[0]&e.shift[1]&dirScaled != 0 {
		return
	}
	for d := range uint8(2) {
		width := e.width(d)
		e.shift[d] &^= dirScale
		e.window[d] = 0
		e.widenBytes(d, width)
	}
}

// unseenWindow is a window that nobody has seen.
const unseenWindow = 1 << 26

// guess sets the bounds by a segment in mid-stream. What the other end has sent and offered is what this one has
// acknowledged, and a window that nobody has seen.
func (e *entry) guess(g *segment, d uint8) {
	d &= 1
	o := d ^ 1
	e.shift = [2]uint8{unknownScale, unknownScale}
	e.widen(d, g.window)
	e.end[d], e.limit[d] = g.end, g.end+unseenWindow
	e.end[o], e.limit[o] = g.ack, g.ack+max(e.width(d), 0xffff)
	e.ack[d], e.ack[o] = g.ack, g.seq
	e.shift[d] |= dirAcked
	if g.has(tcpFIN) && g.whole {
		e.shift[d] |= dirFin
	}
}
