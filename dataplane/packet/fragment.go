// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// Fragments cuts an IPv4 packet into fragments (RFC 791 2.3, 3.2), one a call of Next. It reads the packet's frames
// until the last one is made, and takes the Ethernet header and tags along as they stand in front of L3.
type Fragments struct {
	p       *Packet
	payload scattered
	left    int  // bytes of payload not yet in a fragment
	offset  int  // of the next fragment in the whole datagram, bytes
	more    bool // the packet is itself a fragment and not the last
	header  int  // bytes of the next fragment's IP header
	later   bool // the next fragment is not the first that is made
	mtu     int
}

// scattered is a payload that is read in order and may lie in several frames.
type scattered struct {
	source []byte   // what is left of the frame being read
	tail   [][]byte // the frames after that
}

// Fragments prepares to cut the packet, with what it has in further frames in tail, into fragments of at most mtu bytes
// each, IP header included and Outer excluded. mtu may be less than the link's, to fit a chunk. It returns false for
// IPv6, DontFragment, a PartialChecksum (complete it before) and an mtu without room for 8 bytes behind the header. A
// packet that is not larger than mtu gives one fragment, a copy.
func (p *Packet) Fragments(mtu int, tail [][]byte) (Fragments, bool) {
	if p.EtherType != EtherTypeIPv4 || p.L3Len == 0 || p.Flags&(DontFragment|PartialChecksum) != 0 {
		return Fragments{}, false
	}
	h := p.Frame[p.L3:p.End]
	header, field := int(h[0]&0xf)*4, binary.BigEndian.Uint16(h[6:])
	if mtu < header+8 {
		return Fragments{}, false
	}
	return Fragments{
		p: p, payload: scattered{h[header:], tail},
		left:   p.L3Len - header,
		offset: int(field&ipv4OffsetMask) * 8,
		more:   field&ipv4MF != 0,
		header: header, mtu: mtu,
	}, true
}

// Count is the number of fragments that are still to come.
func (f *Fragments) Count() int {
	if f.left == 0 {
		return 0
	}
	n, left, header := 1, f.left, f.header
	if left > f.mtu-header { // the first may have more options than the others
		left -= (f.mtu - header) &^ 7
		header = f.laterHeader()
		n++
		if room := f.mtu - header; left > room {
			n += (left - room + room&^7 - 1) / (room &^ 7)
		}
	}
	return n
}

// Next writes the next fragment to frame[start:] and returns its end. frame must hold from start the packet's Ethernet
// header, Outer and mtu bytes, and must not be one of the packet's.
func (f *Fragments) Next(frame []byte, start int) (end int) {
	p := f.p
	b := frame[start:]
	link := copy(b, p.Frame[p.Start:p.L3])
	b = b[link:]
	size := f.left
	if size > f.mtu-f.header {
		size = (f.mtu - f.header) &^ 7
	}
	f.putHeader(b[:f.header], size)
	f.payload.read(b[f.header : f.header+size])
	if p.Outer != 0 {
		putOuterLen(frame[start+link-p.Outer:start+link], f.header+size)
	}
	end = start + link + f.header + size
	f.left -= size
	f.offset += size
	f.header, f.later = f.laterHeader(), true
	return end
}

// putHeader writes the header of the next fragment, of size bytes.
func (f *Fragments) putHeader(h []byte, size int) {
	original := f.p.Frame[f.p.L3:]
	copy(h, original[:len(h)])
	if f.later {
		copyOptions(h[ipv4Len:], original[ipv4Len:int(original[0]&0xf)*4])
	}
	field := uint16(f.offset / 8)
	if f.more || size < f.left {
		field |= ipv4MF
	}
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+size))
	binary.BigEndian.PutUint16(h[6:], field)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^Fold(Sum(h, 0)))
}

// read moves the next len(b) bytes to b.
func (s *scattered) read(b []byte) {
	for len(b) > 0 {
		n := copy(b, s.source)
		b, s.source = b[n:], s.source[n:]
		if len(s.source) == 0 && len(s.tail) > 0 {
			s.source, s.tail = s.tail[0], s.tail[1:]
		} else if n == 0 {
			clear(b) // tail was shorter than Tail said
			return
		}
	}
}

// laterHeader is the length of the header of every fragment but the first: options stay that have the copied flag.
func (f *Fragments) laterHeader() int {
	original := f.p.Frame[f.p.L3:]
	return ipv4Len + (copyOptions(nil, original[ipv4Len:int(original[0]&0xf)*4])+3)&^3
}

// copyOptions writes those of the valid options in from that have the copied flag (RFC 791 3.1) to to, if that is not
// nil, ends them, and returns how many bytes they have.
func copyOptions(to, from []byte) (n int) {
	for len(from) > 0 && from[0] != optionEnd {
		if from[0] == optionNop {
			from = from[1:]
			continue
		}
		size := int(from[1])
		if from[0]&0x80 != 0 {
			if to != nil {
				copy(to[n:], from[:size])
			}
			n += size
		}
		from = from[size:]
	}
	if to != nil {
		clear(to[n:]) // the end of the list, and padding
	}
	return n
}
