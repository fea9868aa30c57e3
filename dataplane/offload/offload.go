// SPDX-License-Identifier: Apache-2.0

// Package offload is the kernel's flow table as userspace writes it: what hooks repeat for the rest of a flow once the
// pipeline has decided about it. The table is memory that is shared with the hooks (xdpprog maps it); only userspace
// writes it, but for counters, so that nothing here is a system call.
//
// Files: offload.go (words), table.go (what others ask of it), pair.go (and of pairs), layout.go (as hooks have it),
// memory.go (where that is), index.go (how records are found), grow.go (its size), record.go (how they are written),
// egress.go (how packets leave), room.go (which record makes way), share.go (what a port has), connection.go
// (connections as they begin), news.go (of which userspace is to know), adopt.go (a table that another process has
// left), untracked.go (flows that nobody else knows).
package offload

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Ref is a record of the table, for as long as it is one flow's; 0: none. Where a record has made way to another
// flow's, methods take the Ref for none.
type Ref uint64

// Flow is what a record is for.
type Flow struct {
	// Near are the ends of what the opener sends, Far of what the other end gets. They differ where the flow is
	// translated. Those of a pair have no ports: all TCP between two addresses, which is not translated.
	Near, Far  packet.Ends
	Proto      packet.IPProto
	Generation uint32 // of policy that let it
	Pair       bool
	Closed     [2]bool // TCP: that end has sent a FIN; as Table.Close was told, or hooks have carried
	Untracked  bool    // see EnterUntracked
	Whole      bool    // TCP: FINs are carried too
	// Young says that TCP's handshake goes on: see Table.EnterYoung.
	Young
}

// Way is one direction of a flow, and what becomes of its packets: they get the other side's ends, a TTL less by one,
// and the MAC addresses of the link, and leave.
type Way struct {
	In  packet.PortID // by which they come
	Out packet.PortID // by which they leave; 0: they go to userspace, whatever pair there is
	MAC packet.MAC    // of the next hop
	MTU int           // of the largest IP packet, bytes; larger ones go to userspace
}

// Egress is how a port's packets leave.
type Egress struct {
	Kind    EgressKind
	IfIndex int
	MAC     packet.MAC // of ours, on the link
	VLANs   packet.VLANs
}

// EgressKind is enum egress_kind of xdpprog/bpf/shared.h.
type EgressKind uint8

// The kinds of egress.
const (
	None EgressKind = iota // what would leave by it goes to userspace
	Pod                    // IfIndex is the host's end of its veth
	Host                   // into the host's own stack, by the device's ingress
	Wire                   // out of the device
)

// Traffic is what the kernel has carried in one direction. Bytes are of IP packets. Where there are Packets and no
// Bytes nothing was: a hook counts a packet before it knows whether to carry it, and takes it back.
type Traffic struct{ Packets, Bytes uint64 }

// Carried is what is known of a record.
type Carried struct {
	Traffic [2]Traffic
	// Used is when a packet was last carried, in either direction, in nanoseconds of Config.Clock; to 17 ms. 0: none
	// was.
	Used int64
	// Acks are the acknowledgement numbers that TCP's ends sent last, where Acked says that they did.
	Acks  [2]uint32
	Acked [2]bool
	// Fins are the sequence numbers behind the FINs that were carried; 0: none was.
	Fins [2]uint32
	Young
}

// Young is what is known of a handshake whose packets the kernel carries.
type Young struct {
	Is bool
	// Expects is the number by which the opener's SYN will be acknowledged; once it is Answered, that by which the answer
	// will be, until the opener has acknowledged anything (Carried.Acked).
	Expects  uint32
	Answered bool  // a SYN-ACK has been seen,
	Scaled   bool  // with a window scale,
	Scale    uint8 // which is this.
}
