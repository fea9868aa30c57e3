// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// quote is the packet that an ICMP error is about, as far as it is quoted, while its fields are rewritten. Whoever
// sends an error can write there what he likes.
type quote struct {
	b        []byte // what is quoted, from the IP header on
	l4       int    // of the transport header in b
	proto    IPProto
	src, dst Addr
	v6       bool
	changed  uint64 // what a ones' complement sum over b gains by what was written
}

// put16 writes a word that begins at an even offset.
func (q *quote) put16(at int, word uint16) {
	q.changed += uint64(^binary.BigEndian.Uint16(q.b[at:])) + uint64(word)
	binary.BigEndian.PutUint16(q.b[at:], word)
}

// quoted reads the packet that the ICMP error is about, up to its transport header.
func (p *Packet) quoted() (q quote, ok bool) {
	q.v6 = p.Proto == ProtoICMPv6
	if p.L4 == 0 || p.Proto != ProtoICMP && !q.v6 || q.v6 != (p.Flags&IPv6 != 0) {
		return q, false
	}
	q.b = p.Frame[p.L4:min(p.End, p.L3+p.L3Len)]
	if len(q.b) < icmpLen {
		return q, false
	}
	q.b = q.b[icmpLen:]
	if q.v6 {
		return q, q.read6()
	}
	return q, q.read4()
}

func (q *quote) read4() bool {
	if len(q.b) < ipv4Len || q.b[0]>>4 != 4 {
		return false
	}
	q.l4 = int(q.b[0]&0xf) * 4
	q.src, q.dst, q.proto = addr4(q.b[12:]), addr4(q.b[16:]), IPProto(q.b[9])
	return q.l4 >= ipv4Len && q.l4 <= len(q.b) && binary.BigEndian.Uint16(q.b[6:])&ipv4OffsetMask == 0
}

func (q *quote) read6() bool {
	if len(q.b) < ipv6Len || q.b[0]>>4 != 6 {
		return false
	}
	q.l4 = ipv6Len
	q.src, q.dst, q.proto = addr16(q.b[8:]), addr16(q.b[24:]), IPProto(q.b[6])
	if q.src.Is4() || q.dst.Is4() {
		return false
	}
	for n := 0; isExtension(q.proto); n++ {
		h := q.b[q.l4:]
		size := extensionLen(q.proto, h)
		if size == 0 || n == MaxExtensionHeaders {
			return false
		}
		if q.proto == protoFragment && binary.BigEndian.Uint16(h[2:])&^7 != 0 {
			return false
		}
		q.proto = IPProto(h[0])
		q.l4 += size
	}
	return true
}

// TranslateError has the ICMP error be about a packet with the ends given, as the packet was before it was translated:
// in the frame, and in p's own addresses. It goes to where that one came from, and comes from where that one went if it
// came from where the quoted one did; a router on the way stays who it is. What of the quoted packet's checksums is
// there is brought up to date, but for SCTP's.
//
// It returns false, with nothing changed, where no ports are quoted, or ends are of the other family.
func (p *Packet) TranslateError(to Ends) bool {
	q, ok := p.quoted()
	if !ok || len(q.b) < q.l4+icmpLen || to.Src.Is4() == q.v6 || to.Dst.Is4() == q.v6 {
		return false
	}
	src := p.Src
	if src == q.dst {
		src = to.Dst
	}
	addresses := difference(q.src, to.Src) + difference(q.dst, to.Dst)
	q.putTransport(&to, addresses)
	q.putAddresses(&to, addresses)
	outer := difference(p.Src, src) + difference(p.Dst, to.Src)
	p.putAddresses(src, to.Src, outer)
	total := q.changed
	if q.v6 {
		total += outer
	}
	change(p.Frame[p.L4+2:p.End], total)
	return true
}

func (q *quote) putAddresses(to *Ends, addresses uint64) {
	if !q.v6 {
		q.put16(12, uint16(to.Src.Lo>>16))
		q.put16(14, uint16(to.Src.Lo))
		q.put16(16, uint16(to.Dst.Lo>>16))
		q.put16(18, uint16(to.Dst.Lo))
		q.put16(10, ^Fold(uint64(^binary.BigEndian.Uint16(q.b[10:]))+addresses))
		return
	}
	for i, word := range [4]uint64{to.Src.Hi, to.Src.Lo, to.Dst.Hi, to.Dst.Lo} {
		at := 8 + 8*i
		q.put16(at, uint16(word>>48))
		q.put16(at+2, uint16(word>>32))
		q.put16(at+4, uint16(word>>16))
		q.put16(at+6, uint16(word))
	}
}

// putTransport writes ports or identifier, and the checksum if it is there.
func (q *quote) putTransport(to *Ends, addresses uint64) {
	h := q.b[q.l4:]
	was := q.changed
	switch {
	case q.proto == ProtoTCP, q.proto == ProtoUDP, q.proto == ProtoSCTP:
		q.put16(q.l4, to.SrcPort)
		q.put16(q.l4+2, to.DstPort)
	case isEcho(q.proto, h[0]):
		q.put16(q.l4+4, to.SrcPort)
	}
	total, at := addresses+q.changed-was, q.l4
	switch q.proto {
	case ProtoTCP:
		at += 16
	case ProtoUDP:
		at += 6
		if binary.BigEndian.Uint16(h[6:]) == 0 {
			return
		}
	case ProtoICMP:
		at += 2
		total -= addresses
	case ProtoICMPv6:
		at += 2
	default:
		return
	}
	if at+2 > len(q.b) {
		return
	}
	sum := ^Fold(uint64(^binary.BigEndian.Uint16(q.b[at:])) + total)
	if sum == 0 && q.proto == ProtoUDP {
		sum = 0xffff
	}
	q.put16(at, sum)
}
