// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

var (
	ipC4 = AddrFrom(netip.MustParseAddr("203.0.113.255"))
	ipD4 = AddrFrom(netip.MustParseAddr("10.255.255.254"))
	ipC6 = AddrFrom(netip.MustParseAddr("fd00:ffff::ffff"))
	ipD6 = AddrFrom(netip.MustParseAddr("2001:db8:2:3:4:5:6:7"))
)

// elsewhere is other ends of the family, with ports that are the other way round.
func elsewhere(v6 bool) Ends {
	if v6 {
		return Ends{ipC6, ipD6, 60001, 7}
	}
	return Ends{ipC4, ipD4, 60001, 7}
}

func sctp(size int) []byte {
	b := cat(be16(1000, 2000), make([]byte, 8), []byte{1, 0}, be16(uint16(4+size)), filled(size))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// withoutSum is a UDP message without a checksum.
func withoutSum(b []byte) []byte {
	b[6], b[7] = 0, 0
	return b
}

// partial has the checksum field at an offset hold the folded pseudo-header sum.
func partial(b []byte, at int, v6 bool, proto IPProto) []byte {
	src, dst := ends(v6)
	binary.BigEndian.PutUint16(b[at:], ^slowChecksum(pseudo(src, dst, proto, len(b))))
	return b
}

func timestamp() []byte {
	return sealed(cat([]byte{13, 0}, be16(0, 0x1234, 1), filled(12)), 2, ipA4, ipB4, ProtoICMP)
}

// hopByHop, then destination options, in front of a message.
func extended(proto IPProto, payload []byte) []byte {
	return ip6(0, cat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, []byte{byte(proto), 0, 1, 4, 0, 0, 0, 0}, payload))
}

var translateRows = []struct {
	name  string
	frame []byte
}{
	{"udp4", eth4(ip(false, ProtoUDP, udp(false, 100)))},
	{"udp6", eth6(ip(true, ProtoUDP, udp(true, 101)))},
	{"udp4 without checksum", eth4(ip(false, ProtoUDP, withoutSum(udp(false, 10))))},
	{"tcp4", eth4(ip(false, ProtoTCP, tcp(false, 1)))},
	{"tcp6", eth6(ip(true, ProtoTCP, tcp(true, 1000)))},
	{"tcp4 options", eth4(ip4(ProtoTCP, 0, []byte{1, 1, 1, 0}, tcp(false, 11)))},
	{"tcp6 extension headers", eth6(extended(ProtoTCP, tcp(true, 11)))},
	{"echo4", eth4(ip(false, ProtoICMP, echo(false, 20)))},
	{"echo6", eth6(ip(true, ProtoICMPv6, echo(true, 21)))},
	{"timestamp", eth4(ip(false, ProtoICMP, timestamp()))},
	{"sctp4", eth4(ip(false, ProtoSCTP, sctp(200)))},
	{"sctp6, long", eth6(ip(true, ProtoSCTP, sctp(1301)))},
	{"gre", eth4(ip(false, 47, filled(30)))},
	{"udp4 partial", eth4(ip(false, ProtoUDP, partial(udp(false, 100), 6, false, ProtoUDP)))},
	{"tcp6 partial", eth6(ip(true, ProtoTCP, partial(tcp(true, 99), 16, true, ProtoTCP)))},
	{"first fragment", eth4(ip4(ProtoUDP, 0x2000, nil, udp(false, 24)))},
	{"later fragment", eth4(ip4(ProtoUDP, 0x0010, nil, filled(24)))},
	{"later fragment 6", eth6(ip6(44, []byte{17, 0, 0, 0x80, 0, 0, 0, 9}, filled(24)))},
	{"VLAN", ethernet([]uint16{0x8100, 5, 0x0800}, ip(false, ProtoUDP, udp(false, 3)))},
}

func TestTranslate(t *testing.T) {
	for _, row := range translateRows {
		t.Run(row.name, func(t *testing.T) {
			p := parsed(t, row.frame)
			before, was := bytes.Clone(p.Frame), *p
			to := elsewhere(p.Flags&IPv6 != 0)
			if !p.Translate(to) {
				t.Fatal("not translated")
			}
			again := *p
			if r := again.Parse(); r != verdict.None {
				t.Fatal(r)
			}
			if p.Src != to.Src || p.Dst != to.Dst || again.Src != to.Src || again.Dst != to.Dst ||
				p.Ends() != again.Ends() || p.Flags != again.Flags || p.FlowHash != was.FlowHash {
				t.Errorf("%+v\nparsed again %+v", fields(p), fields(&again))
			}
			switch {
			case p.SrcPort == 0: // it has none, or Parse reads none
			case p.Proto == ProtoICMP || p.Proto == ProtoICMPv6:
				if again.SrcPort != to.SrcPort {
					t.Errorf("the identifier is %d", again.SrcPort)
				}
			case again.SrcPort != to.SrcPort || again.DstPort != to.DstPort:
				t.Errorf("ports %d and %d", again.SrcPort, again.DstPort)
			}
			if again.Flags&PartialChecksum != 0 {
				again.CompleteChecksum(nil)
			}
			if !again.VerifyTransport(nil) {
				t.Error("the checksum does not hold")
			}
			if row.name != "udp4 without checksum" {
				checkWire(t, &again)
			}
			checkOutside(t, before, p)
			p = parsed(t, row.frame)
			back := p.Ends()
			if !p.Translate(to) || !p.Translate(back) || !bytes.Equal(p.Frame, before) {
				t.Errorf("there and back:\n% x\n% x", p.Data(), before[p.Start:p.End])
			}
		})
	}
}

// checkOutside fails when bytes outside the IP packet have changed.
func checkOutside(t *testing.T, before []byte, p *Packet) {
	t.Helper()
	if !bytes.Equal(before[:p.L3], p.Frame[:p.L3]) || !bytes.Equal(before[p.End:], p.Frame[p.End:]) {
		t.Error("bytes outside the packet have changed")
	}
}

// A checksum that was wrong is as wrong afterwards: that it holds is not ours to say.
func TestTranslateKeepsErrors(t *testing.T) {
	for _, row := range translateRows {
		p := parsed(t, row.frame)
		if p.Flags&(Fragment|PartialChecksum) != 0 || p.Proto == 47 || row.name == "udp4 without checksum" {
			continue
		}
		p.Frame[p.End-1] ^= 1
		if p.Translate(elsewhere(p.Flags&IPv6 != 0)); p.VerifyTransport(nil) {
			t.Errorf("%s: the checksum was made right", row.name)
		}
	}
}

// SCTP's checksum is over frames that are not at hand.
func TestTranslateTail(t *testing.T) {
	whole := ip(false, ProtoSCTP, sctp(5001))
	p := framed(eth4(whole[:300]))
	p.Tail = len(whole) - 300
	if r := p.Parse(); r != verdict.None || !p.Translate(elsewhere(false)) {
		t.Fatal(r)
	}
	if !p.VerifyTransport([][]byte{whole[300:3001], whole[3001:]}) {
		t.Error("the checksum does not hold")
	}
}

// UDP's sum may come out as zero, which would be none.
func TestTranslateToZeroSum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		to := elsewhere(v6)
		for port := range 0x10000 {
			p := parsed(t, eth(v6, ip(v6, ProtoUDP, udp(v6, 9))))
			to.DstPort = uint16(port)
			if p.Translate(to); p.checksumField() == 0 {
				t.Fatalf("ipv6 %v: port %d leaves no checksum", v6, port)
			}
		}
	}
}

func TestNotTranslated(t *testing.T) {
	routing := func(left byte) []byte {
		return eth6(ip6(43, []byte{17, 0, 4, left, 0, 0, 0, 0}, udp(true, 10)))
	}
	for name, row := range map[string]struct {
		frame []byte
		is    bool
	}{
		"authenticated":           {eth6(ip6(51, cat([]byte{17, 4}, make([]byte, 22)), udp(true, 10))), false},
		"routed by others":        {routing(1), false},
		"was routed by others":    {routing(0), true},
		"UDP-Lite":                {eth4(ip(false, 136, udp(false, 10))), false},
		"TCP, sum in the second":  {eth4(ip4(ProtoTCP, 0x2000, nil, tcp(false, 10)[:16])), false},
		"TCP, sum in the first":   {eth4(ip4(ProtoTCP, 0x2000, nil, tcp(false, 10)[:24])), true},
		"SCTP fragment":           {eth4(ip4(ProtoSCTP, 0x2000, nil, sctp(100)[:48])), false},
		"later fragment of SCTP":  {eth4(ip4(ProtoSCTP, 0x2004, nil, sctp(100)[:48])), true},
		"authenticated, fragment": {eth6(ip6(44, []byte{51, 0, 0, 0x80, 0, 0, 0, 9}, filled(24))), true},
	} {
		p := parsed(t, row.frame)
		before, was := bytes.Clone(p.Frame), p.Ends()
		if is := p.Translate(elsewhere(p.Flags&IPv6 != 0)); is != row.is {
			t.Errorf("%s: translated: %v", name, is)
		}
		if !row.is && (!bytes.Equal(before, p.Frame) || p.Ends() != was) {
			t.Errorf("%s: has changed", name)
		}
	}
}

// What an error quotes is, translated back, what was sent.
func TestTranslateError(t *testing.T) {
	for _, row := range translateRows {
		sent := parsed(t, row.frame)
		if sent.L4 == 0 || sent.Proto == 47 || sent.Proto == ProtoSCTP || sent.Flags&PartialChecksum != 0 {
			continue
		}
		v6 := sent.Flags&IPv6 != 0
		original := bytes.Clone(sent.Frame[sent.L3:sent.End])
		back := sent.Ends()
		sent.Translate(elsewhere(v6))
		router := ipD6
		if !v6 {
			router = Addr4(0xc0a80101)
		}
		for _, from := range []Addr{sent.Dst, router} {
			p := parsed(t, cat(sent.Data()))
			if !p.BuildICMPError(HostUnreachable, from, 0) {
				t.Fatal("no error")
			}
			p.SetEthernet(macB, macA, VLANs{})
			p.Parse()
			frame := bytes.Clone(p.Frame)
			if !p.TranslateError(back) {
				t.Fatalf("%s: not translated", row.name)
			}
			again := *p
			if r := again.Parse(); r != verdict.None || again.Ends() != p.Ends() {
				t.Fatalf("%s: %v", row.name, r)
			}
			checkWire(t, &again)
			checkOutside(t, frame, p)
			want := from
			if from == elsewhere(v6).Dst {
				want = back.Dst
			}
			if p.Dst != back.Src || p.Src != want {
				t.Errorf("%s: from %v to %v", row.name, p.Src, p.Dst)
			}
			if quoted := p.Frame[p.L4+icmpLen : p.End]; !bytes.Equal(quoted, original[:len(quoted)]) {
				t.Errorf("%s: quoted is\n% x, sent was\n% x", row.name, quoted, original)
			}
		}
	}
}

// An error may quote as little as it likes.
func TestTranslateErrorShort(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		sent := ip(v6, ProtoTCP, tcp(v6, 20))
		proto, kind := ProtoICMP, byte(3)
		if v6 {
			proto, kind = ProtoICMPv6, 1
		}
		src, dst := ends(v6)
		for n := range len(sent) {
			message := sealed(cat([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, sent[:n]), 2, src, dst, proto)
			p := parsed(t, eth(v6, ip(v6, proto, message)))
			before := bytes.Clone(p.Frame)
			header := ipv4Len
			if v6 {
				header = ipv6Len
			}
			if is := p.TranslateError(elsewhere(v6)); is != (n >= header+8) {
				t.Fatalf("ipv6 %v: %d bytes quoted, translated: %v", v6, n, is)
			} else if !is && !bytes.Equal(p.Frame, before) {
				t.Fatal("has changed")
			}
			checkWire(t, p)
			checkOutside(t, before, p)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	for _, row := range translateRows {
		f.Add(row.frame, uint64(1), uint64(2), uint64(3), uint16(5), uint16(6))
	}
	for _, row := range parseRows {
		f.Add(row.frame, uint64(1)<<63, uint64(2), uint64(3), uint16(5), uint16(6))
	}
	f.Fuzz(func(t *testing.T, b []byte, a1, a2, a3 uint64, src, dst uint16) {
		p := framed(b)
		if p.Parse() != verdict.None || p.L3Len == 0 {
			return
		}
		to := Ends{Addr4(uint32(a1)), Addr4(uint32(a2)), src, dst}
		if p.Flags&IPv6 != 0 {
			to.Src, to.Dst = Addr{a1 | 1<<61, a2}, Addr{a3 | 1<<61, a1}
		}
		before, sound, back := bytes.Clone(p.Frame), p.VerifyTransport(nil), p.Ends()
		flags := p.Flags
		if p.Translate(to) {
			if p.VerifyTransport(nil) != sound && flags&PartialChecksum == 0 {
				t.Fatalf("sound: %v before, then not", sound)
			}
			again := *p
			if r := again.Parse(); r != verdict.None || again.Ends() != p.Ends() {
				t.Fatalf("%v: %+v\n%+v", r, again.Ends(), p.Ends())
			}
			checkOutside(t, before, p)
			if canonical(before, p) {
				if p.Translate(back); !bytes.Equal(before, p.Frame) {
					t.Fatalf("there and back:\n% x\n% x", before[p.Start:p.End], p.Data())
				}
			}
		} else if !bytes.Equal(before, p.Frame) || p.Ends() != back {
			t.Fatal("has changed")
		}
		p = framed(b)
		if p.Parse(); p.TranslateError(to) {
			if p.VerifyTransport(nil) != sound {
				t.Fatal("an error whose checksum is another")
			}
		}
		checkOutside(t, before, p)
	})
}

// canonical: no checksum field has the form of zero that no sum gives.
func canonical(frame []byte, p *Packet) bool {
	if p.Flags&IPv6 == 0 && binary.BigEndian.Uint16(frame[p.L3+10:]) == 0xffff {
		return false
	}
	if p.L4 == 0 {
		return true
	}
	switch p.Proto {
	case ProtoTCP:
		return binary.BigEndian.Uint16(frame[p.L4+16:]) != 0xffff && p.Flags&PartialChecksum == 0
	case ProtoUDP:
		return p.Flags&PartialChecksum == 0
	case ProtoICMP, ProtoICMPv6:
		return binary.BigEndian.Uint16(frame[p.L4+2:]) != 0xffff
	}
	return true
}

func TestTranslateDoesNotAllocate(t *testing.T) {
	for _, row := range translateRows {
		fresh := framed(row.frame)
		p := framed(row.frame)
		to := elsewhere(parsed(t, row.frame).Flags&IPv6 != 0)
		if n := testing.AllocsPerRun(100, func() {
			copy(p.Frame, fresh.Frame)
			p.Start, p.End = fresh.Start, fresh.End
			p.Parse()
			p.Translate(to)
			p.TranslateError(to)
			p.BuildReset()
		}); n != 0 {
			t.Errorf("%s: %v allocations", row.name, n)
		}
	}
}

func BenchmarkTranslate(b *testing.B) {
	for _, row := range translateRows {
		b.Run(row.name, func(b *testing.B) {
			p := parsed(b, row.frame)
			to, back := elsewhere(p.Flags&IPv6 != 0), p.Ends()
			for b.Loop() {
				p.Translate(to)
				p.Translate(back)
			}
		})
	}
}
