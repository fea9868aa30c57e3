// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// MAC is a 48-bit Ethernet address in wire order.
type MAC [6]byte

// BroadcastMAC is ff:ff:ff:ff:ff:ff.
var BroadcastMAC = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// MACFrom converts a net.HardwareAddr; one that is not 6 bytes long gives the zero MAC.
func MACFrom(a net.HardwareAddr) (m MAC) {
	if len(a) == len(m) {
		copy(m[:], a)
	}
	return m
}

// String prints the address as 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsMulticast tells whether the address names a group, broadcast included.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// IsBroadcast tells whether the address is ff:ff:ff:ff:ff:ff.
func (m MAC) IsBroadcast() bool { return m == BroadcastMAC }

// IsZero tells whether the address is 00:00:00:00:00:00.
func (m MAC) IsZero() bool { return m == MAC{} }

// LinkLocal is the IPv6 link-local address made of the MAC by way of a modified EUI-64 (RFC 4291 appendix A).
func (m MAC) LinkLocal() Addr {
	id := uint64(m[0]^2)<<56 | uint64(m[1])<<48 | uint64(m[2])<<40 | 0xfffe<<24 |
		uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
	return Addr{Hi: 0xfe80 << 48, Lo: id}
}

// Addr is an IP address of either family: IPv4 as IPv4-mapped IPv6 (RFC 4291 2.5.5.2), so that one code path serves
// both. The zero value is no address (and IPv6's unspecified one).
type Addr struct{ Hi, Lo uint64 }

const mapped4 = 0xffff << 32 // the low half of ::ffff:0.0.0.0

// AddrFrom converts a netip.Addr; a zone is dropped, the zero netip.Addr gives the zero Addr.
func AddrFrom(a netip.Addr) Addr {
	b := a.As16()
	return addr16(b[:])
}

// Addr4 is the IPv4 address of a 32-bit number in host byte order: 0x0a000001 is 10.0.0.1.
func Addr4(a uint32) Addr { return Addr{Lo: mapped4 | uint64(a)} }

// addr16 reads an IPv6 address in wire order.
func addr16(b []byte) Addr {
	_ = b[15]
	return Addr{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// addr4 reads an IPv4 address in wire order.
func addr4(b []byte) Addr { return Addr4(binary.BigEndian.Uint32(b)) }

// Netip converts to a netip.Addr: IPv4 in its 4-byte form, the zero Addr to ::.
func (a Addr) Netip() netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{byte(a.Lo >> 24), byte(a.Lo >> 16), byte(a.Lo >> 8), byte(a.Lo)})
	}
	var b [16]byte
	a.put16(b[:])
	return netip.AddrFrom16(b)
}

// put16 writes the address as IPv6 in wire order.
func (a Addr) put16(b []byte) {
	_ = b[15]
	binary.BigEndian.PutUint64(b, a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
}

// put4 writes the address as IPv4 in wire order.
func (a Addr) put4(b []byte) { binary.BigEndian.PutUint32(b, uint32(a.Lo)) }

// String prints the address as netip does.
func (a Addr) String() string { return a.Netip().String() }

// Is4 tells whether the address is IPv4.
func (a Addr) Is4() bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

// IsZero tells whether there is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// IsUnspecified tells whether the address is 0.0.0.0 or ::.
func (a Addr) IsUnspecified() bool { return a.Hi == 0 && (a.Lo == 0 || a.Lo == mapped4) }

// IsMulticast tells whether the address is of 224.0.0.0/4 or ff00::/8.
func (a Addr) IsMulticast() bool {
	if a.Is4() {
		return uint32(a.Lo)>>28 == 0xe
	}
	return a.Hi>>56 == 0xff
}

// IsLoopback tells whether the address is of 127.0.0.0/8 or ::1.
func (a Addr) IsLoopback() bool {
	if a.Is4() {
		return uint32(a.Lo)>>24 == 127
	}
	return a == Addr{Lo: 1}
}

// IsLinkLocal tells whether the address is unicast that may not leave its link: 169.254.0.0/16 or fe80::/10.
func (a Addr) IsLinkLocal() bool {
	if a.Is4() {
		return uint32(a.Lo)>>16 == 0xa9fe
	}
	return a.Hi>>54 == 0xfe80>>6
}

// IsBroadcast tells whether the address is the limited broadcast 255.255.255.255.
func (a Addr) IsBroadcast() bool { return a == Addr4(0xffffffff) }

// MartianSource tells whether the address may not be the source of a packet on a wire (RFC 1812 5.3.7, RFC 6890):
// 0/8, 127/8, multicast and 240/4 with the limited broadcast; ::/96 with :: and ::1, and multicast. The source :: of
// duplicate address detection is among them: look at ND before.
func (a Addr) MartianSource() bool {
	if a.Is4() {
		net := uint32(a.Lo) >> 24
		return net == 0 || net == 127 || net >= 224
	}
	return a.Hi == 0 && a.Lo>>32 == 0 || a.Hi>>56 == 0xff
}

// IsReserved tells whether the address is of a range that is nobody's: 240/4 but for the limited broadcast
// (RFC 1112 4), and ::/96 but for :: and ::1, which once stood for IPv4 addresses (RFC 4291 2.5.5.1).
func (a Addr) IsReserved() bool {
	if a.Is4() {
		return uint32(a.Lo)>>28 == 0xf && !a.IsBroadcast()
	}
	return a.Hi == 0 && a.Lo>>32 == 0 && a.Lo > 1
}

// MartianDestination tells whether the address may not be the destination of a packet on a wire: 0/8, 127/8 and 240/4
// but for the limited broadcast, which RFC 1812 5.3.7 excepts; ::, ::1 and multicast of reserved or interface scope
// (RFC 4291 2.7).
func (a Addr) MartianDestination() bool {
	if a.Is4() {
		net := uint32(a.Lo) >> 24
		return net == 0 || net == 127 || net >= 240 && !a.IsBroadcast()
	}
	scope := a.Hi >> 48 & 0xf
	return a.Hi == 0 && a.Lo <= 1 || a.Hi>>56 == 0xff && scope <= 1
}

// SolicitedNode is the multicast address ff02::1:ffxx:xxxx to which the owner of an IPv6 address listens
// (RFC 4291 2.7.1).
func SolicitedNode(a Addr) Addr {
	return Addr{Hi: 0xff02 << 48, Lo: 0x1_ff00_0000 | a.Lo&0xff_ffff}
}

// MulticastMAC is the Ethernet group address of a multicast address: 01:00:5e and 23 bits (RFC 1112 6.4), or 33:33 and
// 32 bits (RFC 2464 7).
func MulticastMAC(a Addr) MAC {
	if a.Is4() {
		return MAC{0x01, 0x00, 0x5e, byte(a.Lo>>16) & 0x7f, byte(a.Lo >> 8), byte(a.Lo)}
	}
	return MAC{0x33, 0x33, byte(a.Lo >> 24), byte(a.Lo >> 16), byte(a.Lo >> 8), byte(a.Lo)}
}
