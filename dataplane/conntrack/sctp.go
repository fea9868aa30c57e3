// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Chunk types (RFC 9260 3.2).
const (
	sctpInit             = 1
	sctpInitAck          = 2
	sctpAbort            = 6
	sctpShutdownChunk    = 7
	sctpShutdownAck      = 8
	sctpCookieEcho       = 10
	sctpCookieAck        = 11
	sctpShutdownComplete = 14
)

// chunks is what is read of an SCTP packet.
type chunks struct {
	tag       uint32 // verification tag
	initiate  uint32 // of INIT and INIT ACK: the tag that the other end is to use
	types     uint32 // one bit for each chunk type below 32
	reflected bool   // the T bit: the tag is the receiver's own, not the sender's (RFC 9260 8.5.1)
}

func (c *chunks) has(kind uint) bool { return c.types>>kind&1 != 0 }

// maxChunks is how many chunks of a packet are looked at: those of control come first (RFC 9260 6.10).
const maxChunks = 8

func readChunks(p *packet.Packet) (c chunks) {
	b := p.Frame[p.L4:min(p.End, p.L3+p.L3Len)]
	if len(b) < 16 {
		return c
	}
	c.tag = binary.BigEndian.Uint32(b[4:])
	b = b[12:]
	for n := 0; n < maxChunks && len(b) >= 4; n++ {
		kind, size := b[0], int(binary.BigEndian.Uint16(b[2:]))
		if size < 4 {
			break
		}
		if kind < 32 {
			c.types |= 1 << kind
		}
		switch {
		case (kind == sctpInit || kind == sctpInitAck) && len(b) >= 20:
			c.initiate = binary.BigEndian.Uint32(b[4:])
		case kind == sctpAbort || kind == sctpShutdownComplete:
			c.reflected = b[1]&1 != 0
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return c
}

// opensSCTP: an INIT, alone and with tags as they are to be (RFC 9260 8.5.1).
func opensSCTP(p *packet.Packet) bool {
	if p.L4 == 0 {
		return false
	}
	c := readChunks(p)
	return c.types == 1<<sctpInit && c.tag == 0 && c.initiate != 0
}

// followSCTP checks the verification tag, which nobody knows who has not seen the handshake. e.end holds the tag that
// packets of each direction must have, 0 while it is not known.
func (sh *shard) followSCTP(n uint32, p *packet.Packet, d uint8, tick uint32) verdict.Reason {
	e, c := &sh.entries[n-1], readChunks(p)
	if c.has(sctpInit) {
		return sh.initSCTP(n, &c, d, tick)
	}
	want := e.end[d&1]
	if c.reflected && c.tag == e.end[d&1^1] {
		want = c.tag
	}
	if c.tag != want || want == 0 {
		return verdict.SCTPWithoutFlow
	}
	next := e.state
	switch {
	case c.has(sctpAbort) || c.has(sctpShutdownComplete):
		next = sctpClosed
	case e.state == sctpClosed:
		return verdict.None
	case c.has(sctpShutdownChunk) || c.has(sctpShutdownAck):
		next = sctpShutdown
	case c.has(sctpInitAck):
		if e.state == sctpCookieWait && d == 1 {
			e.end[0] = c.initiate
		}
	case c.has(sctpCookieEcho):
		if e.state == sctpCookieWait {
			next = sctpCookieEchoed
		}
	case c.has(sctpCookieAck):
		if e.state == sctpCookieEchoed && d == 1 {
			next = sctpEstablished
		}
	}
	sh.enter(n, next)
	e.refresh(tick)
	return verdict.None
}

// initSCTP: an opener may say INIT again. On an association that stands, INIT passes without effect: an end that has
// begun anew ends the old one by an ABORT.
func (sh *shard) initSCTP(n uint32, c *chunks, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	switch {
	case c.types != 1<<sctpInit || c.tag != 0 || c.initiate == 0:
		return verdict.SCTPWithoutFlow
	case e.state == sctpClosed:
		return reopen
	case e.state == sctpCookieWait && d == 0:
		e.end[1] = c.initiate
		e.refresh(tick)
	}
	return verdict.None
}
