// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// Flags in byte 13 of a TCP header (RFC 9293 3.1, RFC 3168 6.1).
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpURG = 0x20
	tcpCWR = 0x80
)

// TCP options over header and payload of the segment as it was sent (RFC 2385, RFC 5925).
const (
	tcpOptionMD5 = 19
	tcpOptionAO  = 29
)

const tcpLen = 20

// Segments cuts a TCP packet into packets that fit an MTU, one a call of Next, as a stack that left the cutting to the
// device expects of it (tcp_gso_segment in net/ipv4/tcp_offload.c, inet_gso_segment in net/ipv4/af_inet.c). All headers
// are copied as they stand at that time, so SetEthernet and DecrementTTL come before; it reads the packet's frames
// until the last segment is made.
type Segments struct {
	p       *Packet
	payload scattered
	left    int    // bytes of payload not yet in a segment
	size    int    // bytes of payload of every segment but the last
	headers int    // bytes of the IP and TCP headers
	made    int    // segments so far
	seq     uint32 // of the next segment
	sum     uint64 // of the pseudo-header, but for its length
}

// Segments prepares to cut the packet, with what it has in further frames in tail, into segments of at most mtu bytes
// each, IP header included and Outer excluded. mtu may be less than the link's, to fit a chunk. Their payloads are
// equally long but for the last one's. A packet that is not larger than mtu gives one segment, a copy with its checksum
// complete.
//
// It returns false for what is no TCP packet, a fragment or without payload; for SYN, RST and URG; for what is
// authenticated as a whole (AH, TCP-MD5, TCP-AO); for a complete checksum that is wrong, for it would become right; and
// for an mtu without room for a byte behind the headers. Only complete checksums cost a pass over the payload.
func (p *Packet) Segments(mtu int, tail [][]byte) (Segments, bool) {
	if p.Proto != ProtoTCP || p.L4 == 0 || p.Flags&Fragment != 0 || p.authenticated() {
		return Segments{}, false
	}
	h := p.Frame[p.L4:p.End]
	header := int(h[12]>>4) * 4
	s := Segments{
		p: p, payload: scattered{h[header:], tail},
		left:    p.l4Len() - header,
		headers: p.L4 - p.L3 + header,
		seq:     binary.BigEndian.Uint32(h[4:]),
		sum:     PseudoSum(p.Src, p.Dst, ProtoTCP, 0),
	}
	s.size = mtu - s.headers
	if s.left == 0 || s.size <= 0 || h[13]&(tcpSYN|tcpRST|tcpURG) != 0 || signed(h[tcpLen:header]) {
		return Segments{}, false
	}
	if p.Flags&PartialChecksum == 0 && !p.VerifyTransport(tail) {
		return Segments{}, false
	}
	return s, true
}

// authenticated tells whether an IPv6 packet has an authentication header; behind one of IPv4 no TCP is seen.
func (p *Packet) authenticated() bool {
	if p.Flags&IPv6 == 0 || p.Flags&Options == 0 {
		return false
	}
	h := p.Frame[p.L3:p.L4]
	kind, at := IPProto(h[6]), ipv6Len
	for isExtension(kind) && kind != protoAH {
		next := IPProto(h[at])
		at += extensionLen(kind, h[at:])
		kind = next
	}
	return kind == protoAH
}

// signed tells whether there is a signature among TCP's options. Broken ones end the search, as they do in
// tcp_parse_options (net/ipv4/tcp_input.c).
func signed(options []byte) bool {
	for len(options) > 0 && options[0] != optionEnd {
		switch options[0] {
		case optionNop:
			options = options[1:]
			continue
		case tcpOptionMD5, tcpOptionAO:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return false
		}
		options = options[options[1]:]
	}
	return false
}

// Count is the number of segments that are still to come.
func (s *Segments) Count() int { return (s.left + s.size - 1) / s.size }

// Next writes the next segment, its checksums complete, to frame[start:] and returns its end. frame must hold from
// start the packet's Ethernet header, Outer and mtu bytes, and must not be one of the packet's. It may be called Count
// times.
func (s *Segments) Next(frame []byte, start int) (end int) {
	p := s.p
	size := min(s.left, s.size)
	head := p.Frame[p.Start : p.L3+s.headers]
	end = start + len(head) + size
	b := frame[start:end]
	copy(b, head)
	s.payload.read(b[len(head):])
	s.left -= size
	s.putLength(b[p.L3-p.Start:], size)
	if p.Outer != 0 {
		putOuterLen(b[p.L3-p.Outer-p.Start:p.L3-p.Start], s.headers+size)
	}
	s.putTCP(b[p.L4-p.Start:])
	s.seq += uint32(size)
	s.made++
	return end
}

// putLength writes what differs in the IP header of a segment with size bytes of payload: the length and, of IPv4, the
// identification with the checksum.
func (s *Segments) putLength(h []byte, size int) {
	if s.p.Flags&IPv6 != 0 {
		binary.BigEndian.PutUint16(h[4:], uint16(s.headers-ipv6Len+size))
		return
	}
	from := binary.BigEndian.Uint32(h[2:]) // total length, identification
	to := uint32(s.headers+size)<<16 | uint32(uint16(from)+uint16(s.made))
	binary.BigEndian.PutUint32(h[2:], to)
	binary.BigEndian.PutUint16(h[10:], UpdateChecksum32(binary.BigEndian.Uint16(h[10:]), from, to))
}

// putTCP writes what differs in the TCP header of the segment in b: sequence number, flags, checksum. FIN and PSH are
// the last segment's; CWR is the first one's, for it answers one ECE (RFC 3168 6.1.2).
func (s *Segments) putTCP(b []byte) {
	binary.BigEndian.PutUint32(b[4:], s.seq)
	if s.made > 0 {
		b[13] &^= tcpCWR
	}
	if s.left > 0 {
		b[13] &^= tcpFIN | tcpPSH
	}
	binary.BigEndian.PutUint16(b[16:], 0)
	binary.BigEndian.PutUint16(b[16:], ^Fold(Sum(b, s.sum+uint64(len(b)))))
}
