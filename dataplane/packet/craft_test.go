// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Packets for the tests are put together from bytes by these, not by the code under test.

const headroom = 256

var (
	macA = MAC{2, 0, 0, 0, 0, 0xa}
	macB = MAC{2, 0, 0, 0, 0, 0xb}
	ipA4 = AddrFrom(netip.MustParseAddr("192.0.2.1"))
	ipB4 = AddrFrom(netip.MustParseAddr("198.51.100.2"))
	ipA6 = AddrFrom(netip.MustParseAddr("2001:db8::1"))
	ipB6 = AddrFrom(netip.MustParseAddr("2001:db8:1::2"))
)

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func be16(v ...uint16) (b []byte) {
	for _, w := range v {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// slowChecksum is RFC 1071 by the letter: 16 bits at a time, the carry added at once.
func slowChecksum(b []byte) uint16 {
	var sum uint32
	for i := range b {
		word := uint32(b[i])
		if i%2 == 0 {
			word <<= 8
		}
		sum += word
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func pseudo(src, dst Addr, proto IPProto, length int) []byte {
	if src.Is4() {
		s, d := src.Netip().As4(), dst.Netip().As4()
		return cat(s[:], d[:], []byte{0, byte(proto)}, be16(uint16(length)))
	}
	s, d := src.Netip().As16(), dst.Netip().As16()
	return cat(s[:], d[:], be16(0, uint16(length)), []byte{0, 0, 0, byte(proto)})
}

// sealed fills the checksum of a transport message in at offset at.
func sealed(b []byte, at int, src, dst Addr, proto IPProto) []byte {
	copy(b[at:], []byte{0, 0})
	covered := b
	if proto != ProtoICMP {
		covered = cat(pseudo(src, dst, proto, len(b)), b)
	}
	sum := slowChecksum(covered)
	if proto == ProtoUDP && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

func ends(v6 bool) (src, dst Addr) {
	if v6 {
		return ipA6, ipB6
	}
	return ipA4, ipB4
}

func udp(v6 bool, payload int) []byte {
	src, dst := ends(v6)
	return sealed(cat(be16(1000, 2000, uint16(8+payload), 0), filled(payload)), 6, src, dst, ProtoUDP)
}

func tcp(v6 bool, payload int) []byte {
	src, dst := ends(v6)
	b := cat(be16(1000, 2000), make([]byte, 8), []byte{5 << 4, 0x10}, be16(0xffff, 0, 0), filled(payload))
	return sealed(b, 16, src, dst, ProtoTCP)
}

func echo(v6 bool, payload int) []byte {
	src, dst := ends(v6)
	kind, proto := byte(8), ProtoICMP
	if v6 {
		kind, proto = 128, ProtoICMPv6
	}
	return sealed(cat([]byte{kind, 0}, be16(0, 0x1234, 1), filled(payload)), 2, src, dst, proto)
}

func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// ip4 is an IPv4 packet with the flags-and-offset field and options given.
func ip4(proto IPProto, field uint16, options, payload []byte) []byte {
	src, dst := ipA4.Netip().As4(), ipB4.Netip().As4()
	header := ipv4Len + len(options)
	b := cat([]byte{0x40 | byte(header/4), 0}, be16(uint16(header+len(payload)), 77, field), []byte{64, byte(proto), 0, 0},
		src[:], dst[:], options)
	return cat(seal4(b), payload)
}

// seal4 fills the checksum of an IPv4 header in.
func seal4(b []byte) []byte {
	copy(b[10:], []byte{0, 0})
	header := min(max(int(b[0]&15)*4, ipv4Len), len(b))
	binary.BigEndian.PutUint16(b[10:], slowChecksum(b[:header]))
	return b
}

func ip6(next IPProto, payload ...[]byte) []byte {
	src, dst := ipA6.Netip().As16(), ipB6.Netip().As16()
	body := cat(payload...)
	return cat([]byte{0x60, 0, 0, 0}, be16(uint16(len(body))), []byte{byte(next), 64}, src[:], dst[:], body)
}

// ip is a packet of either family around a whole transport message.
func ip(v6 bool, proto IPProto, payload []byte) []byte {
	if v6 {
		return ip6(proto, payload)
	}
	return ip4(proto, 0, nil, payload)
}

func ethernet(types []uint16, payload []byte) []byte {
	return cat(macB[:], macA[:], be16(types...), payload)
}

func eth4(payload []byte) []byte { return ethernet([]uint16{0x0800}, payload) }
func eth6(payload []byte) []byte { return ethernet([]uint16{0x86dd}, payload) }

func eth(v6 bool, payload []byte) []byte {
	if v6 {
		return eth6(payload)
	}
	return eth4(payload)
}

// framed puts a packet into a frame with headroom, and with bytes behind it that nobody may take for the packet's.
func framed(b []byte) *Packet {
	frame := make([]byte, headroom+len(b)+2048)
	for i := range frame {
		frame[i] = 0xa5
	}
	copy(frame[headroom:], b)
	return &Packet{Frame: frame, Start: headroom, End: headroom + len(b)}
}

func parsed(t testing.TB, b []byte) *Packet {
	t.Helper()
	p := framed(b)
	if reason := p.Parse(); reason != verdict.None {
		t.Fatalf("test packet does not parse: %v", reason)
	}
	return p
}

// checkWire fails when the IPv4 header checksum of a packet or the transport checksum does not hold by slowChecksum.
func checkWire(t testing.TB, p *Packet) {
	t.Helper()
	b := p.Frame[p.L3 : p.L3+p.L3Len]
	if p.Flags&IPv6 == 0 {
		if header := b[:int(b[0]&15)*4]; slowChecksum(header) != 0 {
			t.Fatalf("ipv4 header checksum wrong: % x", header)
		}
	}
	if p.L4 == 0 || p.Flags&Fragment != 0 {
		return
	}
	l4 := b[p.L4-p.L3:]
	switch p.Proto {
	case ProtoICMP:
	case ProtoICMPv6, ProtoTCP, ProtoUDP:
		l4 = cat(pseudo(p.Src, p.Dst, p.Proto, len(l4)), l4)
	default:
		return
	}
	if slowChecksum(l4) != 0 {
		t.Fatalf("checksum of protocol %d wrong: % x", p.Proto, l4)
	}
}
