// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// Piece is the place of a fragment in its datagram.
type Piece struct {
	// ID is the identification that all fragments of a datagram share: 16 bits in IPv4, 32 in IPv6.
	ID uint32
	// Offset and Len are those of its bytes in what was fragmented: the payload of IPv4, in IPv6 what is behind the
	// fragment header. An Offset is a multiple of 8; so is a Len where there are more.
	Offset, Len int
	// More says that it is not the last of the datagram.
	More bool
}

// Piece returns the place of the fragment that Parse found well formed; of other packets it is zero.
func (p *Packet) Piece() Piece {
	if p.Flags&Fragment == 0 {
		return Piece{}
	}
	b := p.Frame[p.L3:p.End]
	if p.Flags&IPv6 != 0 {
		return p.piece6(b)
	}
	field := binary.BigEndian.Uint16(b[6:])
	return Piece{
		ID:     uint32(binary.BigEndian.Uint16(b[4:])),
		Offset: int(field&ipv4OffsetMask) * 8,
		Len:    p.L3Len - int(b[0]&0xf)*4,
		More:   field&ipv4MF != 0,
	}
}

// piece6 looks for the fragment header in the IPv6 packet in b, whose extension headers Parse has checked.
func (p *Packet) piece6(b []byte) Piece {
	at := ipv6Len
	for kind := IPProto(b[6]); kind != protoFragment; {
		size := extensionLen(kind, b[at:])
		if size == 0 {
			return Piece{}
		}
		kind = IPProto(b[at])
		at += size
	}
	h := b[at : at+8]
	field := binary.BigEndian.Uint16(h[2:]) // offset in bytes, for its low 3 bits are not part of it; M
	return Piece{
		ID:     binary.BigEndian.Uint32(h[4:]),
		Offset: int(field &^ 7),
		Len:    p.L3Len - at - 8,
		More:   field&1 != 0,
	}
}
