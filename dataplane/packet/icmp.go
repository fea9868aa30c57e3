// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// ICMP and ICMPv6 types that the dataplane acts on (RFC 792, RFC 4443, RFC 4861).
const (
	ICMPEchoReply   = 0
	ICMPEchoRequest = 8

	ICMPv6EchoRequest           = 128
	ICMPv6EchoReply             = 129
	ICMPv6RouterSolicitation    = 133
	ICMPv6RouterAdvertisement   = 134
	ICMPv6NeighborSolicitation  = 135
	ICMPv6NeighborAdvertisement = 136
	ICMPv6Redirect              = 137
)

// ErrorKind is an ICMP error, whichever the family.
type ErrorKind uint8

// The kinds; the last argument of BuildICMPError is their parameter.
const (
	TimeExceeded        ErrorKind = iota // no parameter
	NetUnreachable                       // no parameter
	HostUnreachable                      // no parameter
	ProtocolUnreachable                  // no parameter; IPv6 says it as an unrecognized next header
	PortUnreachable                      // no parameter
	PacketTooBig                         // the next hop's MTU in bytes; IPv4 calls it fragmentation needed
	AdminProhibited                      // no parameter
	ParameterProblem                     // the offset of the offending byte from the IP header
	numErrorKinds
)

type typeCode struct{ kind, code uint8 }

// RFC 792; RFC 1191 for fragmentation needed; RFC 1812 5.2.7.1 for the unreachable codes.
var errors4 = [numErrorKinds]typeCode{
	TimeExceeded:        {11, 0},
	NetUnreachable:      {3, 0},
	HostUnreachable:     {3, 1},
	ProtocolUnreachable: {3, 2},
	PortUnreachable:     {3, 3},
	PacketTooBig:        {3, 4},
	AdminProhibited:     {3, 13},
	ParameterProblem:    {12, 0},
}

// RFC 4443 3.1 to 3.4.
var errors6 = [numErrorKinds]typeCode{
	TimeExceeded:        {3, 0},
	NetUnreachable:      {1, 0},
	HostUnreachable:     {1, 3},
	ProtocolUnreachable: {4, 1},
	PortUnreachable:     {1, 4},
	PacketTooBig:        {2, 0},
	AdminProhibited:     {1, 1},
	ParameterProblem:    {4, 0},
}

const (
	icmpLen      = 8
	maxError4    = 576  // bytes, RFC 1812 4.3.2.3
	maxError6    = 1280 // bytes, RFC 4443 2.4 (c)
	ownTTL       = 64
	errorTOS     = 0xc0 // internetwork control, RFC 1812 4.3.2.5
	firstInform6 = 128  // ICMPv6 types below it are errors (RFC 4443 2.1)
)

// Bytes that BuildICMPError takes in front of the packet's own IP header, Ethernet header not included.
const (
	ErrorLen4 = ipv4Len + icmpLen
	ErrorLen6 = ipv6Len + icmpLen
)

// isEcho tells whether the parsed ICMP message is an echo request or reply.
func (p *Packet) isEcho() bool { return isEcho(p.Proto, p.ICMPType) }

func isEcho(proto IPProto, kind uint8) bool {
	switch proto {
	case ProtoICMP:
		return kind == ICMPEchoRequest || kind == ICMPEchoReply
	case ProtoICMPv6:
		return kind == ICMPv6EchoRequest || kind == ICMPv6EchoReply
	}
	return false
}

// MayHaveError tells whether an ICMP error may be sent about the packet: never about ICMP errors and redirects, later
// fragments (of IPv4; of IPv6 only when they are ICMPv6, whose type is unknown), packets to groups or broadcast on link
// or IP layer, and packets whose source is not one host (RFC 1812 4.3.2.7, RFC 4443 2.4 (e)). RFC 4443's exceptions for
// multicast are not made, as the dataplane does not forward it. Broadcasts of a subnet are known to the caller alone.
// The Ethernet header must be the one received.
func (p *Packet) MayHaveError() bool {
	if p.DstMAC().IsMulticast() || p.Dst.IsMulticast() || p.Dst.IsBroadcast() || p.Src.MartianSource() {
		return false
	}
	later := p.Flags&(Fragment|FirstFragment) == Fragment
	if p.Flags&IPv6 == 0 {
		return !later && !(p.Proto == ProtoICMP && isError4(p.ICMPType))
	}
	return p.Proto != ProtoICMPv6 || !later && p.ICMPType >= firstInform6 && p.ICMPType != ICMPv6Redirect
}

// IsUnreachable tells whether the packet is an ICMP error that says that its destination cannot be reached, whatever is
// sent there: not that a packet was too large, or took too long.
func (p *Packet) IsUnreachable() bool {
	switch p.Proto {
	case ProtoICMP:
		return p.ICMPType == 3 && p.ICMPCode != 4
	case ProtoICMPv6:
		return p.ICMPType == 1
	}
	return false
}

// isError4 knows unreachable, source quench, redirect, time exceeded and parameter problem.
func isError4(kind uint8) bool {
	switch kind {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// BuildICMPError turns the packet into an ICMP error about itself, from src to its source, with TTL 64. The packet is
// quoted as it stands in the frame, so this comes before DecrementTTL: as much as RFC 1812 (576 bytes in all) or RFC
// 4443 (1280) allow and the first frame holds; a partial checksum stays partial in the quote. The headers are written
// in front of L3, which takes ErrorLen4 or ErrorLen6 bytes of headroom over the Ethernet header's.
//
// Start is 14 bytes before L3 and what is there is to be written by SetEthernet. Frames of the Tail are the caller's to
// free; Tail is 0 and all fields are those of the error, ready to be routed. It returns false, with nothing changed,
// when there is no room, the packet is no whole IP header, or src is of the other family.
func (p *Packet) BuildICMPError(kind ErrorKind, src Addr, parameter uint32) bool {
	v6 := p.Flags&IPv6 != 0
	header, limit, what := ipv4Len, maxError4, errors4[kind]
	if v6 {
		header, limit, what = ipv6Len, maxError6, errors6[kind]
	}
	quoted, l3 := p.L3, p.L3-header-icmpLen
	if p.L3Len == 0 || l3 < ethernetLen || src.Is4() == v6 {
		return false
	}
	if v6 && kind == ProtocolUnreachable {
		parameter = p.nextHeaderOffset()
	}
	total := header + icmpLen + min(p.End-quoted, p.L3Len)
	total = min(total, limit)

	p.Dst, p.Src = p.Src, src
	p.L3, p.L4, p.L3Len = l3, l3+header, total
	p.Start, p.End, p.Tail = l3-ethernetLen, l3+total, 0
	p.SrcPort, p.DstPort = 0, 0
	p.ICMPType, p.ICMPCode, p.TTL = what.kind, what.code, ownTTL
	b := p.Frame[p.L4:p.End]
	binary.BigEndian.PutUint32(b, uint32(what.kind)<<24|uint32(what.code)<<16)
	binary.BigEndian.PutUint32(b[4:], parameterField(kind, v6, parameter))
	if v6 {
		p.putIPv6(ProtoICMPv6)
		binary.BigEndian.PutUint16(b[2:], ^Fold(Sum(b, p.pseudoSum())))
	} else {
		p.putIPv4(ProtoICMP, errorTOS)
		binary.BigEndian.PutUint16(b[2:], ^Fold(Sum(b, 0)))
	}
	p.setFlowHash()
	return true
}

// parameterField is the second word of an ICMP error: IPv4 has the MTU in its lower half, the pointer in its first
// byte; IPv6 has both in all of it.
func parameterField(kind ErrorKind, v6 bool, parameter uint32) uint32 {
	switch {
	case kind == PacketTooBig && !v6:
		return min(parameter, 0xffff)
	case kind == ParameterProblem && !v6:
		return parameter << 24
	case kind == PacketTooBig, kind == ParameterProblem, kind == ProtocolUnreachable:
		return parameter
	}
	return 0
}

// putIPv4 writes the header of a packet of our own that nobody fragments, hence without identification (RFC 6864 4.1).
func (p *Packet) putIPv4(proto IPProto, tos uint8) {
	p.Proto, p.TTL, p.TOS, p.Flags = proto, ownTTL, tos, DontFragment
	h := p.Frame[p.L3 : p.L3+ipv4Len]
	binary.BigEndian.PutUint32(h, 0x45<<24|uint32(tos)<<16|uint32(p.L3Len))
	binary.BigEndian.PutUint32(h[4:], ipv4DF)
	binary.BigEndian.PutUint32(h[8:], ownTTL<<24|uint32(proto)<<16)
	p.Src.put4(h[12:])
	p.Dst.put4(h[16:])
	binary.BigEndian.PutUint16(h[10:], ^Fold(Sum(h, 0)))
}

// putIPv6 writes the header of a packet of our own, with the hop limit in TTL.
func (p *Packet) putIPv6(proto IPProto) {
	p.Proto, p.TOS, p.Flags = proto, 0, IPv6
	h := p.Frame[p.L3 : p.L3+ipv6Len]
	binary.BigEndian.PutUint32(h, 6<<28)
	binary.BigEndian.PutUint32(h[4:], uint32(p.L3Len-ipv6Len)<<16|uint32(proto)<<8|uint32(p.TTL))
	p.Src.put16(h[8:])
	p.Dst.put16(h[24:])
}

// nextHeaderOffset is where in the IP packet the last Next Header field stands, the one that names Proto.
func (p *Packet) nextHeaderOffset() uint32 {
	b := p.Frame[p.L3:p.End]
	field, at, proto := 6, ipv6Len, IPProto(b[6])
	for isExtension(proto) {
		size := extensionLen(proto, b[at:])
		if size == 0 {
			break
		}
		field, proto = at, IPProto(b[at])
		at += size
	}
	return uint32(field)
}

// BuildEchoReply turns an echo request into its reply: addresses swapped, TTL 64, checksums updated, so that a wrong
// one stays wrong (see VerifyTransport). The payload is not touched and may be in further frames. IPv4 options and
// extension headers stay as they are. That Dst is a unicast address of ours and Src one to answer is the caller's to
// see. It returns false, with nothing changed, when the packet is no whole echo request.
func (p *Packet) BuildEchoReply() bool {
	if p.L4 == 0 || p.Flags&Fragment != 0 {
		return false
	}
	h, icmp := p.Frame[p.L3:p.End], p.Frame[p.L4:p.End]
	reply := uint8(ICMPEchoReply)
	switch {
	case p.Flags&IPv6 == 0 && p.Proto == ProtoICMP && p.ICMPType == ICMPEchoRequest:
		p.Src.put4(h[16:])
		p.Dst.put4(h[12:])
		setTTL4(h, ownTTL)
	case p.Flags&IPv6 != 0 && p.Proto == ProtoICMPv6 && p.ICMPType == ICMPv6EchoRequest:
		reply = ICMPv6EchoReply
		p.Src.put16(h[24:])
		p.Dst.put16(h[8:])
		h[7] = ownTTL
	default:
		return false
	}
	from, to := uint16(p.ICMPType)<<8, uint16(reply)<<8 // the addresses' sum is the same in either order
	binary.BigEndian.PutUint16(icmp[2:], UpdateChecksum16(binary.BigEndian.Uint16(icmp[2:]), from, to))
	icmp[0] = reply
	p.Src, p.Dst = p.Dst, p.Src
	p.ICMPType, p.TTL = reply, ownTTL
	return true
}
