// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// Sum adds b to a ones' complement sum (RFC 1071), as big-endian 16-bit words, an odd last byte padded with zero.
// Sums may be added to each other, and several to one, before Fold. Each call adds less than 1<<16.
func Sum(b []byte, initial uint64) uint64 {
	// The sum is independent of byte order but for a final swap (RFC 1071 2B), and words may be of any width. Additions
	// with carry are one instruction each while they stand in one row, so the rows are long.
	var s, c uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[0:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var last uint64
	for i, v := range b {
		last |= uint64(v) << (8 * i)
	}
	s, c = bits.Add64(s, last, c)
	s, c = bits.Add64(s, 0, c)
	return initial + uint64(bits.ReverseBytes16(Fold(s>>32+s&0xffffffff+c)))
}

// Fold reduces a sum to 16 bits, in host byte order; a checksum field is its complement. A sum over a message with its
// right checksum folds to 0xffff.
func Fold(sum uint64) uint16 {
	// Adding the halves to each other both ways round carries from the lower half into the upper one, which is then the
	// ones' complement sum of both (csum_fold in arch/x86/include/asm/checksum.h).
	sum += bits.RotateLeft64(sum, 32)
	half := uint32(sum >> 32)
	half += bits.RotateLeft32(half, 16)
	return uint16(half >> 16)
}

// PseudoSum is the sum of the pseudo-header of either family (RFC 9293 3.1, RFC 8200 8.1) for length bytes of
// transport header and payload. The prefix of an IPv4-mapped address adds 0xffff, which is zero to the sum.
func PseudoSum(src, dst Addr, proto IPProto, length int) uint64 {
	return src.Hi>>32 + src.Hi&0xffffffff + src.Lo>>32 + src.Lo&0xffffffff +
		dst.Hi>>32 + dst.Hi&0xffffffff + dst.Lo>>32 + dst.Lo&0xffffffff + uint64(proto) + uint64(length)
}

func (p *Packet) pseudoSum() uint64 { return PseudoSum(p.Src, p.Dst, p.Proto, p.l4Len()) }

// UpdateChecksum16 is the checksum field after one 16-bit word of what it covers changed (RFC 1624, equation 3). Both
// words are in host byte order; so are the fields.
func UpdateChecksum16(field, from, to uint16) uint16 {
	return ^Fold(uint64(^field) + uint64(^from) + uint64(to))
}

// UpdateChecksum32 is UpdateChecksum16 for an aligned 32-bit word.
func UpdateChecksum32(field uint16, from, to uint32) uint16 {
	return ^Fold(uint64(^field) + uint64(^from) + uint64(to))
}

// sumL4 sums the transport header and length bytes in all of it over p's frame and the further ones of tail.
func (p *Packet) sumL4(tail [][]byte, length int, sum uint64) uint64 {
	b := p.Frame[p.L4:p.End]
	b = b[:min(len(b), length)]
	sum = Sum(b, sum)
	done := len(b)
	for _, b := range tail {
		b = b[:min(len(b), length-done)]
		part := Fold(Sum(b, 0))
		if done&1 != 0 { // a frame that starts at an odd byte sums with bytes swapped (RFC 1071 2B)
			part = bits.ReverseBytes16(part)
		}
		sum += uint64(part)
		done += len(b)
	}
	return sum
}

// checksumOffset is where the checksum field is in p's TCP or UDP header.
func (p *Packet) checksumOffset() int {
	if p.Proto == ProtoTCP {
		return 16
	}
	return 6
}

// ChecksumPlace gives csum_start, from the packet's first byte, and csum_offset, from there, for the TX metadata of a
// packet with PartialChecksum (struct xsk_tx_metadata in linux/if_xdp.h).
func (p *Packet) ChecksumPlace() (start, offset uint16) {
	return uint16(p.L4 - p.Start), uint16(p.checksumOffset())
}

// CompleteChecksum finishes a PartialChecksum in software and clears the flag; it does nothing to other packets. tail
// is what the packet has in further frames, all of it.
func (p *Packet) CompleteChecksum(tail [][]byte) {
	if p.Flags&PartialChecksum == 0 {
		return
	}
	sum := ^Fold(p.sumL4(tail, p.l4Len(), 0))
	if sum == 0 && p.Proto == ProtoUDP { // zero is UDP's "no checksum" (RFC 768)
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p.Frame[p.L4+p.checksumOffset():], sum)
	p.Flags &^= PartialChecksum
}

// VerifyTransport tells whether the checksum of a TCP, UDP, SCTP, ICMP or ICMPv6 packet is right. tail is what the
// packet has in further frames. Packets with nothing to verify pass: fragments, other protocols, partial checksums and
// UDP over IPv4 without one. UDP over IPv6 needs one (RFC 8200 8.1), though a router forwards it without (RFC 6936).
// Behind an IPv6 routing header with segments left only the last destination can tell; such packets fail.
func (p *Packet) VerifyTransport(tail [][]byte) bool {
	if p.L4 == 0 || p.Flags&(Fragment|PartialChecksum) != 0 {
		return true
	}
	length := p.l4Len()
	switch p.Proto {
	case ProtoSCTP:
		return p.verifySCTP(tail, length)
	case ProtoICMP:
		return Fold(p.sumL4(tail, length, 0)) == 0xffff
	case ProtoUDP:
		header := p.Frame[p.L4 : p.L4+8]
		length = int(binary.BigEndian.Uint16(header[4:]))
		if binary.BigEndian.Uint16(header[6:]) == 0 {
			return p.Flags&IPv6 == 0
		}
	case ProtoTCP, ProtoICMPv6:
	default:
		return true
	}
	return Fold(p.sumL4(tail, length, PseudoSum(p.Src, p.Dst, p.Proto, length))) == 0xffff
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	fourZeros  [4]byte
)

// verifySCTP compares the CRC32c, which is computed as if its field were zero and sent in little-endian byte order
// (RFC 9260 appendix A).
func (p *Packet) verifySCTP(tail [][]byte, length int) bool {
	b := p.Frame[p.L4:p.End]
	b = b[:min(len(b), length)]
	crc := crc32.Update(0, castagnoli, b[:8])
	crc = crc32.Update(crc, castagnoli, fourZeros[:])
	crc = crc32.Update(crc, castagnoli, b[12:])
	done := len(b)
	for _, t := range tail {
		t = t[:min(len(t), length-done)]
		crc = crc32.Update(crc, castagnoli, t)
		done += len(t)
	}
	return crc == binary.LittleEndian.Uint32(b[8:])
}
