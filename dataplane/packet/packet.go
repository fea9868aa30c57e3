// SPDX-License-Identifier: Apache-2.0

// Package packet is the parsed view of one packet in UMEM: parsing, rewriting and building, without allocation.
package packet

// PortID numbers a port: where packets enter and leave. 24 bits are used; zero is no port.
type PortID uint32

// EtherType is an IEEE 802.3 EtherType, in host byte order.
type EtherType uint16

// EtherTypes that the parser knows.
const (
	EtherTypeIPv4 EtherType = 0x0800
	EtherTypeARP  EtherType = 0x0806
	EtherTypeVLAN EtherType = 0x8100 // 802.1Q
	EtherTypeIPv6 EtherType = 0x86dd
	EtherTypeQinQ EtherType = 0x88a8 // 802.1ad

	etherTypeQinQPre EtherType = 0x9100 // the outer tag of switches from before 802.1ad
)

// IPProto is an IP protocol number.
type IPProto uint8

// IP protocols that the parser knows.
const (
	ProtoICMP   IPProto = 1
	ProtoTCP    IPProto = 6
	ProtoUDP    IPProto = 17
	ProtoESP    IPProto = 50
	ProtoICMPv6 IPProto = 58
	ProtoNoNext IPProto = 59
	ProtoSCTP   IPProto = 132

	protoHopByHop    IPProto = 0
	protoRouting     IPProto = 43
	protoFragment    IPProto = 44
	protoAH          IPProto = 51
	protoDestOptions IPProto = 60
)

// Flags of a parsed packet.
type Flags uint16

const (
	// IPv6 marks the family; clear means IPv4 (when L3 is IP at all).
	IPv6 Flags = 1 << iota
	// Fragment marks any fragment; ports are parsed only of the first. An IPv6 packet whose fragment header makes it
	// the only fragment (RFC 6946) is whole, and not marked.
	Fragment
	// FirstFragment marks the fragment with offset 0.
	FirstFragment
	// DontFragment is IPv4's DF bit.
	DontFragment
	// Options marks IPv4 options or IPv6 extension headers other than Fragment.
	Options
	// PartialChecksum marks a TCP or UDP checksum field that holds the folded pseudo-header sum only, as a veth
	// hands over packets of a stack that leaves the sum to the device (CHECKSUM_PARTIAL in linux/skbuff.h).
	PartialChecksum
)

// Packet is one packet as the pipeline sees it. It is reused for every packet of a batch and must not be kept.
//
// Offsets are into Frame, not from the packet's start, so that pushing or popping a tag moves only Start.
type Packet struct {
	Frame []byte // the whole first frame (UMEM chunk), headroom included
	Start int    // first byte of the Ethernet header in Frame
	End   int    // one past the packet's last byte in Frame
	Tail  int    // bytes in further frames (multi-buffer), 0 for most packets

	L3 int // offset of the IP or ARP header in Frame
	L4 int // offset of the transport header in Frame, known or not; 0 where none is to be read (later fragments, ESP)

	L3Len int // bytes of the IP packet, its header included; link padding excluded
	Outer int // bytes of the header that Encapsulate has put in front of L3; 0: none

	Dst, Src           Addr      // of the IP header; zero for ARP
	SrcPort, DstPort   uint16    // TCP, UDP, SCTP; of ICMP echoes both are the identifier
	EtherType          EtherType // behind the tags
	Proto              IPProto   // of the transport header, behind extension headers
	TTL                uint8     // TTL or hop limit as received
	TOS                uint8     // TOS or traffic class
	ICMPType, ICMPCode uint8
	Flags              Flags
	VLANs              VLANs
	In, Out            PortID
	FlowHash           uint32 // the same for both directions of a flow
}

// VLANs is a packet's or a port's VLAN tags: the VLAN identifiers (1..4094), outer first, 0 for none.
// A priority tag (identifier 0) counts as no tag.
type VLANs struct{ Outer, Inner uint16 }

// Data returns the packet's bytes in its first frame, from the Ethernet header on.
func (p *Packet) Data() []byte { return p.Frame[p.Start:p.End] }

// Len is the packet's length in bytes over all its frames, Ethernet header included.
func (p *Packet) Len() int { return p.End - p.Start + p.Tail }
