// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func TestErrorTypes(t *testing.T) {
	for _, row := range []struct {
		kind      ErrorKind
		parameter uint32
		v4, v6    []byte // type, code, 0, 0, parameter
	}{
		{TimeExceeded, 0, []byte{11, 0, 0, 0, 0, 0, 0, 0}, []byte{3, 0, 0, 0, 0, 0, 0, 0}},
		{NetUnreachable, 9, []byte{3, 0, 0, 0, 0, 0, 0, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
		{HostUnreachable, 0, []byte{3, 1, 0, 0, 0, 0, 0, 0}, []byte{1, 3, 0, 0, 0, 0, 0, 0}},
		{ProtocolUnreachable, 0, []byte{3, 2, 0, 0, 0, 0, 0, 0}, []byte{4, 1, 0, 0, 0, 0, 0, 6}},
		{PortUnreachable, 0, []byte{3, 3, 0, 0, 0, 0, 0, 0}, []byte{1, 4, 0, 0, 0, 0, 0, 0}},
		{PacketTooBig, 1400, []byte{3, 4, 0, 0, 0, 0, 5, 0x78}, []byte{2, 0, 0, 0, 0, 0, 5, 0x78}},
		{PacketTooBig, 70000, []byte{3, 4, 0, 0, 0, 0, 0xff, 0xff}, []byte{2, 0, 0, 0, 0, 1, 0x11, 0x70}},
		{AdminProhibited, 0, []byte{3, 13, 0, 0, 0, 0, 0, 0}, []byte{1, 1, 0, 0, 0, 0, 0, 0}},
		{ParameterProblem, 40, []byte{12, 0, 0, 0, 40, 0, 0, 0}, []byte{4, 0, 0, 0, 0, 0, 0, 40}},
	} {
		for _, size := range []int{0, 1, 500, 501, 1170, 1200, 1201, 1500} {
			for _, v6 := range []bool{false, true} {
				body, src, want := ip(v6, ProtoUDP, udp(v6, size)), ipB4, row.v4
				if v6 {
					src, want = ipB6, row.v6
				}
				p := parsed(t, eth(v6, body))
				checkError(t, p, row.kind, src, row.parameter, body)
				got := bytes.Clone(p.Frame[p.L4 : p.L4+8])
				got[2], got[3] = 0, 0
				if !bytes.Equal(got, want) {
					t.Errorf("kind %d ipv6 %v: % x, want % x", row.kind, v6, got, want)
				}
			}
		}
	}
}

// checkError builds an error about p, whose IP packet as received is given, and holds it against the RFCs.
func checkError(t testing.TB, p *Packet, kind ErrorKind, src Addr, parameter uint32, received []byte) {
	t.Helper()
	from := p.Src
	if !p.BuildICMPError(kind, src, parameter) {
		t.Fatalf("error not built with %d bytes of headroom", p.Start)
	}
	p.SetEthernet(macB, macA, p.VLANs)
	again := *p
	if r := again.Parse(); r != verdict.None || !same(p, &again) {
		t.Fatalf("built error: %v\n%+v\n%+v", r, fields(p), fields(&again))
	}
	checkWire(t, p)
	limit := 576
	if p.Flags&IPv6 != 0 {
		limit = 1280
	}
	quote := p.Frame[p.L4+8 : p.End]
	whole := min(len(received), limit-(p.L4-p.L3)-8)
	if p.Src != src || p.Dst != from || p.TTL != 64 || p.Tail != 0 || !bytes.Equal(quote, received[:whole]) {
		t.Fatalf("error %+v quotes %d bytes of %d", fields(p), len(quote), len(received))
	}
}

func TestErrorPointsAtNextHeader(t *testing.T) {
	p := parsed(t, eth6(ip6(protoHopByHop, ext(protoDestOptions, 1, 4), ext(200, 1, 4), filled(8))))
	if !p.BuildICMPError(ProtocolUnreachable, ipB6, 0) {
		t.Fatal("not built")
	}
	if got := binary.BigEndian.Uint32(p.Frame[p.L4+4:]); got != 48 {
		t.Errorf("pointer %d, want 48", got)
	}
}

func TestErrorIsRefused(t *testing.T) {
	b := eth4(ip4(ProtoUDP, 0, nil, udp(false, 0)))
	p := &Packet{Frame: cat(make([]byte, 27), b), Start: 27, End: 27 + len(b)}
	p.Parse()
	before := *p
	if p.BuildICMPError(TimeExceeded, ipB4, 0) || !same(p, &before) {
		t.Error("built without headroom")
	}
	p = parsed(t, b)
	if p.BuildICMPError(TimeExceeded, ipB6, 0) {
		t.Error("built with an address of the other family")
	}
	p = parsed(t, ethernet([]uint16{0x0806}, make([]byte, 46)))
	if p.BuildICMPError(TimeExceeded, ipB4, 0) {
		t.Error("built about ARP")
	}
}

func TestMayHaveError(t *testing.T) {
	dst4 := func(a uint32) []byte {
		return edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { Addr4(a).put4(b[16:]); seal4(b) })
	}
	src4 := func(a uint32) []byte {
		return edit(ip4(ProtoUDP, 0, nil, udp(false, 0)), func(b []byte) { Addr4(a).put4(b[12:]); seal4(b) })
	}
	icmp := func(v6 bool, kind byte) []byte {
		if v6 {
			return ip6(ProtoICMPv6, cat([]byte{kind}, make([]byte, 47)))
		}
		return ip4(ProtoICMP, 0, nil, cat([]byte{kind}, make([]byte, 35)))
	}
	for _, row := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"UDP", eth4(ip4(ProtoUDP, 0, nil, udp(false, 0))), true},
		{"IPv6 UDP", eth6(ip6(ProtoUDP, udp(true, 0))), true},
		{"echo", eth4(icmp(false, 8)), true},
		{"unreachable", eth4(icmp(false, 3)), false},
		{"source quench", eth4(icmp(false, 4)), false},
		{"redirect", eth4(icmp(false, 5)), false},
		{"time exceeded", eth4(icmp(false, 11)), false},
		{"parameter problem", eth4(icmp(false, 12)), false},
		{"IPv6 echo", eth6(icmp(true, 128)), true},
		{"IPv6 error", eth6(icmp(true, 1)), false},
		{"IPv6 unknown error", eth6(icmp(true, 127)), false},
		{"IPv6 redirect", eth6(icmp(true, 137)), false},
		{"first fragment", eth4(ip4(ProtoUDP, 0x2000, nil, udp(false, 0))), true},
		{"later fragment", eth4(ip4(ProtoUDP, 0x0001, nil, udp(false, 0))), false},
		{"IPv6 later fragment", eth6(ip6(protoFragment, frag6(ProtoUDP, 8), filled(9))), true},
		{"IPv6 later fragment of ICMPv6", eth6(ip6(protoFragment, frag6(ProtoICMPv6, 8), filled(9))), false},
		{"multicast", eth4(dst4(0xe0000001)), false},
		{"broadcast", eth4(dst4(0xffffffff)), false},
		{"link multicast", edit(eth4(dst4(0x0a000001)), func(b []byte) { b[0] |= 1 }), false},
		{"source 0.0.0.0", eth4(src4(0)), false},
		{"source loopback", eth4(src4(0x7f000001)), false},
		{"source multicast", eth4(src4(0xe0000001)), false},
		{"source class E", eth4(src4(0xf0000001)), false},
		{"IPv6 source ::", eth6(edit(ip6(ProtoUDP, udp(true, 0)), func(b []byte) { clear(b[8:24]) })), false},
		{"IPv6 multicast", eth6(edit(ip6(ProtoUDP, udp(true, 0)), func(b []byte) { b[24] = 0xff })), false},
	} {
		if got := parsed(t, row.frame).MayHaveError(); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}

func TestEchoReply(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		proto := ProtoICMP
		if v6 {
			proto = ProtoICMPv6
		}
		p := parsed(t, eth(v6, ip(v6, proto, echo(v6, 99))))
		hash := p.FlowHash
		if !p.BuildEchoReply() {
			t.Fatal("not built")
		}
		checkWire(t, p)
		src, dst := ends(v6)
		if p.Src != dst || p.Dst != src || p.isEchoRequest() || !bytes.Equal(p.Frame[p.L4+8:p.End], filled(99)) {
			t.Errorf("ipv6 %v: %+v", v6, fields(p))
		}
		again := *p
		if r := again.Parse(); r != verdict.None || !same(p, &again) || again.FlowHash != hash {
			t.Errorf("ipv6 %v: %v %+v", v6, r, fields(&again))
		}
		if p.BuildEchoReply() {
			t.Error("reply to a reply")
		}
		b := eth(v6, ip(v6, proto, echo(v6, 99)))
		q := framed(b[:len(b)-50])
		q.Tail = 50
		if r := q.Parse(); r != verdict.None || !q.BuildEchoReply() || !q.VerifyTransport([][]byte{b[len(b)-50:]}) {
			t.Errorf("ipv6 %v: over two frames: %v", v6, r)
		}
	}
	for name, b := range map[string][]byte{
		"fragment":        eth4(ip4(ProtoICMP, 0x2000, nil, echo(false, 0))),
		"ICMPv6 in IPv4":  eth4(ip4(ProtoICMPv6, 0, nil, echo(true, 0))),
		"ICMP in IPv6":    eth6(ip6(ProtoICMP, echo(false, 0))),
		"UDP":             eth4(ip4(ProtoUDP, 0, nil, udp(false, 0))),
		"later fragments": eth6(ip6(protoFragment, frag6(ProtoICMPv6, 8), filled(9))),
	} {
		if parsed(t, b).BuildEchoReply() {
			t.Errorf("%s: reply built", name)
		}
	}
}

func (p *Packet) isEchoRequest() bool {
	return p.ICMPType == ICMPEchoRequest || p.ICMPType == ICMPv6EchoRequest
}
