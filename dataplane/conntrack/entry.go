// SPDX-License-Identifier: Apache-2.0

package conntrack

import "github.com/viaduct-net/viaduct/dataplane/packet"

// entry is what is kept of a flow: two cache lines. The first says whose it is and whether it may go on, the second
// counts and follows TCP's windows. Arrays have the opener's direction first, the reply direction second.
type entry struct {
	key        key
	expires    uint32 // ticks
	opened     uint32 // ticks
	generation uint32
	rule       uint32
	state      state
	flags      uint8
	shift      [2]uint8  // TCP: the window scale of each end in the low 4 bits, and dir… bits
	window     [2]uint16 // TCP: the largest window each end has offered, before scaling; 0: the end has sent nothing

	ports   uint64 // the port the opener is behind; the other end's from bit 32
	bytes   [2]uint64
	packets [2]uint64
	end     [2]uint32 // TCP: one past the highest sequence number sent; SCTP: the tag that packets must have
	limit   [2]uint32 // TCP: up to where the other end lets this one send
	ack     [2]uint32 // TCP: the highest acknowledgment sent, or the lowest that could be
}

// Flags of an entry.
const (
	openerHi      = 1 << iota // the opener is the key's hi, not its lo; the lowest bit
	offloaded                 // there is a carriage: see carriage.go
	revoked                   // policy has taken back that it let the flow in: see revoke.go
	revokedEgress             // the opener's own policy did
	translated                // there is a record: see record.go
	aliased                   // what the opener sends is found by an alias, and by the key only what answers
	unlinked                  // the alias is still to come
	oneWay                    // only what the opener sends is seen: see oneway.go
)

// Bits beside an end's window scale.
const (
	dirScale  = 0x0f
	dirScaled = 0x10 // its SYN had the window scale option
	dirSynAck = 0x20 // it has sent a SYN with ACK
	dirAcked  = 0x40 // it has acknowledged something
	dirFin    = 0x80 // it has sent a FIN, and nothing comes behind
	// dirChallenged is of the end that was asked, while it has not answered the SYN but by an ACK of something else, whose
	// number is in end[1]; it has not sent anything then that could be a FIN.
	dirChallenged = dirFin
)

// opener is 1 when the opener is hi.
func (e *entry) opener() uint8 { return e.flags & openerHi }

// moved: a packet in direction d came by another port than its end is known to be behind.
func (e *entry) moved(in packet.PortID, d uint8) bool { return uint32(e.ports>>(32*d)) != uint32(in) }

func (e *entry) tuple() Tuple { return e.key.tuple(e.opener()) }

// Times of an entry are in ticks of 2^24 ns, 17 ms: 32 bits of them are 2.3 years, and differences are right when they
// wrap.
const tickShift = 24

func tickOf(now int64) uint32 { return uint32(now >> tickShift) }

// ticks rounds a duration in nanoseconds up, and adds one for the tick that has begun: nothing expires too early.
func ticks(ns int64) uint32 { return uint32((ns+1<<tickShift-1)>>tickShift) + 1 }

func duration(t uint32) int64 { return int64(t) << tickShift }

// expired: the entry does not count any more, whether or not it has been swept.
func (e *entry) expired(tick uint32) bool { return int32(tick-e.expires) >= 0 }

// idle is for how long, in ticks, nothing has refreshed the entry.
func (e *entry) idle(tick uint32) uint32 {
	timeout := timeouts[e.state&31]
	if e.flags&revoked != 0 {
		timeout = revokedTicks
	}
	idle := tick - (e.expires - timeout)
	if int32(idle) < 0 {
		return 0
	}
	return idle
}

func (e *entry) refresh(tick uint32) { e.expires = tick + timeouts[e.state&31] }
