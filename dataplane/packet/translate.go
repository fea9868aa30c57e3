// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// Translation changes where a packet comes from and where it goes. All checksums are brought up to date by what has
// changed (RFC 1624), never computed anew: a wrong one stays wrong, and nothing is read but the headers.
//
// translate.go is the packet itself, quote.go the one that an ICMP error quotes, crc.go SCTP's checksum.

const protoUDPLite IPProto = 136

// Translate gives the packet other ends, in the frame and in p; of a fragment behind the first, which has no ports, the
// addresses alone. Of ICMP echoes SrcPort is the identifier. FlowHash stays: it chooses the packet's way, and is one
// for each direction of a flow whether the flow is translated or not.
//
// It returns false, with nothing changed, for what the receiver would not take: what is authenticated with its
// addresses (AH); what is sent by way of others (a routing header with segments left), whose checksum covers another
// destination; UDP-Lite; and a first fragment whose checksum is in another one, or, of SCTP, takes all others to know.
// All addresses are to be of the packet's family.
func (p *Packet) Translate(to Ends) bool {
	from := p.Ends()
	if p.L4 != 0 && p.Proto != ProtoTCP && p.Proto != ProtoUDP {
		to = p.identified(from, to)
	}
	if from == to {
		return true
	}
	if !p.translatable(&from, &to) {
		return false
	}
	addresses := difference(from.Src, to.Src) + difference(from.Dst, to.Dst)
	p.putAddresses(to.Src, to.Dst, addresses)
	if p.L4 == 0 {
		return true
	}
	ports := uint64(to.SrcPort) + uint64(to.DstPort) + uint64(^from.SrcPort) + uint64(^from.DstPort)
	b := p.Frame[p.L4:p.End]
	switch p.Proto {
	case ProtoTCP, ProtoUDP:
		p.putPorts(b, &to)
		p.adjust(b[p.checksumOffset():], addresses, ports)
	case ProtoSCTP:
		p.adjustSCTP(b, &to)
		p.putPorts(b, &to)
	case ProtoICMP, ProtoICMPv6:
		p.translateICMP(b, &from, &to, addresses)
	}
	return true
}

// identified takes the second port of an echo for the first, and ports away of what has none.
func (p *Packet) identified(from, to Ends) Ends {
	switch {
	case p.Proto == ProtoSCTP:
	case isEcho(p.Proto, p.ICMPType):
		to.DstPort = to.SrcPort
	default:
		to.SrcPort, to.DstPort = from.SrcPort, from.DstPort
	}
	return to
}

// translatable says whether the packet stays whole with other ends.
func (p *Packet) translatable(from, to *Ends) bool {
	switch {
	case p.Flags&(IPv6|Options) == IPv6|Options && p.bound():
		return false
	case p.Proto == protoUDPLite:
		return false
	case p.Flags&Fragment == 0 || p.L4 == 0:
		return true
	case p.Proto == ProtoTCP:
		return p.End-p.L4 >= 18
	case p.Proto == ProtoSCTP:
		return from.SrcPort == to.SrcPort && from.DstPort == to.DstPort
	}
	return true
}

// bound tells whether extension headers of the IPv6 packet tie it to its addresses: one of authentication, or of
// routing with segments left.
func (p *Packet) bound() bool {
	b := p.Frame[p.L3:p.End]
	kind, at := IPProto(b[6]), ipv6Len
	for isExtension(kind) {
		size := extensionLen(kind, b[at:])
		if size == 0 || kind == protoAH || kind == protoRouting && b[at+3] != 0 {
			return true
		}
		if kind == protoFragment && p.Flags&(Fragment|FirstFragment) == Fragment {
			return false
		}
		kind = IPProto(b[at])
		at += size
	}
	return false
}

// difference is what a ones' complement sum over an address gains when the address changes. A word of 32 ones is zero
// to the sum, and keeps this from being negative.
func difference(from, to Addr) uint64 {
	const low = 0xffffffff
	return to.Hi>>32 + to.Hi&low + to.Lo>>32 + to.Lo&low + 4*low -
		(from.Hi>>32 + from.Hi&low + from.Lo>>32 + from.Lo&low)
}

// putAddresses writes the addresses, between which and those before there is a difference, into the IP header.
func (p *Packet) putAddresses(src, dst Addr, difference uint64) {
	p.Src, p.Dst = src, dst
	h := p.Frame[p.L3:p.End]
	if p.Flags&IPv6 != 0 {
		src.put16(h[8:])
		dst.put16(h[24:])
		return
	}
	src.put4(h[12:])
	dst.put4(h[16:])
	change(h[10:], difference)
}

// change brings the checksum field at b up to date with a difference (RFC 1624, equation 3).
func change(b []byte, difference uint64) {
	binary.BigEndian.PutUint16(b, ^Fold(uint64(^binary.BigEndian.Uint16(b))+difference))
}

func (p *Packet) putPorts(b []byte, to *Ends) {
	p.SrcPort, p.DstPort = to.SrcPort, to.DstPort
	binary.BigEndian.PutUint32(b, uint32(to.SrcPort)<<16|uint32(to.DstPort))
}

// adjust brings the checksum field at b of TCP or UDP up to date. A partial one is the sum of the pseudo-header, which
// has no ports; none at all stays none, and no other becomes that (RFC 768).
func (p *Packet) adjust(b []byte, addresses, ports uint64) {
	if p.Flags&PartialChecksum != 0 {
		binary.BigEndian.PutUint16(b, Fold(uint64(binary.BigEndian.Uint16(b))+addresses))
		return
	}
	if p.Proto != ProtoUDP {
		change(b, addresses+ports)
		return
	}
	changeUDP(b, addresses+ports)
}

// changeUDP is change for the checksum field of UDP.
func changeUDP(b []byte, difference uint64) {
	if b[0]|b[1] == 0 {
		return
	}
	change(b, difference)
	if b[0]|b[1] == 0 {
		b[0], b[1] = 0xff, 0xff
	}
}

// translateICMP writes the identifier of an echo, and brings the checksum up to date. ICMPv6's covers the addresses.
func (p *Packet) translateICMP(b []byte, from, to *Ends, addresses uint64) {
	total := uint64(0)
	if p.Proto == ProtoICMPv6 {
		total = addresses
	}
	if isEcho(p.Proto, p.ICMPType) {
		total += uint64(^from.SrcPort) + uint64(to.SrcPort)
		binary.BigEndian.PutUint16(b[4:], to.SrcPort)
		p.SrcPort, p.DstPort = to.SrcPort, to.SrcPort
	}
	change(b[2:], total)
}
