// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Parse goes through a packet in the order of its bytes:
//
//	parseEthernet   addresses, up to two tags, EtherType
//	parseIPv4       header, checksum, options, fragment fields
//	parseIPv6       header, extension headers
//	parseTransport  TCP, UDP, SCTP, ICMP, ICMPv6
//
// Every step reads from a slice that ends where the packet, or what of it is in the first frame, ends.

const (
	ethernetLen = 14
	tagLen      = 4
	ipv4Len     = 20
	ipv6Len     = 40

	// MaxExtensionHeaders is how many IPv6 extension headers the parser follows.
	MaxExtensionHeaders = 8
)

// Parse reads the headers of the packet in Frame[Start:End] (and Tail bytes in further frames) into p: Frame, Start,
// End, Tail and In are the caller's, with 0 <= Start <= End <= len(Frame); everything else is overwritten. It never
// reads outside Frame[Start:End]; headers that go on in a further frame count as truncated. Where there is no Tail, End
// is moved to cut link padding off an IP packet.
//
// It returns verdict.None when the packet is well formed as far as a router may care, or the reason for which to drop
// it; fields read until then are set (EtherType, VLANs, Src, Dst) for the report. ARP is only recognised: see ParseARP.
func (p *Packet) Parse() verdict.Reason {
	p.reset()
	if reason := p.parseEthernet(); reason != verdict.None {
		return reason
	}
	switch p.EtherType {
	case EtherTypeIPv4:
		return p.parseIPv4()
	case EtherTypeIPv6:
		return p.parseIPv6()
	case EtherTypeARP:
		return verdict.None
	}
	return verdict.UnknownEtherType
}

// reset clears field by field: assigning a whole Packet would copy it, with a write barrier for Frame.
func (p *Packet) reset() {
	p.L3, p.L4, p.L3Len, p.Outer = 0, 0, 0, 0
	p.Dst, p.Src = Addr{}, Addr{}
	p.SrcPort, p.DstPort, p.EtherType = 0, 0, 0
	p.Proto, p.TTL, p.TOS, p.ICMPType, p.ICMPCode = 0, 0, 0, 0, 0
	p.Flags, p.VLANs = 0, VLANs{}
	p.Out, p.FlowHash = 0, 0
}

func (p *Packet) parseEthernet() verdict.Reason {
	b := p.Frame[p.Start:p.End]
	if len(b) < ethernetLen {
		return verdict.TruncatedEthernet
	}
	p.EtherType = EtherType(binary.BigEndian.Uint16(b[12:]))
	p.L3 = p.Start + ethernetLen
	if !isTag(p.EtherType) {
		return verdict.None
	}
	return p.parseTags(b[ethernetLen:])
}

func isTag(t EtherType) bool {
	return t == EtherTypeVLAN || t == EtherTypeQinQ || t == etherTypeQinQPre
}

// parseTags reads tags from b, which starts behind the first tag's EtherType. Tags with identifier 0 carry a priority
// only (802.1Q 6.9) and count towards the two that may be there, but not as a VLAN.
func (p *Packet) parseTags(b []byte) verdict.Reason {
	for n := 0; isTag(p.EtherType); n++ {
		if n == 2 {
			return verdict.TooManyVLANTags
		}
		if len(b) < tagLen {
			return verdict.TruncatedEthernet
		}
		id := binary.BigEndian.Uint16(b) & 0xfff
		switch {
		case id == 0xfff: // reserved
			return verdict.UnknownVLAN
		case id == 0:
		case p.VLANs.Outer == 0:
			p.VLANs.Outer = id
		default:
			p.VLANs.Inner = id
		}
		p.EtherType = EtherType(binary.BigEndian.Uint16(b[2:]))
		p.L3 += tagLen
		b = b[tagLen:]
	}
	return verdict.None
}

// IPv4's flags-and-offset field.
const (
	ipv4Reserved   = 0x8000
	ipv4DF         = 0x4000
	ipv4MF         = 0x2000
	ipv4OffsetMask = 0x1fff
)

func (p *Packet) parseIPv4() verdict.Reason {
	b := p.Frame[p.L3:p.End]
	if len(b) < ipv4Len {
		return verdict.TruncatedIP
	}
	first := binary.BigEndian.Uint64(b)      // version, IHL, TOS, total length, identification, flags and offset
	second := binary.BigEndian.Uint64(b[8:]) // TTL, protocol, checksum, source
	third := binary.BigEndian.Uint32(b[16:]) // destination
	if first>>60 != 4 {
		return verdict.MalformedIPv4
	}
	p.Src, p.Dst = Addr4(uint32(second)), Addr4(third)
	p.TOS, p.TTL, p.Proto = uint8(first>>48), uint8(second>>56), IPProto(second>>48)
	header, total := int(first>>56&0xf)*4, int(first>>32&0xffff)
	if header < ipv4Len || total < header {
		return verdict.MalformedIPv4
	}
	if header > len(b) || total > len(b)+p.Tail {
		return verdict.TruncatedIP
	}
	b = p.trim(b, total)
	sum := first>>32 + first&0xffffffff + second>>32 + second&0xffffffff + uint64(third)
	if header > ipv4Len {
		sum = Sum(b[ipv4Len:header], sum)
	}
	if Fold(sum) != 0xffff {
		return verdict.BadIPv4Checksum
	}
	if header > ipv4Len {
		p.Flags |= Options
		if reason := checkIPv4Options(b[ipv4Len:header]); reason != verdict.None {
			return reason
		}
	}
	if flags := uint16(first); flags != 0 {
		if reason := p.parseIPv4Fragment(flags, header, total); reason != verdict.None {
			return reason
		}
	}
	return p.parseTransport(b, header)
}

// trim notes the length of the IP packet in b and cuts off what is behind it: link padding.
func (p *Packet) trim(b []byte, total int) []byte {
	p.L3Len = total
	if total >= len(b) {
		return b
	}
	if p.Tail == 0 {
		p.End = p.L3 + total
	}
	return b[:total]
}

// IPv4 option types (RFC 791 3.1, RFC 2113).
const (
	optionEnd         = 0
	optionNop         = 1
	optionRecordRoute = 7
	optionTimestamp   = 68
	optionLooseRoute  = 131
	optionStrictRoute = 137
	optionRouterAlert = 148
)

func checkIPv4Options(b []byte) verdict.Reason {
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return verdict.BadIPv4Options
		}
		option := b[:b[1]]
		switch option[0] {
		case optionLooseRoute, optionStrictRoute:
			return verdict.SourceRouted
		case optionRecordRoute:
			if len(option) < 3 || option[2] < 4 {
				return verdict.BadIPv4Options
			}
		case optionTimestamp:
			if len(option) < 4 || option[2] < 5 {
				return verdict.BadIPv4Options
			}
		case optionRouterAlert:
			if len(option) != 4 {
				return verdict.BadIPv4Options
			}
		}
		b = b[len(option):]
	}
	return verdict.None
}

// parseIPv4Fragment reads the flags-and-offset field of a packet with this header and total length. A datagram may not
// become larger than 65535 bytes; offset 1 would overwrite the TCP flags of the first fragment (RFC 1858 4).
func (p *Packet) parseIPv4Fragment(flags uint16, header, total int) verdict.Reason {
	if flags&ipv4Reserved != 0 {
		return verdict.MalformedIPv4
	}
	if flags&ipv4DF != 0 {
		p.Flags |= DontFragment
	}
	offset, more := int(flags&ipv4OffsetMask)*8, flags&ipv4MF != 0
	if offset == 0 && !more {
		return verdict.None
	}
	return p.setFragment(offset, total-header, more, 0xffff-header)
}

// setFragment marks a fragment of length bytes at offset; the whole may have limit bytes.
func (p *Packet) setFragment(offset, length int, more bool, limit int) verdict.Reason {
	p.Flags |= Fragment
	if offset == 0 {
		p.Flags |= FirstFragment
	}
	switch {
	case more && (length%8 != 0 || length == 0), offset+length > limit:
		return verdict.MalformedFragment
	case offset == 8 && p.Proto == ProtoTCP:
		return verdict.TinyFragment
	}
	return verdict.None
}

func (p *Packet) parseIPv6() verdict.Reason {
	b := p.Frame[p.L3:p.End]
	if len(b) < ipv6Len {
		return verdict.TruncatedIP
	}
	first := binary.BigEndian.Uint64(b) // version, traffic class, flow label, payload length, next header, hop limit
	if first>>60 != 6 {
		return verdict.MalformedIPv6
	}
	p.Flags = IPv6
	p.Src, p.Dst = addr16(b[8:]), addr16(b[24:])
	p.TOS, p.TTL, p.Proto = uint8(first>>52), uint8(first), IPProto(first>>8)
	payload := int(first >> 16 & 0xffff)
	if payload == 0 && p.Proto == protoHopByHop { // a jumbogram (RFC 2675), or a header that is not there
		return verdict.MalformedIPv6
	}
	if ipv6Len+payload > len(b)+p.Tail {
		return verdict.TruncatedIP
	}
	b = p.trim(b, ipv6Len+payload)
	// Addr could not tell these from IPv4 any more, and they may not be on a wire (RFC 4942 2.2).
	if p.Src.Is4() {
		return verdict.MartianSource
	}
	if p.Dst.Is4() {
		return verdict.MartianDestination
	}
	if !isExtension(p.Proto) {
		return p.parseTransport(b, ipv6Len)
	}
	l4, reason := p.parseExtensions(b)
	if reason != verdict.None {
		return reason
	}
	return p.parseTransport(b, l4)
}

func isExtension(proto IPProto) bool {
	switch proto {
	case protoHopByHop, protoRouting, protoFragment, protoAH, protoDestOptions:
		return true
	}
	return false
}

// parseExtensions follows the extension headers of the IPv6 packet in b, sets Proto to the protocol behind them and
// returns where that begins in b.
func (p *Packet) parseExtensions(b []byte) (l4 int, _ verdict.Reason) {
	fragmented := false
	l4 = ipv6Len
	for n := 0; isExtension(p.Proto); n++ {
		if n == MaxExtensionHeaders {
			return 0, verdict.TooManyExtensionHeaders
		}
		kind, size := p.Proto, extensionLen(p.Proto, b[l4:])
		if size == 0 || kind == protoHopByHop && n > 0 || kind == protoFragment && fragmented {
			if size == 0 && p.Flags&FirstFragment != 0 { // the first must hold all headers (RFC 7112)
				return 0, verdict.TinyFragment
			}
			return 0, verdict.BadExtensionHeader
		}
		h := b[l4 : l4+size]
		l4 += size
		p.Proto = IPProto(h[0])
		reason := verdict.None
		switch kind {
		case protoHopByHop:
			reason = checkHopByHop(h[2:])
		case protoRouting:
			if h[2] == 0 {
				reason = verdict.RoutingHeader0
			}
		case protoFragment:
			fragmented = true
			reason = p.parseIPv6Fragment(h, l4)
		}
		if reason != verdict.None {
			return 0, reason
		}
		if kind != protoFragment {
			p.Flags |= Options
		} else if p.Flags&(Fragment|FirstFragment) == Fragment {
			break
		}
	}
	return l4, verdict.None
}

// extensionLen is the length of the extension header at the start of b, 0 when b does not hold all of it.
func extensionLen(kind IPProto, b []byte) int {
	if len(b) < 8 {
		return 0
	}
	size := (int(b[1]) + 1) * 8
	switch kind {
	case protoFragment:
		size = 8
	case protoAH: // RFC 4302 2.2: in units of 4 bytes, less 2; at least the fixed 12 bytes
		size = (int(b[1]) + 2) * 4
		if size < 12 {
			return 0
		}
	}
	if size > len(b) {
		return 0
	}
	return size
}

// checkHopByHop looks at the options behind the first two bytes of a hop-by-hop header (RFC 8200 4.2). The jumbo
// payload option may not be in a packet that has a payload length (RFC 2675 3).
func checkHopByHop(b []byte) verdict.Reason {
	const pad1, jumbo = 0, 0xc2
	for len(b) > 0 {
		if b[0] == pad1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || 2+int(b[1]) > len(b) {
			return verdict.BadExtensionHeader
		}
		if b[0] == jumbo {
			return verdict.MalformedIPv6
		}
		b = b[2+int(b[1]):]
	}
	return verdict.None
}

// parseIPv6Fragment reads the fragment header h, behind which the fragment begins at byte l4 of the IP packet.
func (p *Packet) parseIPv6Fragment(h []byte, l4 int) verdict.Reason {
	field := binary.BigEndian.Uint16(h[2:]) // offset in bytes, for its low 3 bits are not part of it; M
	offset, more := int(field&^7), field&1 != 0
	if offset == 0 && !more {
		return verdict.None
	}
	return p.setFragment(offset, p.L3Len-l4, more, 0xffff)
}

// parseTransport reads the transport header at b[at:], where b is what the first frame holds of the IP packet.
func (p *Packet) parseTransport(b []byte, at int) verdict.Reason {
	if p.Flags&(Fragment|FirstFragment) == Fragment || p.Proto == ProtoESP || p.Proto == ProtoNoNext {
		p.setFlowHash()
		return verdict.None
	}
	p.L4 = p.L3 + at
	b = b[at:]
	reason := verdict.None
	switch p.Proto {
	case ProtoUDP:
		reason = p.parseUDP(b)
	case ProtoTCP:
		reason = p.parseTCP(b)
	case ProtoICMP, ProtoICMPv6:
		reason = p.parseICMP(b)
	case ProtoSCTP:
		reason = p.parseSCTP(b)
	}
	p.setFlowHash()
	return reason
}

// short is the reason for a transport header that is not all there.
func (p *Packet) short() verdict.Reason {
	if p.Flags&Fragment != 0 {
		return verdict.TinyFragment
	}
	return verdict.TruncatedTransport
}

func (p *Packet) parsePorts(b []byte) {
	ports := binary.BigEndian.Uint32(b)
	p.SrcPort, p.DstPort = uint16(ports>>16), uint16(ports)
}

// l4Len is the length of the transport header and its payload over all frames.
func (p *Packet) l4Len() int { return p.L3 + p.L3Len - p.L4 }

func (p *Packet) parseUDP(b []byte) verdict.Reason {
	if len(b) < 8 {
		return p.short()
	}
	p.parsePorts(b)
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < 8 {
		return verdict.MalformedUDP
	}
	if p.Flags&Fragment != 0 {
		return verdict.None
	}
	if length > p.l4Len() {
		return verdict.MalformedUDP
	}
	if length == p.l4Len() {
		p.setPartial(binary.BigEndian.Uint16(b[6:]))
	}
	return verdict.None
}

func (p *Packet) parseTCP(b []byte) verdict.Reason {
	if p.Flags&Fragment != 0 {
		if len(b) < 14 { // up to and with the flags
			return verdict.TinyFragment
		}
		p.parsePorts(b)
		if b[12]>>4 < 5 {
			return verdict.MalformedTCP
		}
		return verdict.None
	}
	if len(b) < 20 {
		return verdict.TruncatedTransport
	}
	p.parsePorts(b)
	header := int(b[12]>>4) * 4
	if header < 20 || header > p.l4Len() {
		return verdict.MalformedTCP
	}
	if header > len(b) {
		return verdict.TruncatedTransport
	}
	p.setPartial(binary.BigEndian.Uint16(b[16:]))
	return verdict.None
}

// setPartial marks a checksum field that equals the folded pseudo-header sum, as tcp_v4_send_check, udp4_hwcsum and
// their IPv6 twins leave it (net/ipv4/tcp_ipv4.c, net/ipv4/udp.c). One complete checksum in 65536 looks the same; that
// does no harm, for completing such a packet gives the value that is there already.
func (p *Packet) setPartial(field uint16) {
	if field == Fold(p.pseudoSum()) {
		p.Flags |= PartialChecksum
	}
}

func (p *Packet) parseSCTP(b []byte) verdict.Reason {
	if len(b) < 12 {
		return p.short()
	}
	p.parsePorts(b)
	if len(b) < 16 { // the first chunk's header (RFC 9260 3)
		return verdict.MalformedSCTP
	}
	return verdict.None
}

func (p *Packet) parseICMP(b []byte) verdict.Reason {
	if len(b) < 4 {
		return p.short()
	}
	p.ICMPType, p.ICMPCode = b[0], b[1]
	if len(b) < 8 {
		if p.Proto == ProtoICMP && p.ICMPType <= 18 || p.Proto == ProtoICMPv6 { // RFC 792, 950; RFC 4443
			return verdict.MalformedICMP
		}
		return verdict.None
	}
	if p.isEcho() {
		id := binary.BigEndian.Uint16(b[4:])
		p.SrcPort, p.DstPort = id, id
	}
	return verdict.None
}
