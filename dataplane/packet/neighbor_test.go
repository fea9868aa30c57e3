// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func arpBody(op uint16, senderMAC MAC, sender Addr, targetMAC MAC, target Addr) []byte {
	s, t := sender.Netip().As4(), target.Netip().As4()
	return cat(be16(1, 0x0800, 0x0604, op), senderMAC[:], s[:], targetMAC[:], t[:])
}

func arpFrame(body []byte) []byte { return ethernet([]uint16{0x0806}, body) }

func TestParseARP(t *testing.T) {
	ok := func() []byte { return arpBody(1, macA, ipA4, MAC{}, ipB4) }
	for _, row := range []struct {
		name string
		body []byte
		want verdict.Reason
	}{
		{"request", ok(), verdict.None},
		{"reply", arpBody(2, macA, ipA4, macB, ipB4), verdict.None},
		{"padded", cat(ok(), make([]byte, 18)), verdict.None},
		{"probe", arpBody(1, macA, Addr4(0), MAC{}, ipB4), verdict.None},
		{"reply from 0.0.0.0", arpBody(2, macA, Addr4(0), macB, ipB4), verdict.MalformedARP},
		{"short", ok()[:27], verdict.MalformedARP},
		{"hardware", set16(ok(), 0, 6), verdict.MalformedARP},
		{"protocol", set16(ok(), 2, 0x86dd), verdict.MalformedARP},
		{"lengths", set16(ok(), 4, 0x0804), verdict.MalformedARP},
		{"operation", set16(ok(), 6, 3), verdict.MalformedARP},
		{"group sender", arpBody(1, BroadcastMAC, ipA4, MAC{}, ipB4), verdict.MalformedARP},
		{"zero sender", arpBody(1, MAC{}, ipA4, MAC{}, ipB4), verdict.MalformedARP},
		{"multicast address", arpBody(1, macA, Addr4(0xe0000001), MAC{}, ipB4), verdict.MalformedARP},
		{"broadcast target", arpBody(1, macA, ipA4, MAC{}, Addr4(0xffffffff)), verdict.MalformedARP},
	} {
		a, got := ParseARP(parsed(t, arpFrame(row.body)))
		if got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
		if got != verdict.None && a != (ARP{}) {
			t.Errorf("%s: %+v of a malformed message", row.name, a)
		}
	}
}

func TestBuildARP(t *testing.T) {
	frame := bytes.Repeat([]byte{0xa5}, 200)
	end := BuildARPRequest(frame, 100, macA, ipA4, BroadcastMAC, ipB4)
	want := cat(BroadcastMAC[:], macA[:], be16(0x0806), arpBody(1, macA, ipA4, MAC{}, ipB4), make([]byte, 18))
	if !bytes.Equal(frame[100:end], want) {
		t.Fatalf("request % x\nwant % x", frame[100:end], want)
	}
	for _, tags := range []VLANs{{}, {Outer: 3}, {3, 4}} {
		p := parsed(t, frame[100:end])
		p.SetEthernet(BroadcastMAC, macA, tags)
		if p.Parse(); !BuildARPReply(p, macB) {
			t.Fatal("no reply")
		}
		if r := p.Parse(); r != verdict.None || p.VLANs != tags || p.DstMAC() != macA || p.SrcMAC() != macB || p.Len() < 60 {
			t.Errorf("reply %v %+v", r, fields(p))
		}
		if got, r := ParseARP(p); r != verdict.None || got != (ARP{ARPReply, macB, macA, ipB4, ipA4}) {
			t.Errorf("reply %+v %v", got, r)
		}
	}
}

var (
	linkA = AddrFrom(netip.MustParseAddr("fe80::a"))
	linkB = AddrFrom(netip.MustParseAddr("fe80::b"))
)

// ndFrame is an ND message with the options given.
func ndFrame(src, dst Addr, hops byte, kind, code, flags byte, target Addr, options ...byte) []byte {
	to := target.Netip().As16()
	body := cat([]byte{kind, code, 0, 0, flags, 0, 0, 0}, to[:], options)
	return eth6(edit(ip6(ProtoICMPv6, sealed(body, 2, src, dst, ProtoICMPv6)), func(b []byte) {
		b[7] = hops
		src.put16(b[8:])
		dst.put16(b[24:])
	}))
}

func link(kind byte, mac MAC) []byte { return cat([]byte{kind, 1}, mac[:]) }

func TestParseND(t *testing.T) {
	group, nodes := SolicitedNode(linkB), AddrFrom(netip.MustParseAddr("ff02::1"))
	atomic := ndFrame(linkA, group, 255, 135, 0, 0, linkB)
	atomic = cat(atomic[:54], frag6(ProtoICMPv6, 0), atomic[54:])
	atomic[14+5], atomic[14+6] = 32, byte(protoFragment)
	for _, row := range []struct {
		name  string
		frame []byte
		want  verdict.Reason
		nd    ND
	}{
		{"solicitation", ndFrame(linkA, group, 255, 135, 0, 0, linkB, link(1, macA)...), verdict.None,
			ND{Type: 135, Target: linkB, LinkLayer: macA}},
		{"unknown option",
			ndFrame(linkA, group, 255, 135, 0, 0, linkB, cat([]byte{14, 1}, make([]byte, 6), link(1, macA))...), verdict.None,
			ND{Type: 135, Target: linkB, LinkLayer: macA}},
		{"other link option", ndFrame(linkA, group, 255, 135, 0, 0, linkB, link(2, macA)...), verdict.None,
			ND{Type: 135, Target: linkB}},
		{"address detection", ndFrame(Addr{}, group, 255, 135, 0, 0, linkB), verdict.None, ND{Type: 135, Target: linkB}},
		{"address detection with source", ndFrame(Addr{}, group, 255, 135, 0, 0, linkB, link(1, macA)...),
			verdict.MalformedND, ND{}},
		{"address detection to a host", ndFrame(Addr{}, linkB, 255, 135, 0, 0, linkB), verdict.MalformedND, ND{}},
		{"advertisement", ndFrame(linkA, linkB, 255, 136, 0, 0xe0, linkA, link(2, macA)...), verdict.None,
			ND{Type: 136, Target: linkA, LinkLayer: macA, Router: true, Solicited: true, Override: true}},
		{"unsolicited", ndFrame(linkA, nodes, 255, 136, 0, 0x20, linkA, link(2, macA)...), verdict.None,
			ND{Type: 136, Target: linkA, LinkLayer: macA, Override: true}},
		{"solicited to a group", ndFrame(linkA, nodes, 255, 136, 0, 0x40, linkA), verdict.MalformedND, ND{}},
		{"hop limit", ndFrame(linkA, group, 254, 135, 0, 0, linkB), verdict.MalformedND, ND{}},
		{"code", ndFrame(linkA, group, 255, 135, 1, 0, linkB), verdict.MalformedND, ND{}},
		{"checksum", edit(ndFrame(linkA, group, 255, 135, 0, 0, linkB), func(b []byte) { b[57]++ }), verdict.MalformedND,
			ND{}},
		{"multicast target", ndFrame(linkA, group, 255, 135, 0, 0, nodes), verdict.MalformedND, ND{}},
		{"option of length 0", ndFrame(linkA, group, 255, 135, 0, 0, linkB, 1, 0, 0, 0, 0, 0, 0, 0), verdict.MalformedND,
			ND{}},
		{"option over end", ndFrame(linkA, group, 255, 135, 0, 0, linkB, 9, 2, 0, 0, 0, 0, 0, 0), verdict.MalformedND, ND{}},
		{"option of one byte", ndFrame(linkA, group, 255, 135, 0, 0, linkB, 9), verdict.MalformedND, ND{}},
		{"group link address", ndFrame(linkA, group, 255, 135, 0, 0, linkB, link(1, BroadcastMAC)...), verdict.MalformedND,
			ND{}},
		{"fragment header", atomic, verdict.MalformedND, ND{}},
		{"router advertisement", ndFrame(linkA, nodes, 255, 134, 0, 0, linkB), verdict.None, ND{Type: 134}},
	} {
		p := parsed(t, row.frame)
		if !p.IsND() {
			t.Fatal(row.name, "is not ND")
		}
		if nd, got := ParseND(p); got != row.want || nd != row.nd {
			t.Errorf("%s: %v %+v, want %v %+v", row.name, got, nd, row.want, row.nd)
		}
	}
	short := ip6(ProtoICMPv6, sealed(make([]byte, 23), 2, ipA6, ipB6, ProtoICMPv6))
	short[40], short[7] = 135, 255
	if _, r := ParseND(parsed(t, eth6(short))); r != verdict.MalformedND {
		t.Error("short message:", r)
	}
}

func TestBuildND(t *testing.T) {
	for _, row := range []struct {
		dst     MAC
		wantMAC MAC
		wantIP  Addr
	}{
		{MAC{}, MAC{0x33, 0x33, 0xff, 0, 0, 0xb}, AddrFrom(netip.MustParseAddr("ff02::1:ff00:b"))},
		{macB, macB, linkB},
	} {
		frame := bytes.Repeat([]byte{0xa5}, 400)
		end := BuildNS(frame, 100, macA, linkA, linkB, row.dst)
		p := parsed(t, frame[100:end])
		checkWire(t, p)
		if p.DstMAC() != row.wantMAC || p.SrcMAC() != macA || p.Dst != row.wantIP || p.Src != linkA || p.TTL != 255 {
			t.Fatalf("solicitation %+v", fields(p))
		}
		nd, r := ParseND(p)
		if r != verdict.None || nd != (ND{Type: 135, Target: linkB, LinkLayer: macA}) {
			t.Fatalf("solicitation %v %+v", r, nd)
		}
		p.SetEthernet(row.wantMAC, macA, VLANs{Outer: 9})
		if !BuildNA(p, nd, macB) {
			t.Fatal("no advertisement")
		}
		checkAdvertisement(t, p, linkA, macA, true)
		if p.VLANs != (VLANs{Outer: 9}) {
			t.Error("tags", p.VLANs)
		}
	}
	p := parsed(t, ndFrame(Addr{}, SolicitedNode(linkB), 255, 135, 0, 0, linkB))
	nd, _ := ParseND(p)
	if !BuildNA(p, nd, macB) {
		t.Fatal("no advertisement")
	}
	checkAdvertisement(t, p, AddrFrom(netip.MustParseAddr("ff02::1")), MAC{0x33, 0x33, 0, 0, 0, 1}, false)
}

func checkAdvertisement(t *testing.T, p *Packet, to Addr, toMAC MAC, solicited bool) {
	t.Helper()
	built := *p
	if r := p.Parse(); r != verdict.None || !same(p, &built) {
		t.Fatalf("advertisement %v\n%+v\n%+v", r, fields(p), fields(&built))
	}
	checkWire(t, p)
	want := ND{Type: 136, Target: linkB, LinkLayer: macB, Router: true, Solicited: solicited, Override: true}
	if nd, r := ParseND(p); r != verdict.None || nd != want {
		t.Errorf("advertisement %v %+v", r, nd)
	}
	if p.Src != linkB || p.Dst != to || p.DstMAC() != toMAC || p.SrcMAC() != macB {
		t.Errorf("advertisement from %v to %v %v", p.Src, p.Dst, p.DstMAC())
	}
}

// A request of ours, its answer, and the same of ND, in one frame each: nothing is allocated.
func TestNeighborsDoNotAllocate(t *testing.T) {
	p := framed(make([]byte, ndFrameLen))
	arp := func() bool {
		p.Start = headroom
		p.End = BuildARPRequest(p.Frame, headroom, macA, ipA4, BroadcastMAC, ipB4)
		if p.Parse() != verdict.None {
			return false
		}
		_, reason := ParseARP(p)
		return reason == verdict.None && BuildARPReply(p, macB)
	}
	nd := func() bool {
		p.Start = headroom
		p.End = BuildNS(p.Frame, headroom, macA, linkA, linkB, MAC{})
		if p.Parse() != verdict.None || !p.IsND() {
			return false
		}
		nd, reason := ParseND(p)
		return reason == verdict.None && BuildNA(p, nd, macB)
	}
	for name, f := range map[string]func() bool{"ARP": arp, "ND": nd} {
		if !f() {
			t.Fatalf("%s: not built", name)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzND(f *testing.F) {
	f.Add(ndFrame(linkA, SolicitedNode(linkB), 255, 135, 0, 0, linkB, link(1, macA)...), true)
	f.Add(ndFrame(linkA, linkB, 255, 136, 0, 0xe0, linkA, link(2, macA)...), true)
	f.Add(ndFrame(Addr{}, SolicitedNode(linkB), 255, 135, 0, 0, linkB), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) > 58 { // let the fuzzer past the checksum
			src, dst := addr16(b[22:]), addr16(b[38:])
			if !src.Is4() && !dst.Is4() {
				sealed(b[54:], 2, src, dst, ProtoICMPv6)
			}
		}
		p := framed(b)
		if p.Parse() != verdict.None || !p.IsND() {
			return
		}
		nd, r := ParseND(p)
		if r != verdict.None || nd.Type != ICMPv6NeighborSolicitation || !BuildNA(p, nd, macB) {
			return
		}
		built := *p
		if r := p.Parse(); r != verdict.None || !same(p, &built) {
			t.Fatalf("advertisement %v", r)
		}
		checkWire(t, p)
		if got, r := ParseND(p); r != verdict.None || got.Target != nd.Target || got.LinkLayer != macB {
			t.Fatalf("advertisement %v %+v", r, got)
		}
	})
}

func FuzzARP(f *testing.F) {
	f.Add(arpFrame(arpBody(1, macA, ipA4, MAC{}, ipB4)))
	f.Add(arpFrame(arpBody(2, macA, ipA4, macB, ipB4)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := framed(b)
		if p.Parse() != verdict.None || p.EtherType != EtherTypeARP {
			return
		}
		a, r := ParseARP(p)
		if r != verdict.None || a.Op != ARPRequest {
			return
		}
		if !BuildARPReply(p, macB) {
			t.Fatal("no reply")
		}
		want := ARP{ARPReply, macB, a.SenderMAC, a.TargetIP, a.SenderIP}
		p.Parse()
		got, r := ParseARP(p)
		if r == verdict.None && got != want || r != verdict.None && !a.SenderIP.IsUnspecified() {
			t.Fatalf("reply %+v %v to %+v", got, r, a)
		}
	})
}
