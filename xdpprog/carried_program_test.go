// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func endsOf(src, dst string) packet.Ends {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return packet.Ends{
		Src: packet.AddrFrom(s.Addr()), Dst: packet.AddrFrom(d.Addr()), SrcPort: s.Port(), DstPort: d.Port(),
	}
}

// carriedFlows are flows of each family and protocol, translated or not, from each port to each.
func carriedFlows() (list []carriedFlow) {
	ends := []struct{ near, far packet.Ends }{
		{endsOf("10.1.0.1:1001", "10.9.0.9:53"), endsOf("10.1.0.1:1001", "10.9.0.9:53")},
		{endsOf("10.1.0.1:1002", "10.9.0.9:80"), endsOf("10.77.0.2:40000", "192.0.2.200:8080")},
		{endsOf("[fd00:1::1]:1003", "[fd00:9::9]:53"), endsOf("[fd00:1::1]:1003", "[fd00:9::9]:53")},
		{endsOf("[fd00:1::1]:1004", "[fd00:9::9]:80"), endsOf("[fd00:77::2]:40001", "[2001:db8::c8]:8080")},
	}
	number := uint16(0)
	for in := fromLeft; in <= fromLeftDouble; in++ {
		for out := toRight; out <= toHost; out++ {
			for _, e := range ends {
				for _, proto := range []packet.IPProto{packet.ProtoTCP, packet.ProtoUDP} {
					for _, reply := range []bool{false, true} {
						number++
						f := carriedFlow{near: e.near, far: e.far, proto: proto, in: in, out: out, reply: reply}
						f.near.SrcPort = 1000 + number
						if e.near == e.far {
							f.far.SrcPort = f.near.SrcPort
						} else {
							f.far.SrcPort = 20000 + number
						}
						list = append(list, f)
					}
				}
			}
		}
	}
	return list
}

func (f *carriedFlow) String() string {
	return fmt.Sprintf("%v %v > %v by %d, %d", f.proto, f.before(), f.after(), f.in, f.out)
}

// packet is one of the flow's.
func (f *carriedFlow) packet() carriedPacket {
	return carriedPacket{tags: tagsOf[f.in], ends: f.before(), proto: f.proto, flags: 0x18, ttl: 64, payload: 33}
}

// What the hook makes of a packet is what the pipeline makes of it, byte for byte.
func TestCarriedAsByPipeline(t *testing.T) {
	for _, mode := range []Mode{Owned, Shared} {
		l := newCarriedLab(t, mode)
		flows := carriedFlows()
		for i := range flows {
			f := &flows[i]
			l.enter(t, f)
			passed := egresses[f.out].Kind != offload.Wire
			for name, c := range map[string]struct {
				change  func(*carriedPacket)
				carried bool
			}{
				"whole":           {func(*carriedPacket) {}, true},
				"empty":           {func(c *carriedPacket) { c.payload = 0 }, true},
				"full":            {func(c *carriedPacket) { c.payload = 1400 }, true},
				"second last hop": {func(c *carriedPacket) { c.ttl = 2 }, true},
				"last hop":        {func(c *carriedPacket) { c.ttl = 1 }, false},
				"no more hops":    {func(c *carriedPacket) { c.ttl = 0 }, false},
				"partial":         {func(c *carriedPacket) { c.partial = true }, passed},
			} {
				p := f.packet()
				c.change(&p)
				frame := p.craft()
				want := f.pipelined(frame)
				if (want != nil) != c.carried {
					t.Fatalf("%s, %s: the reference is wrong", f, name)
				}
				l.expect(t, f, frame, want)
				if pad := join(frame, make([]byte, 18)); name == "empty" {
					l.expect(t, f, pad, f.pipelined(pad))
				}
			}
			if f.proto == packet.ProtoUDP {
				p := f.packet()
				p.noSum = true
				frame := p.craft()
				l.expect(t, f, frame, f.pipelined(frame))
			}
			if f.reply {
				l.table.Remove(f.ref)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// What is carried keeps right checksums right.
func TestCarriedChecksums(t *testing.T) {
	l := newCarriedLab(t, Owned)
	for _, f := range carriedFlows() {
		l.enter(t, &f)
		for _, partial := range []bool{false, true} {
			p := f.packet()
			p.partial = partial
			action, out, reason := l.run(t, p.craft())
			if reason != WireCarried {
				continue
			}
			if action == xdpPass {
				out = out[onwardSize:]
			}
			is := packet.Packet{Frame: out, End: len(out)}
			if r := is.Parse(); r != verdict.None || !is.VerifyTransport(nil) || is.Ends() != f.after() {
				t.Fatalf("%s: %s, checksum right %v, from %v", &f, r, is.VerifyTransport(nil), is.Ends())
			}
			if is.Flags&packet.PartialChecksum != 0 != partial {
				t.Fatalf("%s: a partial checksum has become complete, or the reverse", &f)
			}
		}
		l.table.Remove(f.ref)
	}
}

// aFlow is entered in a lab.
func (l *carriedLab) aFlow(t testing.TB, proto packet.IPProto, v6 bool, out packet.PortID) *carriedFlow {
	t.Helper()
	f := &carriedFlow{near: endsOf("10.1.0.1:1001", "10.9.0.9:53"), proto: proto, in: fromLeft, out: out}
	if v6 {
		f.near = endsOf("[fd00:1::1]:1001", "[fd00:9::9]:53")
	}
	f.far = f.near
	l.enter(t, f)
	return f
}

// Whatever is out of the ordinary goes to userspace as it came.
func TestNotCarriedPackets(t *testing.T) {
	l := newCarriedLab(t, Owned)
	tcp4, tcp6 := l.aFlow(t, packet.ProtoTCP, false, toRight), l.aFlow(t, packet.ProtoTCP, true, toPod)
	udp4, udp6 := l.aFlow(t, packet.ProtoUDP, false, toPod), l.aFlow(t, packet.ProtoUDP, true, toRight)
	flags := func(f *carriedFlow, b byte) []byte {
		p := f.packet()
		p.flags = b
		return p.craft()
	}
	tagged := func(tags packet.VLANs) []byte {
		p := tcp4.packet()
		p.tags = tags
		return p.craft()
	}
	sum4 := func(b []byte) []byte { // of an IPv4 header at 14
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], ^packet.Fold(packet.Sum(b[14:14+int(b[14]&15)*4], 0)))
		return b
	}
	plain := func(f *carriedFlow) []byte { p := f.packet(); return p.craft() }
	options := func() []byte {
		b := plain(tcp4)
		b = join(b[:34], []byte{1, 1, 1, 0}, b[34:])
		b[14] = 0x46
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return sum4(b)
	}
	extension := func(kind byte) []byte {
		b := plain(udp6)
		b = join(b[:54], []byte{b[20], 0, 0, 0, 0, 0, 0, 0}, b[54:])
		b[20] = kind
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
		return b
	}
	for _, row := range []struct {
		name  string
		f     *carriedFlow
		frame []byte
	}{
		{"syn", tcp4, flags(tcp4, 0x02)}, {"syn ack", tcp6, flags(tcp6, 0x12)}, {"fin", tcp4, flags(tcp4, 0x11)},
		{"rst", tcp6, flags(tcp6, 0x04)}, {"rst ack", tcp4, flags(tcp4, 0x14)}, {"no ack", tcp4, flags(tcp4, 0x08)},
		{"all flags", tcp6, flags(tcp6, 0x3f)}, {"no flags", tcp4, flags(tcp4, 0)},
		{"short tcp header", tcp4, with(plain(tcp4), 46, 4<<4)}, {"long tcp header", tcp4, with(plain(tcp4), 46, 15<<4)},
		{"options", tcp4, options()}, {"first fragment", udp4, sum4(with(plain(udp4), 20, 0x20))},
		{"last fragment", udp4, sum4(with(plain(udp4), 21, 1))}, {"reserved bit", udp4, sum4(with(plain(udp4), 20, 0x80))},
		{"bad header checksum", udp4, with(plain(udp4), 24, 0xfe)},
		{"version", udp4, with(plain(udp4), 14, 0x65)}, {"version 6", udp6, with(plain(udp6), 14, 0x40)},
		{"hop by hop", udp6, extension(0)}, {"destination options", udp6, extension(60)},
		{"fragment header", udp6, extension(44)}, {"routing header", udp6, extension(43)},
		{"udp length", udp4, with(plain(udp4), 39, 200)}, {"udp length under header", udp6, with(plain(udp6), 59, 7)},
		{"cut", udp4, plain(udp4)[:70]}, {"cut in tcp", tcp4, plain(tcp4)[:50]},
		{"ip length under header", udp4, sum4(with(plain(udp4), 17, 19))},
		{"another mac", tcp4, with(plain(tcp4), 5, 9)}, {"to all", tcp4, with(plain(tcp4), 0, 3)},
		{"from a group", tcp4, with(plain(tcp4), 6, 3)}, {"from ourselves", tcp4, with(plain(tcp4), 11, 1)},
		{"another protocol", udp4, sum4(with(plain(udp4), 23, 132))},
		{"another source", udp4, sum4(with(plain(udp4), 29, 9))}, {"another port", udp4, with(plain(udp4), 35, 9)},
		{"another vlan", tcp4, tagged(packet.VLANs{Outer: 9})}, {"another port's vlan", tcp4, tagged(packet.VLANs{Outer: 5})},
		{"priority tag", tcp4, join(plain(tcp4)[:12], []byte{0x81, 0, 0xe0, 0}, plain(tcp4)[12:])},
		{"three tags", tcp4, join(plain(tcp4)[:12], []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7},
			plain(tcp4)[12:])},
		{"cut tag", tcp4, join(plain(tcp4)[:12], []byte{0x81, 0, 0, 5})},
		{"arp", tcp4, join(ether(0x0806), arp(1, ours4))}, {"ethernet alone", tcp4, ether(0x0800)},
	} {
		if want := row.f.pipelined(row.frame); want != nil {
			t.Errorf("%s: the pipeline would carry it", row.name)
		}
		t.Run(row.name, func(t *testing.T) { l.expect(t, row.f, row.frame, nil) })
	}
	mapped := plain(tcp6) // IPv6 with the addresses of an IPv4 flow
	zeros := make([]byte, 10)
	copy(mapped[22:], join(zeros, []byte{0xff, 0xff, 10, 1, 0, 1}, zeros, []byte{0xff, 0xff, 10, 9, 0, 9}))
	l.expect(t, tcp4, mapped, nil)
	for _, f := range []*carriedFlow{tcp4, tcp6, udp4, udp6} {
		l.expect(t, f, plain(f), f.pipelined(plain(f)))
	}
}

// Whatever the table says against it keeps packets in userspace.
func TestNotCarriedByTable(t *testing.T) {
	l := newCarriedLab(t, Owned)
	for _, out := range []packet.PortID{toRight, toPod} {
		f := l.aFlow(t, packet.ProtoTCP, false, out)
		frame := ptr(f.packet()).craft()
		carried := func(is bool) {
			t.Helper()
			if want := f.pipelined(frame); is {
				l.expect(t, f, frame, want)
			} else {
				l.expect(t, f, frame, nil)
			}
		}
		carried(true)
		l.table.SetCarry(false)
		carried(false)
		l.table.SetCarry(true)
		l.table.SetGeneration(10)
		carried(false)
		l.table.Keep(f.ref, 10)
		carried(true)
		l.table.SetGeneration(0)
		way := offload.Way{In: fromLeft, Out: out, MAC: nextMAC, MTU: len(frame) - 14}
		l.table.Enter(f.ref, nil, 0, &way)
		carried(true)
		way.MTU--
		l.table.Enter(f.ref, nil, 0, &way)
		carried(false)
		way.MTU, way.Out = 1500, 0
		l.table.Enter(f.ref, nil, 0, &way)
		carried(false)
		way.Out = out
		l.table.Enter(f.ref, nil, 0, &way)
		carried(true)
		l.setCarried(t, nil, false)
		carried(false)
		l.setCarried(t, []int{1}, true)
		carried(true)
		if err := l.table.SetEgress(out, offload.Egress{}); err != nil {
			t.Fatal(err)
		}
		carried(false)
		l.table.Remove(f.ref)
		carried(false)
	}
	if err := l.port.SetCarried(CarriedFrom{}); err != nil {
		t.Fatal(err)
	}
	f := l.aFlow(t, packet.ProtoUDP, false, toHost)
	l.expect(t, f, ptr(f.packet()).craft(), nil)
}

// The kernel's word on a flow: how much, when last, and what was acknowledged.
func TestCarriedIsCounted(t *testing.T) {
	l := newCarriedLab(t, Owned)
	f := l.aFlow(t, packet.ProtoTCP, true, toRightDouble)
	begin := int64(monotonic(t))
	for range 3 {
		l.run(t, ptr(f.packet()).craft())
	}
	c, _ := l.table.Read(f.ref)
	if want := [2]offload.Traffic{{Packets: 3, Bytes: 3 * (40 + 20 + 33)}}; c.Traffic != want {
		t.Errorf("counted %+v, want %+v", c.Traffic, want)
	}
	if c.Acks[0] != 0xa1b2c3d4 || !c.Acked[0] || c.Acked[1] {
		t.Errorf("acknowledged: %x, %v", c.Acks, c.Acked)
	}
	const tick = 1 << 25 // of the record, and the kernel's
	if c.Used < begin-tick || c.Used > int64(monotonic(t))+tick {
		t.Errorf("used at %d, between %d and %d", c.Used, begin, monotonic(t))
	}
}

// Packets of several fragments are carried where their headers are in the first.
func TestCarriedFragments(t *testing.T) {
	l := newCarriedLab(t, Owned)
	for _, out := range []packet.PortID{toRight, toRightTagged, toPod} {
		for _, proto := range []packet.IPProto{packet.ProtoTCP, packet.ProtoUDP} {
			f := &carriedFlow{near: endsOf("10.1.0.1:1001", "10.9.0.9:53"), far: endsOf("10.2.0.1:7", "10.3.0.1:8"),
				proto: proto, in: fromLeftTagged, out: out, mtu: 9000}
			l.enter(t, f)
			p := f.packet()
			p.payload = 8900
			l.expect(t, f, p.craft(), f.pipelined(p.craft()))
			p.payload = 9000
			l.expect(t, f, p.craft(), nil)
			cut := p.craft()
			l.expect(t, f, cut[:8000], nil)
			l.table.Remove(f.ref)
		}
	}
}

// Userspace that shows no sign of life gets nothing more, though its sockets are there; flows go on.
func TestWireAbsence(t *testing.T) {
	for _, mode := range []Mode{Owned, Shared} {
		l := newCarriedLab(t, mode)
		f := l.aFlow(t, packet.ProtoUDP, false, toRight)
		other := join(ether(0x0800), ip4(ours4, make([]byte, 32)))
		is := func(want Reason, action uint32) {
			t.Helper()
			if a, out, reason := l.run(t, other); a != action || reason != want || !bytes.Equal(out, other) {
				t.Errorf("%s: action %d for %s, want %d for %s", mode, a, reason, action, want)
			}
			frame := ptr(f.packet()).craft()
			l.expect(t, f, frame, f.pipelined(frame))
		}
		is(ToUserspace, xdpRedirect) // no sign of life was ever seen, nor is expected
		l.table.Beat()
		is(ToUserspace, xdpRedirect)
		l.clock = -1e9
		l.table.Beat()
		is(WireAbsentDropped, xdpDrop)
		if err := l.port.SetOnAbsence(Pass); err != nil {
			t.Fatal(err)
		}
		is(WireAbsentPassed, xdpPass)
		l.clock = 0
		l.table.Beat()
		is(ToUserspace, xdpRedirect)
		l.table.Hang(offload.QueueBit(0))
		is(WireAbsentPassed, xdpPass)
		l.table.Hang(^offload.QueueBit(0))
		is(ToUserspace, xdpRedirect)
	}
}

// Random changes to packets of all flows: the hook does what the pipeline would, or leaves them alone.
func TestHostileCarried(t *testing.T) {
	l := newCarriedLab(t, Owned)
	random := rand.New(rand.NewPCG(3, 4))
	flows := carriedFlows()
	carried := 0
	for i := range flows {
		f := &flows[i]
		if egresses[f.out].VLANs.Inner != 0 && f.reply {
			continue
		}
		l.enter(t, f)
		p := f.packet()
		whole := p.craft()
		for n := 14; n < len(whole); n += 1 + i%5 {
			l.expect(t, f, whole[:n], f.pipelined(whole[:n]))
		}
		for range 40 {
			b := bytes.Clone(whole)
			for range 1 + random.IntN(2) {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
			if random.IntN(2) == 0 && f.near.Src.Is4() {
				l3 := 14 + 4*tagsIn(tagsOf[f.in])
				b[l3+10], b[l3+11] = 0, 0
				binary.BigEndian.PutUint16(b[l3+10:], ^packet.Fold(packet.Sum(b[l3:l3+20], 0)))
			}
			want := f.pipelined(b)
			if want != nil {
				carried++
			}
			l.expect(t, f, b, want)
		}
		l.table.Remove(f.ref)
	}
	if carried < 1000 {
		t.Errorf("only %d were carried", carried)
	}
}
