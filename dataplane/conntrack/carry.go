// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"iter"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// FlowID is a flow of the table, for as long as it is one.
type FlowID struct {
	hash  uint64
	at    uint32
	stamp offload.Ref
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

// Carry has the kernel carry what comes in the direction of a packet that was sent on, as Seen.Carry asks, by a way that
// repeats what became of it. It returns false where the kernel does not.
func (t *Table) Carry(s *Seen, w *offload.Way) bool { panic("TODO") }

// Claim has the kernel leave the packets of a flow to userspace, in both directions, whatever pair there is. s is of a
// packet that Open or OpenTranslated has opened a flow for, or of a Known one. It returns false where there is no room
// for it: then a pair that would carry its packets has to go.
func (t *Table) Claim(s *Seen) bool { panic("TODO") }

// Carried iterates over the flows that the kernel carries, in no order, at time now.
func (t *Table) Carried(now int64) iter.Seq[CarriedFlow] { panic("TODO") }

// Uncarry has packets of a flow come to userspace, where the next one decides anew. It returns false when the kernel did
// not carry it any more.
func (t *Table) Uncarry(id FlowID) bool { panic("TODO") }

// Judge says what policy of a generation says of a flow: None lets it go on by a rule, as Keep; else it is revoked, as by
// Revoke, and no packet of it is carried from then on.
func (t *Table) Judge(id FlowID, why verdict.Reason, now int64, generation, rule uint32) bool { panic("TODO") }
