// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// edit returns b after f changed it.
func edit(b []byte, f func(b []byte)) []byte {
	f(b)
	return b
}

func set16(b []byte, at int, v uint16) []byte {
	binary.BigEndian.PutUint16(b[at:], v)
	return b
}

// ext is an IPv6 extension header of 8 bytes.
func ext(next IPProto, b ...byte) []byte {
	return append([]byte{byte(next), 0}, append(b, make([]byte, 6-len(b))...)...)
}

func frag6(next IPProto, field uint16) []byte {
	return cat([]byte{byte(next), 0}, be16(field), []byte{0, 0, 0, 9})
}

func chain(n int) (b []byte) {
	for i := range n {
		next := protoDestOptions
		if i == n-1 {
			next = ProtoUDP
		}
		b = append(b, ext(next, 1, 4)...)
	}
	return b
}

var parseRows = []struct {
	name   string
	frame  []byte
	reason verdict.Reason
}{
	{"empty", nil, verdict.TruncatedEthernet},
	{"13 bytes", make([]byte, 13), verdict.TruncatedEthernet},
	{"802.3 length", ethernet([]uint16{46}, make([]byte, 46)), verdict.UnknownEtherType},
	{"MPLS", ethernet([]uint16{0x8847}, make([]byte, 46)), verdict.UnknownEtherType},
	{"ARP", ethernet([]uint16{0x0806}, nil), verdict.None},
	{"one tag", ethernet([]uint16{0x8100, 5, 0x0800}, ip4(ProtoUDP, 0, nil, udp(false, 4))), verdict.None},
	{"tag cut", ethernet([]uint16{0x8100}, []byte{0, 1, 8}), verdict.TruncatedEthernet},
	{"second tag cut", ethernet([]uint16{0x88a8, 1, 0x8100}, nil), verdict.TruncatedEthernet},
	{"three tags", ethernet([]uint16{0x88a8, 1, 0x8100, 2, 0x8100, 3, 0x0800}, nil), verdict.TooManyVLANTags},
	{"reserved VLAN", ethernet([]uint16{0x8100, 0xfff, 0x0800}, nil), verdict.UnknownVLAN},

	{"UDP", eth4(ip4(ProtoUDP, 0, nil, udp(false, 22))), verdict.None},
	{"no IPv4 header", eth4(make([]byte, 19)), verdict.TruncatedIP},
	{"version 5", eth4(edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { b[0] = 0x55 })), verdict.MalformedIPv4},
	{"IHL 4", eth4(edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { b[0] = 0x44; seal4(b) })),
		verdict.MalformedIPv4},
	{"IHL over total", eth4(edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { b[0] = 0x4f; seal4(b) })),
		verdict.MalformedIPv4},
	{"total 0", eth4(seal4(set16(ip4(ProtoUDP, 0, nil, udp(false, 0)), 2, 0))), verdict.MalformedIPv4},
	{"total over frame", eth4(seal4(set16(ip4(ProtoUDP, 0, nil, udp(false, 0)), 2, 29))), verdict.TruncatedIP},
	{"checksum", eth4(edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { b[11]++ })), verdict.BadIPv4Checksum},
	{"checksum with options", eth4(edit(ip4(ProtoUDP, 0, []byte{1, 1, 1, 0}, udp(false, 0)),
		func(b []byte) { b[22] = 0 })), verdict.BadIPv4Checksum},
	{"router alert", eth4(ip4(ProtoUDP, 0, []byte{148, 4, 0, 0}, udp(false, 0))), verdict.None},
	{"router alert of 3", eth4(ip4(ProtoUDP, 0, []byte{148, 3, 0, 0}, udp(false, 0))), verdict.BadIPv4Options},
	{"option of length 1", eth4(ip4(ProtoUDP, 0, []byte{30, 1, 0, 0}, udp(false, 0))), verdict.BadIPv4Options},
	{"option over header", eth4(ip4(ProtoUDP, 0, []byte{30, 5, 0, 0}, udp(false, 0))), verdict.BadIPv4Options},
	{"option without length", eth4(ip4(ProtoUDP, 0, []byte{1, 1, 1, 30}, udp(false, 0))), verdict.BadIPv4Options},
	{"record route pointer", eth4(ip4(ProtoUDP, 0, []byte{7, 3, 3, 0}, udp(false, 0))), verdict.BadIPv4Options},
	{"timestamp short", eth4(ip4(ProtoUDP, 0, []byte{68, 3, 5, 0}, udp(false, 0))), verdict.BadIPv4Options},
	{"anything after the end", eth4(ip4(ProtoUDP, 0, []byte{0, 131, 9, 9}, udp(false, 0))), verdict.None},
	{"loose source route", eth4(ip4(ProtoUDP, 0, []byte{1, 131, 3, 4}, udp(false, 0))), verdict.SourceRouted},
	{"strict source route", eth4(ip4(ProtoUDP, 0, []byte{137, 3, 4, 0}, udp(false, 0))), verdict.SourceRouted},
	{"reserved bit", eth4(ip4(ProtoUDP, 0x8000, nil, udp(false, 0))), verdict.MalformedIPv4},
	{"DF", eth4(ip4(ProtoUDP, 0x4000, nil, udp(false, 0))), verdict.None},
	{"first fragment", eth4(ip4(ProtoUDP, 0x2000, nil, udp(false, 16))), verdict.None},
	{"later fragment", eth4(ip4(ProtoUDP, 0x2003, nil, filled(8))), verdict.None},
	{"last fragment", eth4(ip4(ProtoUDP, 3, nil, filled(3))), verdict.None},
	{"fragment of 9", eth4(ip4(ProtoUDP, 0x2000, nil, udp(false, 1))), verdict.MalformedFragment},
	{"fragment of 0", eth4(ip4(ProtoUDP, 0x2000, nil, nil)), verdict.MalformedFragment},
	{"ping of death", eth4(ip4(ProtoICMP, 0x1fff, nil, filled(8))), verdict.MalformedFragment},
	{"largest end", eth4(ip4(ProtoICMP, 0x1ffb, nil, filled(3))), verdict.None},
	{"tiny TCP fragment", eth4(ip4(ProtoTCP, 0x2000, nil, tcp(false, 0)[:8])), verdict.TinyFragment},
	{"TCP at offset 1", eth4(ip4(ProtoTCP, 1, nil, filled(20))), verdict.TinyFragment},

	{"TCP", eth4(ip4(ProtoTCP, 0, nil, tcp(false, 9))), verdict.None},
	{"TCP cut", eth4(ip4(ProtoTCP, 0, nil, tcp(false, 0)[:19])), verdict.TruncatedTransport},
	{"TCP doff 4", eth4(ip4(ProtoTCP, 0, nil, edit(tcp(false, 0), func(b []byte) { b[12] = 0x40 }))),
		verdict.MalformedTCP},
	{"TCP doff 15", eth4(ip4(ProtoTCP, 0, nil, edit(tcp(false, 0), func(b []byte) { b[12] = 0xf0 }))),
		verdict.MalformedTCP},
	{"UDP cut", eth4(ip4(ProtoUDP, 0, nil, udp(false, 0)[:7])), verdict.TruncatedTransport},
	{"UDP length 7", eth4(ip4(ProtoUDP, 0, nil, set16(udp(false, 0), 4, 7))), verdict.MalformedUDP},
	{"UDP length over", eth4(ip4(ProtoUDP, 0, nil, set16(udp(false, 0), 4, 9))), verdict.MalformedUDP},
	{"UDP length under", eth4(ip4(ProtoUDP, 0, nil, set16(udp(false, 4), 4, 9))), verdict.None},
	{"SCTP", eth4(ip4(ProtoSCTP, 0, nil, filled(16))), verdict.None},
	{"SCTP cut", eth4(ip4(ProtoSCTP, 0, nil, filled(11))), verdict.TruncatedTransport},
	{"SCTP without chunk", eth4(ip4(ProtoSCTP, 0, nil, filled(12))), verdict.MalformedSCTP},
	{"ICMP", eth4(ip4(ProtoICMP, 0, nil, echo(false, 0))), verdict.None},
	{"ICMP cut", eth4(ip4(ProtoICMP, 0, nil, echo(false, 0)[:3])), verdict.TruncatedTransport},
	{"ICMP echo of 7", eth4(ip4(ProtoICMP, 0, nil, echo(false, 0)[:7])), verdict.MalformedICMP},
	{"GRE", eth4(ip4(47, 0, nil, filled(4))), verdict.None},
	{"ESP", eth4(ip4(ProtoESP, 0, nil, filled(1))), verdict.None},

	{"IPv6 UDP", eth6(ip6(ProtoUDP, udp(true, 4))), verdict.None},
	{"no IPv6 header", eth6(make([]byte, 39)), verdict.TruncatedIP},
	{"IPv6 version", eth6(edit(ip6(ProtoUDP, udp(true, 0)), func(b []byte) { b[0] = 0x40 })), verdict.MalformedIPv6},
	{"IPv6 payload over frame", eth6(set16(ip6(ProtoUDP, udp(true, 0)), 4, 9)), verdict.TruncatedIP},
	{"jumbogram", eth6(set16(ip6(protoHopByHop, ext(ProtoUDP, 0xc2, 4), udp(true, 0)), 4, 0)), verdict.MalformedIPv6},
	{"jumbo option and length", eth6(ip6(protoHopByHop, ext(ProtoUDP, 0xc2, 4), udp(true, 0))), verdict.MalformedIPv6},
	{"hop-by-hop", eth6(ip6(protoHopByHop, ext(ProtoUDP, 5, 2, 0, 0, 1), udp(true, 0))), verdict.None},
	{"hop-by-hop option over", eth6(ip6(protoHopByHop, ext(ProtoUDP, 5, 9), udp(true, 0))), verdict.BadExtensionHeader},
	{"hop-by-hop second", eth6(ip6(protoDestOptions, ext(protoHopByHop, 1, 4), ext(ProtoUDP, 1, 4), udp(true, 0))),
		verdict.BadExtensionHeader},
	{"extension cut", eth6(ip6(protoDestOptions, ext(ProtoUDP)[:7])), verdict.BadExtensionHeader},
	{"extension over", eth6(ip6(protoDestOptions, edit(ext(ProtoUDP), func(b []byte) { b[1] = 1 }))),
		verdict.BadExtensionHeader},
	{"8 extensions", eth6(ip6(protoDestOptions, chain(8), udp(true, 0))), verdict.None},
	{"9 extensions", eth6(ip6(protoDestOptions, chain(9), udp(true, 0))), verdict.TooManyExtensionHeaders},
	{"routing 0", eth6(ip6(protoRouting, ext(ProtoUDP, 0), udp(true, 0))), verdict.RoutingHeader0},
	{"routing 4", eth6(ip6(protoRouting, ext(ProtoUDP, 4), udp(true, 0))), verdict.None},
	{"AH", eth6(ip6(protoAH, []byte{17, 1}, make([]byte, 10), udp(true, 0))), verdict.None},
	{"AH of 8", eth6(ip6(protoAH, []byte{17, 0}, make([]byte, 6), udp(true, 0))), verdict.BadExtensionHeader},
	{"no next", eth6(ip6(ProtoNoNext, filled(5))), verdict.None},
	{"IPv6 empty TCP", eth6(ip6(ProtoTCP)), verdict.TruncatedTransport},
	{"IPv6 first fragment", eth6(ip6(protoFragment, frag6(ProtoUDP, 1), udp(true, 8))), verdict.None},
	{"IPv6 later fragment", eth6(ip6(protoFragment, frag6(ProtoUDP, 16), filled(5))), verdict.None},
	{"IPv6 atomic fragment", eth6(ip6(protoFragment, frag6(ProtoUDP, 0), udp(true, 5))), verdict.None},
	{"IPv6 fragment of 9", eth6(ip6(protoFragment, frag6(ProtoUDP, 1), udp(true, 1))), verdict.MalformedFragment},
	{"IPv6 fragment too far", eth6(ip6(protoFragment, frag6(ProtoUDP, 0xfff8), filled(8))), verdict.MalformedFragment},
	{"IPv6 tiny fragment", eth6(ip6(protoFragment, frag6(ProtoTCP, 1), filled(8))), verdict.TinyFragment},
	{"IPv6 tiny chain", eth6(ip6(protoFragment, frag6(protoDestOptions, 1), []byte{17, 3, 1, 0, 0, 0, 0, 0})),
		verdict.TinyFragment},
	{"IPv6 two fragment headers", eth6(ip6(protoFragment, frag6(protoFragment, 1), frag6(ProtoUDP, 1), udp(true, 8))),
		verdict.BadExtensionHeader},
	{"IPv6 fragment header cut", eth6(ip6(protoFragment, frag6(ProtoUDP, 1)[:6])), verdict.BadExtensionHeader},
	{"mapped source", eth6(edit(ip6(ProtoUDP, udp(true, 0)), func(b []byte) { Addr4(1).put16(b[8:]) })),
		verdict.MartianSource},
	{"mapped destination", eth6(edit(ip6(ProtoUDP, udp(true, 0)), func(b []byte) { Addr4(1).put16(b[24:]) })),
		verdict.MartianDestination},
	{"UDP over IPv6 without checksum", eth6(ip6(ProtoUDP, set16(udp(true, 0), 6, 0))), verdict.None},
	{"ICMPv6", eth6(ip6(ProtoICMPv6, echo(true, 0))), verdict.None},
	{"ICMPv6 of 7", eth6(ip6(ProtoICMPv6, echo(true, 0)[:7])), verdict.MalformedICMP},
}

func TestParseReasons(t *testing.T) {
	for _, row := range parseRows {
		p := framed(row.frame)
		if got := p.Parse(); got != row.reason {
			t.Errorf("%s: %v, want %v", row.name, got, row.reason)
		}
		checkConsistent(t, p)
	}
}

// Every prefix of every packet is read without going past its end.
func TestParsePrefixes(t *testing.T) {
	for _, row := range parseRows {
		for n := range row.frame {
			b := bytes.Clone(row.frame)[:n:n]
			p := &Packet{Frame: b, End: n}
			p.Parse()
			checkConsistent(t, p)
		}
	}
}

// checkConsistent holds for every packet that went through Parse, whatever the reason.
func checkConsistent(t testing.TB, p *Packet) {
	t.Helper()
	if p.Start > p.End || p.End > len(p.Frame) || p.L3 > 0 && (p.L3 < p.Start+ethernetLen || p.L3 > p.End) ||
		p.L4 > 0 && (p.L4 < p.L3+ipv4Len || p.L4 > p.End || p.L4 > p.L3+p.L3Len) || p.L3Len > p.End-p.L3+p.Tail {
		t.Fatalf("offsets: start %d l3 %d l4 %d end %d l3len %d tail %d", p.Start, p.L3, p.L4, p.End, p.L3Len, p.Tail)
	}
	if p.Flags&FirstFragment != 0 && p.Flags&Fragment == 0 {
		t.Fatal("first fragment that is no fragment")
	}
	if p.Flags&Fragment != 0 && p.Flags&PartialChecksum != 0 {
		t.Fatal("fragment with partial checksum")
	}
}

func TestParseFields(t *testing.T) {
	inner := cat(ip4(ProtoUDP, 0x4000, nil, udp(false, 3)), make([]byte, 15)) // with padding
	p := parsed(t, ethernet([]uint16{0x88a8, 0xe007, 0x8100, 9, 0x0800}, inner))
	want := *p
	want.L3, want.L4, want.L3Len = headroom+22, headroom+42, 31
	want.End = headroom + 22 + 31
	want.Src, want.Dst, want.SrcPort, want.DstPort = ipA4, ipB4, 1000, 2000
	want.EtherType, want.Proto, want.TTL, want.Flags = EtherTypeIPv4, ProtoUDP, 64, DontFragment
	want.VLANs = VLANs{7, 9}
	if !same(p, &want) {
		t.Errorf("got  %+v\nwant %+v", fields(p), fields(&want))
	}

	p.Frame, p.Start, p.End, p.Out = framed(nil).Frame, headroom, headroom, 3
	b := eth6(ip6(protoHopByHop, ext(ProtoICMPv6, 1, 4), echo(true, 2)))
	p.End += copy(p.Frame[headroom:], b)
	b = p.Frame[headroom:]
	b[14], b[15] = 0x6a, 0xb0
	if r := p.Parse(); r != verdict.None {
		t.Fatal(r)
	}
	want = Packet{Frame: p.Frame, Start: headroom, End: headroom + 14 + 58,
		L3: headroom + 14, L4: headroom + 62, L3Len: 58,
		Src: ipA6, Dst: ipB6, SrcPort: 0x1234, DstPort: 0x1234, EtherType: EtherTypeIPv6, Proto: ProtoICMPv6, TTL: 64,
		TOS: 0xab, ICMPType: 128, Flags: IPv6 | Options, FlowHash: p.FlowHash}
	if !same(p, &want) {
		t.Errorf("got  %+v\nwant %+v", fields(p), fields(&want))
	}
}

// fields drops what cannot be compared or is too long to print.
func fields(p *Packet) Packet {
	c := *p
	c.Frame = nil
	return c
}

func same(a, b *Packet) bool {
	x, y := fields(a), fields(b)
	return x.Start == y.Start && x.End == y.End && x.Tail == y.Tail && x.L3 == y.L3 && x.L4 == y.L4 &&
		x.L3Len == y.L3Len && x.Src == y.Src && x.Dst == y.Dst && x.SrcPort == y.SrcPort && x.DstPort == y.DstPort &&
		x.EtherType == y.EtherType && x.Proto == y.Proto && x.TTL == y.TTL && x.TOS == y.TOS &&
		x.ICMPType == y.ICMPType && x.ICMPCode == y.ICMPCode && x.Flags == y.Flags && x.VLANs == y.VLANs &&
		x.In == y.In && x.Out == y.Out && x.FlowHash == y.FlowHash
}

func TestTags(t *testing.T) {
	for _, row := range []struct {
		types []uint16
		want  VLANs
	}{
		{[]uint16{0x0800}, VLANs{}},
		{[]uint16{0x8100, 5, 0x0800}, VLANs{Outer: 5}},
		{[]uint16{0x8100, 0xe000, 0x0800}, VLANs{}},
		{[]uint16{0x9100, 5, 0x8100, 6, 0x0800}, VLANs{5, 6}},
		{[]uint16{0x88a8, 0, 0x8100, 6, 0x0800}, VLANs{Outer: 6}},
		{[]uint16{0x88a8, 5, 0x8100, 0, 0x0800}, VLANs{Outer: 5}},
	} {
		p := parsed(t, ethernet(row.types, ip4(ProtoUDP, 0, nil, udp(false, 0))))
		if p.VLANs != row.want {
			t.Errorf("%x: %v, want %v", row.types, p.VLANs, row.want)
		}
	}
}

// Headers have to be in the first frame; the payload may go on in others.
func TestParseTail(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		whole := eth(v6, ip(v6, ProtoTCP, tcp(v6, 100)))
		for _, first := range []int{len(whole) - 1, len(whole) - 100, len(whole) - 101} {
			p := framed(whole[:first])
			p.Tail = len(whole) - first
			want := verdict.None
			if first < len(whole)-100 {
				want = verdict.TruncatedTransport
			}
			if got := p.Parse(); got != want || p.L3Len != len(whole)-ethernetLen || p.End != headroom+first {
				t.Errorf("ipv6 %v, %d bytes in the first frame: %v, %+v", v6, first, got, fields(p))
			}
		}
	}
}

func TestPartialChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []IPProto{ProtoTCP, ProtoUDP} {
			b, at := tcp(v6, 41), 16
			if proto == ProtoUDP {
				b, at = udp(v6, 41), 6
			}
			complete := binary.BigEndian.Uint16(b[at:])
			src, dst := ends(v6)
			set16(b, at, ^slowChecksum(pseudo(src, dst, proto, len(b))))
			for cut := range 41 { // what is in further frames
				whole := eth(v6, ip(v6, proto, b))
				p := framed(whole[:len(whole)-cut])
				p.Tail = cut
				if r := p.Parse(); r != verdict.None || p.Flags&PartialChecksum == 0 || !p.VerifyTransport(nil) {
					t.Fatalf("ipv6 %v proto %d: %v, flags %b", v6, proto, r, p.Flags)
				}
				if start, offset := p.ChecksumPlace(); int(start) != p.L4-headroom || int(offset) != at {
					t.Errorf("place %d %d", start, offset)
				}
				rest := whole[len(whole)-cut:]
				tail := [][]byte{rest[:cut/3], rest[cut/3:]}
				p.CompleteChecksum(tail)
				if got := binary.BigEndian.Uint16(p.Frame[p.L4+at:]); got != complete || p.Flags&PartialChecksum != 0 {
					t.Fatalf("ipv6 %v proto %d cut %d: %x, want %x", v6, proto, cut, got, complete)
				}
				if !p.VerifyTransport(tail) {
					t.Error("completed checksum does not verify")
				}
				p.Frame[p.L4+1]++
				if p.VerifyTransport(tail) {
					t.Error("changed packet verifies")
				}
			}
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	for _, row := range parseRows {
		p := framed(row.frame)
		end := p.End
		if n := testing.AllocsPerRun(10, func() { p.End = end; p.Parse() }); n != 0 {
			t.Errorf("%s: %v allocations", row.name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, row := range parseRows {
		f.Add(row.frame, uint16(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, tail uint16) {
		p := &Packet{Frame: b[:len(b):len(b)], End: len(b), Tail: int(tail)}
		reason := p.Parse()
		checkConsistent(t, p)
		if reason.Verdict() != verdict.Dropped {
			t.Fatalf("reason %v does not drop", reason)
		}
		if reason == verdict.None && p.EtherType != EtherTypeARP && p.L3Len == 0 {
			t.Fatal("accepted without a length")
		}
		if piece := p.Piece(); reason == verdict.None && (piece.Offset < 0 || piece.Offset%8 != 0 || piece.Len < 0 ||
			piece.Offset+piece.Len > 0xffff || piece.More && piece.Len%8 != 0 ||
			(piece.Offset == 0 && !piece.More) != (p.Flags&Fragment == 0) ||
			(piece.Offset == 0 && piece.More) != (p.Flags&FirstFragment != 0)) {
			t.Fatalf("piece %+v of %+v", piece, fields(p))
		}
		again := Packet{Frame: b, End: p.End, Tail: p.Tail, SrcPort: 9, Flags: 0xffff, VLANs: VLANs{1, 2}}
		if r := again.Parse(); r != reason || !same(p, &again) {
			t.Fatalf("second parse %v %+v, first %v %+v", r, fields(&again), reason, fields(p))
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, row := range []struct {
		name  string
		frame []byte
	}{
		{"ipv4-udp", eth4(ip4(ProtoUDP, 0, nil, udp(false, 22)))},
		{"ipv4-tcp", eth4(ip4(ProtoTCP, 0, nil, tcp(false, 10)))},
		{"ipv6-udp", eth6(ip6(ProtoUDP, udp(true, 2)))},
		{"ipv6-extensions", eth6(ip6(protoHopByHop, ext(protoDestOptions, 1, 4), ext(ProtoUDP, 1, 4), udp(true, 2)))},
		{"qinq-ipv4-udp", ethernet([]uint16{0x88a8, 1, 0x8100, 2, 0x0800}, ip4(ProtoUDP, 0, nil, udp(false, 14)))},
	} {
		b.Run(row.name, func(b *testing.B) {
			p := framed(row.frame)
			b.ReportAllocs()
			for b.Loop() {
				if p.Parse() != verdict.None {
					b.Fatal("bad packet")
				}
			}
		})
	}
}
