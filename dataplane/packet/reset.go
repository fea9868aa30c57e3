// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

const tcpACK = 0x10

// MayBeReset tells whether a TCP segment may be answered by a RST: it is whole, and no RST itself (RFC 9293 3.5.2).
func (p *Packet) MayBeReset() bool {
	return p.Proto == ProtoTCP && p.L4 != 0 && p.Flags&Fragment == 0 && p.Frame[p.L4+13]&tcpRST == 0
}

// OpensTCP tells whether the packet is a SYN, which opens a connection.
func (p *Packet) OpensTCP() bool {
	return p.Proto == ProtoTCP && p.L4 != 0 && p.End-p.L4 > 13 && p.Frame[p.L4+13]&(tcpSYN|tcpACK|tcpRST) == tcpSYN
}

// IsReset tells whether the packet is a TCP segment with RST.
func (p *Packet) IsReset() bool {
	return p.Proto == ProtoTCP && p.L4 != 0 && p.End-p.L4 > 13 && p.Frame[p.L4+13]&tcpRST != 0
}

// BuildReset turns the TCP segment into the RST that answers it as one of no connection (RFC 9293 3.10.7.1), from where
// it was sent to, with TTL 64. IP options and extension headers are left away. As of BuildICMPError, Start is 14 bytes
// before L3 and what is there is to be written by SetEthernet; frames of the Tail are the caller's to free. It returns
// false, with nothing changed, for what may not be answered so.
func (p *Packet) BuildReset() bool {
	if !p.MayBeReset() || p.L3 < ethernetLen {
		return false
	}
	h := p.Frame[p.L4:p.End]
	seq, ack, flags := uint32(0), uint32(0), byte(tcpRST)
	if h[13]&tcpACK != 0 {
		seq = binary.BigEndian.Uint32(h[8:])
	} else {
		ack, flags = binary.BigEndian.Uint32(h[4:])+p.sequenceLen(h), tcpRST|tcpACK
	}
	p.Src, p.Dst = p.Dst, p.Src
	p.SrcPort, p.DstPort = p.DstPort, p.SrcPort
	v6 := p.Flags&IPv6 != 0
	header := ipv4Len
	if v6 {
		header = ipv6Len
	}
	p.L4, p.L3Len = p.L3+header, header+tcpLen
	p.Start, p.End, p.Tail = p.L3-ethernetLen, p.L3+p.L3Len, 0
	p.TTL = ownTTL
	if v6 {
		p.putIPv6(ProtoTCP)
	} else {
		p.putIPv4(ProtoTCP, 0)
	}
	b := p.Frame[p.L4:p.End]
	clear(b)
	binary.BigEndian.PutUint32(b, uint32(p.SrcPort)<<16|uint32(p.DstPort))
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = tcpLen/4<<4, flags
	binary.BigEndian.PutUint16(b[16:], ^Fold(Sum(b, p.pseudoSum())))
	p.setFlowHash()
	return true
}

// sequenceLen is how much of the sequence the segment whose header is h takes (RFC 9293 3.4).
func (p *Packet) sequenceLen(h []byte) uint32 {
	n := uint32(p.l4Len() - int(h[12]>>4)*4)
	if h[13]&tcpSYN != 0 {
		n++
	}
	if h[13]&tcpFIN != 0 {
		n++
	}
	return n
}
