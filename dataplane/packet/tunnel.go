// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// IP in IP: a packet as the payload of another of its family, from one node to another (RFC 2003, RFC 2473).

// Protocol numbers of a packet in a packet.
const (
	ProtoIPv4 IPProto = 4
	ProtoIPv6 IPProto = 41
)

// OuterLen is the bytes that Encapsulate puts in front of a packet of the family.
func OuterLen(v6 bool) int {
	if v6 {
		return ipv6Len
	}
	return ipv4Len
}

// HoldsPacket tells whether the payload is a whole packet of the family.
func (p *Packet) HoldsPacket() bool {
	proto := ProtoIPv4
	if p.Flags&IPv6 != 0 {
		proto = ProtoIPv6
	}
	return p.Proto == proto && p.L4 != 0 && p.Flags&Fragment == 0
}

// Decapsulate makes p the packet that it holds: L3 moves behind the outer header, and all is read anew that Parse reads
// behind the link's header. Nothing is written: Start stays where the frame begins, and the frame parses as before.
// Of the outer header nothing is kept; who encapsulates has left no congestion mark in it (RFC 6040 4.1).
func (p *Packet) Decapsulate() verdict.Reason {
	kind, tags, at := p.EtherType, p.VLANs, p.L4
	p.reset()
	p.EtherType, p.VLANs, p.L3 = kind, tags, at
	if kind == EtherTypeIPv6 {
		return p.parseIPv6()
	}
	return p.parseIPv4()
}

// Encapsulate writes a header from src to dst, with TTL 64 and DF, in front of the packet. All fields stay those of the
// packet inside; Outer is the length of what is in front of L3, and what is written or cut from then on has it. The
// traffic class is the packet's own but for the congestion bits, which are 0 (the compatibility mode of RFC 6040 4.1).
// It returns false, with nothing changed, when there is no room in front of L3.
func (p *Packet) Encapsulate(src, dst Addr) bool {
	v6 := p.Flags&IPv6 != 0
	size := OuterLen(v6)
	if p.L3 < size {
		return false
	}
	h := p.Frame[p.L3-size : p.L3]
	p.Outer = size
	const ecn = 3
	if v6 {
		binary.BigEndian.PutUint32(h, 6<<28|uint32(p.TOS&^ecn)<<20)
		binary.BigEndian.PutUint32(h[4:], uint32(ProtoIPv6)<<8|ownTTL)
		src.put16(h[8:])
		dst.put16(h[24:])
	} else {
		binary.BigEndian.PutUint32(h, 0x45<<24|uint32(p.TOS&^ecn)<<16)
		binary.BigEndian.PutUint32(h[4:], ipv4DF)
		binary.BigEndian.PutUint32(h[8:], ownTTL<<24|uint32(ProtoIPv4)<<16)
		src.put4(h[12:])
		dst.put4(h[16:])
	}
	putOuterLen(h, p.L3Len)
	return true
}

// putOuterLen writes the length, and IPv4's checksum, into an outer header in front of a packet of so many bytes.
func putOuterLen(h []byte, inner int) {
	if len(h) == ipv6Len {
		binary.BigEndian.PutUint16(h[4:], uint16(inner))
		return
	}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+inner))
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^Fold(Sum(h, 0)))
}

// QuotesOuter tells whether the packet is an ICMP error to who has encapsulated one that was too large on its way, and
// quotes enough of that for who has sent the packet inside to be told.
func (p *Packet) QuotesOuter() bool {
	v6 := p.Flags&IPv6 != 0
	switch {
	case p.Proto == ProtoICMP && !v6 && p.ICMPType == 3 && p.ICMPCode == 4:
	case p.Proto == ProtoICMPv6 && v6 && p.ICMPType == 2:
	default:
		return false
	}
	size := OuterLen(v6)
	if p.L4 == 0 || p.Flags&Fragment != 0 || p.End-p.L4 < icmpLen+2*size+8 {
		return false
	}
	outer, inner := p.Frame[p.L4+icmpLen:], p.Frame[p.L4+icmpLen+size:]
	if v6 {
		return outer[0]>>4 == 6 && IPProto(outer[6]) == ProtoIPv6 && addr16(outer[8:]) == p.Dst && inner[0]>>4 == 6
	}
	return outer[0] == 0x45 && IPProto(outer[9]) == ProtoIPv4 && addr4(outer[12:]) == p.Dst && inner[0]>>4 == 4
}

// BuildInnerTooBig turns a packet that QuotesOuter into the error, from src, to who has sent the packet inside, whom it
// tells of the MTU that is left for it. It returns false, with p to be dropped, where that is none.
func (p *Packet) BuildInnerTooBig(src Addr) bool {
	v6 := p.Flags&IPv6 != 0
	size, b := OuterLen(v6), p.Frame[p.L4:p.End]
	mtu := int(binary.BigEndian.Uint32(b[4:]))
	if !v6 {
		mtu &= 0xffff
	}
	if mtu -= size; mtu <= 0 {
		return false
	}
	p.L3 = p.L4 + icmpLen + size
	p.L3Len, p.Flags, p.Src = p.End-p.L3, p.Flags&IPv6, p.innerSource(v6)
	return p.BuildICMPError(PacketTooBig, src, uint32(mtu))
}

// innerSource is the source in the header at L3.
func (p *Packet) innerSource(v6 bool) Addr {
	if v6 {
		return addr16(p.Frame[p.L3+8:])
	}
	return addr4(p.Frame[p.L3+12:])
}
