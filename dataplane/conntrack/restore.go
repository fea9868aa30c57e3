// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"iter"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Saved is a flow for another table: a successor's, or the one that there is after a restart.
type Saved struct {
	// Near are the ends of what the opener sends, Far of what the other end gets; of ICMP queries both ports are the
	// identifier. They differ where the flow is translated.
	Near, Far packet.Ends
	Proto     packet.IPProto
	Timestamp bool          // ICMP: it asks for timestamps, not for echoes
	In, Out   packet.PortID // the opener is behind In, the other end behind Out
	State     string        // as in Flow, but that of a revoked flow is what it would be otherwise
	// Generation of policy that let it in, and by which rule.
	Generation, Rule uint32
	// Revoked is why policy has taken it back; None: it has not.
	Revoked verdict.Reason
	// Translated: there is a translation, though it may leave the ends as they are.
	Translated bool
	// Backend is the Translation's; 0: none. Numbers are of one process: who restores says what the backend's is there.
	Backend uint32
	// Direct: Far's destination answers the packets, which keep their ends.
	Direct        bool
	Sent, Replied Traffic
	Age, Idle     time.Duration // since it was opened, and since a packet last kept it
	TCP           SavedTCP      // of TCP; of SCTP, Ends are the tags
	record        offload.Ref   // of Recorded
}

// SavedTCP is what is known of both ends of a TCP connection, the opener first. All zero: nothing.
type SavedTCP struct {
	Ends    [2]uint32 // one past the highest sequence number sent
	Limits  [2]uint32 // up to where the other end lets this one send
	Acks    [2]uint32 // the highest acknowledgement sent, or the lowest that could be
	Windows [2]uint16 // the largest that was offered, before scaling; 0: the end has sent nothing
	Scales  [2]uint8  // of windows, and flags (see entry.go)
}

// Export iterates over the flows at time now, in monotonic nanoseconds. What the kernel carries of them stays carried;
// Sent and Replied are without that, for Restore finds the records.
func (t *Table) Export(now int64) iter.Seq[Saved] { panic("TODO") }

// Recorded is the flow of a record in the kernel's table that another process has left, as far as the record tells:
// TCP is open, UDP a stream. It returns false for a pair's.
func (t *Table) Recorded(ref offload.Ref, now int64) (Saved, bool) { panic("TODO") }

// Restore puts in a flow at time now. Errors: its ends are another's, there is no room, or it makes no sense; a record of
// the flow is the caller's to remove then.
func (t *Table) Restore(s *Saved, now int64) error { panic("TODO") }
