// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// fuzzer reads packets from bytes: few hosts, ports and numbers, so that they meet, and now and then raw bytes.
type fuzzer struct {
	*rig
	carry *carryRig // nil: there is no kernel
	in    []byte
	asked map[Tuple]bool // every tuple that ever opened a flow
}

func (f *fuzzer) byte() (b byte) {
	if len(f.in) > 0 {
		b, f.in = f.in[0], f.in[1:]
	}
	return b
}

// next is a packet, nil for one that does not parse.
func (f *fuzzer) next() *packet.Packet {
	kind, what := f.byte(), f.byte()
	f.a.Lo, f.b.Lo = f.a.Lo&^3|uint64(what&3), f.b.Lo&^1|uint64(what>>2&1)
	from := byte('c')
	src, dst := uint16(1000+int(what>>3&3)), uint16(80)
	if kind&0x80 != 0 {
		from, src, dst = 's', dst, src
	}
	var ip []byte
	switch kind & 7 {
	case 0, 1, 2:
		number := func() uint32 { return uint32(int32(int8(f.byte()))) * []uint32{1, 1000, 1 << 24}[what>>5%3] }
		s := tcpSegment{src: src, dst: dst, seq: number(), ack: number(), flags: f.byte() & 0x3f}
		s.window = uint16(f.byte()) << 4
		s.scale, s.payload = int(f.byte()&0xf)-1, int(f.byte()&7)
		ip = f.ip(from, packet.ProtoTCP, s.bytes())
	case 3:
		ip = f.ip(from, packet.ProtoUDP, udpBytes(src, dst, 4))
	case 4:
		proto := packet.ProtoICMP
		if f.v6 {
			proto = packet.ProtoICMPv6
		}
		if kind&0x10 != 0 { // an error about something alike
			inner := f.ip(from, packet.IPProto(f.byte()), append(udpBytes(src, dst, 4), f.byte(), f.byte(), f.byte(), f.byte()))
			ip = f.ip(from^'c'^'s', proto, icmpError(f.byte()&15, inner[:len(inner)-int(f.byte()&15)]))
		} else {
			ip = f.ip(from, proto, icmpBytes([]byte{0, 8, 13, 14, 128, 129}[f.byte()%6], src))
		}
	case 5:
		tag, initiate := uint32(f.byte()&3), uint32(f.byte()&3)
		ip = f.ip(from, packet.ProtoSCTP, sctpBytes(src, dst, tag, f.byte()&15, f.byte()&1, initiate))
	case 6:
		proto, size := packet.IPProto(f.byte()), int(f.byte())
		ip = f.ip(from, proto, f.in[:min(len(f.in), size)])
	default:
		f.now += int64(f.byte()) * second / 4
		f.tab.Sweep(f.now, 0, 1)
		return nil
	}
	b := ethernet(ip)
	p := &packet.Packet{Frame: b, End: len(b)}
	if p.Parse() != verdict.None {
		return nil
	}
	return p
}

func (f *fuzzer) ip(from byte, proto packet.IPProto, payload []byte) []byte {
	if from == 'c' {
		return ipPacket(f.a, f.b, proto, payload)
	}
	return ipPacket(f.b, f.a, proto, payload)
}

// step tracks a packet and does what a caller would.
func (f *fuzzer) step(p *packet.Packet, whim byte) {
	port := packet.PortID(p.Src.Lo & 7)
	if f.carry != nil && f.carried(p, port) {
		return
	}
	s := f.tab.seen(p, port, f.now, uint32(whim&3)/3)
	src, dst := portsOf(p, s.kind)
	tuple := Tuple{p.Src, p.Dst, src, dst, p.Proto}
	switch s.Status {
	case NewFlow:
		if whim&0x10 != 0 && s.Either {
			s.Turn()
		}
		if want := tuple; s.Reply && s.Tuple != want.reverse() || !s.Reply && s.Tuple != want {
			f.t.Fatalf("%+v: %+v", want, s)
		}
		if f.open(&s, p, port, whim) == verdict.None {
			f.asked[s.Tuple] = true
		}
	case Known, Stale:
		if isICMP(p) && isError(p.Proto, p.ICMPType) { // about a packet of a stale flow
			if in, ok := quoted(p); !ok || in.src != p.Dst || !s.Translated && !f.asked[s.Tuple] {
				f.t.Fatalf("an error about %+v is let in", s.Tuple)
			}
		} else if e := s.Ends; s.Translated && s.Reply {
			if !f.asked[Tuple{e.Dst, e.Src, e.DstPort, e.SrcPort, p.Proto}] && s.kind != kindTimestamp {
				f.t.Fatalf("%+v becomes %+v, and nobody has opened it", tuple, e)
			}
		} else if s.Reply && !f.asked[tuple.reverse()] || !s.Reply && !f.asked[tuple] {
			f.t.Fatalf("%+v is let in, and nobody has opened it", tuple)
		}
		if s.Status == Stale && whim&0x20 != 0 {
			f.tab.Revoke(&s, 0, verdict.EgressDenied)
		} else if s.Status == Stale {
			f.tab.Keep(&s, 0, 0)
		} else if s.Carry && whim&4 != 0 {
			f.tab.Carry(&s, &offload.Way{In: port, Out: port + 1, MTU: someMTU})
		} else if f.carry != nil && whim&0x24 == 0x20 {
			f.tab.Claim(&s)
		}
	case Related:
		in, ok := quoted(p)
		if !ok || in.src != p.Dst {
			f.t.Fatal("an error about nothing is let in")
		}
	case Invalid:
		if s.Reason == verdict.None || s.Reason >= verdict.NumReasons {
			f.t.Fatalf("dropped for no reason: %+v", s)
		}
	}
}

// carried has a hook see a packet. Who is carried was let in, and becomes what Track would say.
func (f *fuzzer) carried(p *packet.Packet, port packet.PortID) bool {
	if !plain(p) || p.Proto != packet.ProtoTCP && p.Proto != packet.ProtoUDP {
		return false
	}
	ref, d := f.carry.kernel.Find(p.Ends(), p.Proto, port)
	got, ok := f.carry.hook.Carry(hooked(p, port))
	if !ok {
		return false
	}
	of, ways, _ := f.carry.kernel.Flow(ref)
	want := of.Far
	if d != 0 {
		want = of.Near.Reverse()
	}
	near := of.Near
	if !f.asked[Tuple{near.Src, near.Dst, near.SrcPort, near.DstPort, p.Proto}] || got.Ends != want || ways[d].In != port {
		f.t.Fatalf("%+v is carried as %+v by %+v", p.Ends(), got, of)
	}
	return true
}

// walk goes over what is carried, as a change of policy has one do.
func (f *fuzzer) walk(whim byte) {
	for c := range f.tab.Carried() {
		switch whim >> 5 {
		case 0, 1:
			f.tab.Uncarry(c.ID)
		case 2:
			f.tab.Judge(c.ID, verdict.IngressDenied, f.now, 0, 1)
		default:
			f.tab.Judge(c.ID, verdict.None, f.now, uint32(whim>>5&1), 1)
		}
	}
}

func (f *fuzzer) soundAll() {
	f.t.Helper()
	if f.carry != nil {
		f.carry.soundCarried()
		return
	}
	f.sound()
}

// open translates some flows, to few ends, so that they meet with others.
func (f *fuzzer) open(s *Seen, p *packet.Packet, port packet.PortID, whim byte) verdict.Reason {
	if whim&0x08 == 0 {
		return f.tab.Open(s, p, port, port+1, f.now, 0, 0)
	}
	tr := Translation{FirstPort: 1000, LastPort: 1003, Random: whim&0x80 != 0, Backend: uint32(whim & 1)}
	if whim&0x04 != 0 {
		tr.Dst, tr.DstPort = f.b, 80
	}
	if whim&0x02 != 0 {
		tr.Src = f.a
	}
	return f.tab.OpenTranslated(s, p, port, port+1, f.now, 0, 0, &tr)
}

func isICMP(p *packet.Packet) bool {
	return p.Proto == packet.ProtoICMP || p.Proto == packet.ProtoICMPv6
}

func fuzz(t testing.TB, data []byte) {
	if len(data) < 2 {
		return
	}
	cfg := Config{Flows: 3 + int(data[0]&15), PerPort: 2 + int(data[0]>>4), PerSource: 1 + int(data[1]&7)}
	if data[1]&0x40 != 0 {
		cfg.Loose = start + 10*second
	}
	if data[0]&0x0f == 0x0f { // more than one shard
		cfg.Flows = 2 * shardFlows
	}
	f := &fuzzer{in: data[2:], asked: map[Tuple]bool{}}
	if data[1]&0x20 != 0 {
		f.carry = newCarryRig(t, data[1]&0x80 != 0, cfg, 3)
		f.rig = f.carry.rig
		for port := range packet.PortID(8) {
			_ = f.carry.kernel.SetEgress(port+1, offload.Egress{Kind: offload.Pod, IfIndex: 1})
		}
	} else {
		f.rig = newRig(t, data[1]&0x80 != 0, cfg)
	}
	for len(f.in) > 0 {
		whim := f.byte()
		if p := f.next(); p != nil {
			f.step(p, whim)
		}
		if whim&0xcf == 0x40 {
			f.soundAll()
		}
		if f.carry != nil && whim&0x1f == 0x1f {
			f.walk(whim)
		}
	}
	f.soundAll()
}

func FuzzTrack(f *testing.F) {
	seed := uint64(1)
	for n := range 64 {
		var b []byte
		for range 40 + n*8 {
			seed = seed*6364136223846793005 + 1442695040888963407
			b = binary.LittleEndian.AppendUint64(b, seed^seed>>29)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, data) })
}
