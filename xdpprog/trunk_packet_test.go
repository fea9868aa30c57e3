// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"net/netip"
)

const portID = 0x010203

var (
	stationMAC  = [6]byte{2, 0, 0, 0, 0, 2} // that of ether, arp and ndMessage
	portMAC     = []byte{0x02, 0x76, 0x64, 0x01, 0x02, 0x03}
	second4     = netip.MustParseAddr("10.9.0.3")
	second6     = netip.MustParseAddr("fd00:9::3")
	linkLocal6  = netip.MustParseAddr("fe80::2")
	unspecified = netip.IPv6Unspecified()
)

type portGolden struct {
	name  string
	frame []byte
	want  Reason
	// router is what a station that forwards gets, where that differs.
	router Reason
}

func from4(source netip.Addr, packet []byte) []byte {
	copy(packet[12:], source.AsSlice())
	return packet
}

func from6(source netip.Addr, packet []byte) []byte {
	copy(packet[8:], source.AsSlice())
	return packet
}

func fragment4(packet []byte, field uint16) []byte {
	binary.BigEndian.PutUint16(packet[6:], field)
	return packet
}

func extension(next byte, more int) []byte {
	return append([]byte{next, byte(more)}, make([]byte, 6+8*more)...)
}

func arpFrom(mac byte, sender netip.Addr) []byte {
	b := arp(1, ours4)
	b[13] = mac
	copy(b[14:], sender.AsSlice())
	return b
}

func portGoldens() []portGolden {
	udp := make([]byte, 32)
	e4, e6, ea := ether(0x0800), ether(0x86dd), ether(0x0806)
	v4, v6 := join(e4, ip4(ours4, udp)), join(e6, ip6(ours6, 17, 64, udp))
	zero4 := netip.IPv4Unspecified()
	all := []portGolden{
		{name: "ipv4", frame: v4},
		{name: "ipv4, another address", frame: join(e4, from4(second4, ip4(ours4, udp)))},
		{name: "ipv4, forged", frame: join(e4, from4(kernels4, ip4(ours4, udp))), want: IPv4SourceDropped},
		{name: "ipv4, from nobody", frame: join(e4, from4(zero4, ip4(ours4, udp))), want: IPv4SourceDropped},
		{name: "ipv4, first fragment", frame: join(e4, fragment4(ip4(ours4, udp), 0x2000))},
		{name: "ipv4, later fragment", frame: join(e4, fragment4(ip4(ours4, udp), 100))},
		{name: "ipv4, forged fragment", frame: join(e4, from4(ours4, fragment4(ip4(ours4, udp), 100))),
			want: IPv4SourceDropped},
		{name: "ipv4, version 5", frame: with(v4, 14, 0x55), want: UnreadableDropped},
		{name: "ipv4, header of 16 bytes", frame: with(v4, 14, 0x44), want: UnreadableDropped},
		{name: "ipv4, cut header", frame: v4[:33], want: UnreadableDropped},
		{name: "ipv4, cut ports", frame: v4[:36]},
		{name: "ipv4, large", frame: join(e4, ip4(ours4, make([]byte, 3000)))},
		{name: "ipv6", frame: v6},
		{name: "ipv6, another address", frame: join(e6, from6(second6, ip6(ours6, 6, 64, udp)))},
		{name: "ipv6, forged", frame: join(e6, from6(kernels6, ip6(ours6, 6, 64, udp))), want: IPv6SourceDropped},
		{name: "ipv6, link-local to link-local", frame: join(e6, from6(linkLocal6, ip6(linkLocal6, 17, 64, udp)))},
		{name: "ipv6, link-local to a group", frame: join(e6, from6(linkLocal6, ip6(group6, 58, 255, udp)))},
		{name: "ipv6, link-local to afar", frame: join(e6, from6(linkLocal6, ip6(ours6, 17, 64, udp))),
			want: IPv6SourceDropped},
		{name: "ipv6, duplicate address detection", frame: join(e6, from6(unspecified, ip6(group6, 58, 255,
			ndMessage(135, peer6))))},
		{name: "ipv6, from nobody to one", frame: join(e6, from6(unspecified, ip6(ours6, 17, 64, udp))),
			want: IPv6SourceDropped},
		{name: "ipv6, from nobody to link-local", frame: join(e6, from6(unspecified, ip6(linkLocal6, 17, 64, udp))),
			want: IPv6SourceDropped},
		{name: "ipv6, forged behind extensions", frame: join(e6, from6(kernels6, ip6(ours6, 0, 64,
			join(extension(17, 0), udp)))), want: IPv6SourceDropped},
		{name: "ipv6, extensions", frame: join(e6, ip6(ours6, 0, 64, join(extension(43, 2), extension(60, 0),
			extension(17, 1), udp)))},
		{name: "ipv6, more extensions than are walked", frame: join(e6, ip6(ours6, 0, 64, join(extension(60, 0),
			extension(60, 0), extension(60, 0), extension(60, 0), extension(17, 0), udp)))},
		{name: "ipv6, fragment", frame: join(e6, ip6(ours6, 44, 64, join([]byte{17, 0, 0, 9, 0, 0, 0, 1}, udp)))},
		{name: "ipv6, extension beyond the frame", frame: join(e6, ip6(ours6, 0, 64, extension(17, 0)[:2]))},
		{name: "ipv6, version 4", frame: with(v6, 14, 0x40), want: UnreadableDropped},
		{name: "ipv6, cut header", frame: v6[:53], want: UnreadableDropped},
		{name: "arp", frame: join(ea, arp(1, ours4))},
		{name: "arp reply", frame: join(ea, arp(2, ours4))},
		{name: "arp, another address", frame: join(ea, arpFrom(2, second4))},
		{name: "arp probe", frame: join(ea, arpFrom(2, zero4))},
		{name: "arp, forged address", frame: join(ea, arpFrom(2, kernels4)), want: ARPAddressDropped},
		{name: "arp, forged mac", frame: join(ea, arpFrom(3, peer4)), want: ARPMACDropped, router: ARPMACDropped},
		{name: "arp of another protocol", frame: with(join(ea, arp(1, ours4)), 16, 0x86), want: UnreadableDropped},
		{name: "arp cut", frame: join(ea, arp(1, ours4))[:41], want: UnreadableDropped},
		{name: "forged mac", frame: with(v4, 11, 3), want: SourceMACDropped},
		{name: "forged mac of a port", frame: join(v4[:6], portMAC, v4[12:]), want: SourceMACDropped},
		{name: "802.1Q", frame: join(ether(0x8100), tag(0x0800), ip4(ours4, udp)), want: TaggedDropped},
		{name: "802.1ad", frame: join(ether(0x88a8), tag(0x0800), ip4(ours4, udp)), want: TaggedDropped},
		{name: "802.3 length", frame: join(ether(46), make([]byte, 46)), want: EtherTypeDropped},
		{name: "lldp", frame: join(ether(0x88cc), make([]byte, 46)), want: EtherTypeDropped},
		{name: "ethernet alone", frame: e4, want: UnreadableDropped},
	}
	for i := range all {
		g := &all[i]
		if g.want == 0 {
			g.want = FromPort
		}
		switch {
		case g.router != 0:
		case g.want == IPv4SourceDropped || g.want == IPv6SourceDropped || g.want == ARPAddressDropped:
			g.router = FromPort
		default:
			g.router = g.want
		}
	}
	return all
}
