// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// The layout of xdpprog/bpf/shared.h, in the machine's byte order but where said. Machines are
// little-endian: address turns words round.

// Layout is FLOW_LAYOUT: tables of another one cannot be read.
const Layout = 2

// address is struct ip_address: network byte order.
type address [2]uint64

func addressOf(a packet.Addr) address {
	return address{bits.ReverseBytes64(a.Hi), bits.ReverseBytes64(a.Lo)}
}

func (a address) addr() packet.Addr {
	return packet.Addr{Hi: bits.ReverseBytes64(a[0]), Lo: bits.ReverseBytes64(a[1])}
}

// address4 is an address that is aligned to 4 bytes alone.
type address4 [4]uint32

func (a address4) addr() packet.Addr {
	return address{uint64(a[0]) | uint64(a[1])<<32, uint64(a[2]) | uint64(a[3])<<32}.addr()
}

func (a address) words() address4 {
	return address4{uint32(a[0]), uint32(a[0] >> 32), uint32(a[1]), uint32(a[1] >> 32)}
}

const slotsOfBucket = 8

type bucket [slotsOfBucket]uint64

// way is struct flow_way. What the kernel writes is loaded atomically.
type way struct {
	packets, bytes uint64
	used           uint32
	ack            uint32 // network byte order
	from, to       uint32
	mac            packet.MAC
	farDstPort     uint16 // network byte order, as the other ports
	mtu            uint16
	answered       uint16
	farDst         address4
	fin            uint32
}

// record is struct flow_record.
type record struct {
	nearSrc, nearDst, farSrc             address
	nearSrcPort, nearDstPort, farSrcPort uint16
	proto                                packet.IPProto
	flags                                uint8
	generation                           uint32
	version                              uint32
	way                                  [2]way
}

const (
	translated = 1 << iota
	pair
	claimed   // hooks do not look at these: a direction leads to userspace by intent, see room.go
	closed    // the opener's TCP has sent a FIN
	closedToo // the other end's has
	untracked // the record is the table's own, see untracked.go
	whole     // hooks carry FINs
	young     // hooks carry nothing of it but what a handshake has in its place, see connection.go
)

// The SYN-ACK of a way, with its window scale in the lowest bits.
const (
	answered      = 0x20
	answeredScale = 0x10
	scaleBits     = 0x0f
)

// egress is struct egress.
type egress struct {
	ifindex, port uint32
	mac           packet.MAC
	kind, tags    uint8
	outer, inner  [2]uint16 // TPID and TCI, network byte order
	_             uint64
}

// control is struct flow_control.
type control struct {
	seed       [2]uint64
	heart      uint64
	layout     uint32
	bucketMask uint32
	records    uint32
	generation uint32
	carry      uint32
	onAbsence  uint32
	hung       uint64
	hostPort   uint32
	_          uint32
}
