// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

// DecrementTTL takes one off the TTL or hop limit in the frame, with IPv4's checksum. The caller has seen that there
// is more than one left. TTL keeps the value received.
func (p *Packet) DecrementTTL() {
	h := p.Frame[p.L3 : p.L3+ipv4Len]
	if p.Flags&IPv6 != 0 {
		h[7]--
		return
	}
	setTTL4(h, h[8]-1)
}

// setTTL4 sets the TTL of an IPv4 header and updates its checksum.
func setTTL4(h []byte, ttl uint8) {
	from := binary.BigEndian.Uint16(h[8:])
	h[8] = ttl
	to := binary.BigEndian.Uint16(h[8:])
	binary.BigEndian.PutUint16(h[10:], UpdateChecksum16(binary.BigEndian.Uint16(h[10:]), from, to))
}

// SetEthernet writes the Ethernet header and tags directly before L3, or Outer, and moves Start there, which pushes and
// pops tags alike. One tag is 802.1Q, two are 802.1ad outside and 802.1Q inside; their priority is 0. It returns false,
// with nothing changed, when there is no room.
func (p *Packet) SetEthernet(dst, src MAC, tags VLANs) bool {
	size := ethernetLen
	if tags.Outer != 0 {
		size += tagLen
	}
	if tags.Inner != 0 {
		size += tagLen
	}
	start := p.L3 - p.Outer - size
	if start < 0 {
		return false
	}
	b := p.Frame[start : p.L3-p.Outer]
	copy(b, dst[:])
	copy(b[6:], src[:])
	b = b[12:]
	if tags.Outer != 0 {
		kind := EtherTypeVLAN
		if tags.Inner != 0 {
			kind = EtherTypeQinQ
		}
		b = putTag(b, kind, tags.Outer)
	}
	if tags.Inner != 0 {
		b = putTag(b, EtherTypeVLAN, tags.Inner)
	}
	binary.BigEndian.PutUint16(b, uint16(p.EtherType))
	p.Start, p.VLANs = start, tags
	return true
}

func putTag(b []byte, kind EtherType, id uint16) []byte {
	binary.BigEndian.PutUint32(b, uint32(kind)<<16|uint32(id))
	return b[tagLen:]
}

// DstMAC is the destination in the Ethernet header.
func (p *Packet) DstMAC() MAC { return MAC(p.Frame[p.Start : p.Start+6]) }

// SrcMAC is the source in the Ethernet header.
func (p *Packet) SrcMAC() MAC { return MAC(p.Frame[p.Start+6 : p.Start+12]) }
