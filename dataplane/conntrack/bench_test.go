// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// benchFlows sets a packet up as one of flow i, in either direction by the lowest bit of turn.
func benchFlow(p *packet.Packet, v6 bool, i, turn uint32) {
	a, b := packet.Addr4(10<<24|i>>4), packet.Addr4(10<<24|1<<23|i&0xffff)
	if v6 {
		a, b = packet.Addr{Hi: 0x20010db8 << 32, Lo: uint64(i) >> 4}, packet.Addr{Hi: 0x20010db8<<32 | 1, Lo: uint64(i)}
	}
	sp, dp := uint16(i<<4|i>>12), uint16(443)
	if turn&1 != 0 {
		a, b, sp, dp = b, a, dp, sp
	}
	p.Src, p.Dst, p.SrcPort, p.DstPort = a, b, sp, dp
}

func benchPacket(b testing.TB, proto packet.IPProto) *packet.Packet {
	src, dst := ends(false)
	if proto == packet.ProtoUDP {
		return parse(b, ipPacket(src, dst, proto, udpBytes(1, 2, 26)))
	}
	s := tcpSegment{seq: 1000, ack: 1000, flags: tcpACK, window: 500, scale: -1}
	return parse(b, ipPacket(src, dst, proto, s.bytes()))
}

func benchTable(b testing.TB, proto packet.IPProto, v6 bool, flows int) (*Table, *packet.Packet) {
	return benchTableBy(b, proto, v6, flows, nil)
}

func benchTableBy(b testing.TB, proto packet.IPProto, v6 bool, flows int,
	kernel *offload.Table) (*Table, *packet.Packet) {
	t := New(Config{
		Flows: flows + flows/8 + 64, PerPort: 1 << 30, PerSource: 1 << 30, Seed: &testSeed, Offload: kernel,
	})
	p := benchPacket(b, proto)
	for i := range uint32(flows) {
		for turn := range uint32(2) {
			benchFlow(p, v6, i, turn)
			s := t.seen(p, 1+packet.PortID(turn), start, 1)
			if s.Status == NewFlow && turn == 0 {
				if r := t.Open(&s, p, 1, 2, start, 1, 7); r != verdict.None {
					b.Fatal(r)
				}
			}
		}
	}
	if got := t.Stats().Entries; got != flows {
		b.Fatalf("%d entries of %d", got, flows)
	}
	return t, p
}

var sinkSeen Seen

// order is a full-period sequence below a power of two (Knuth 2, 3.2.1.2, theorem A).
func order(i uint32) uint32 { return i*1664525 + 1013904223 }

func BenchmarkEstablished(b *testing.B) {
	for _, proto := range []packet.IPProto{packet.ProtoTCP, packet.ProtoUDP} {
		name := map[packet.IPProto]string{packet.ProtoTCP: "tcp", packet.ProtoUDP: "udp"}[proto]
		for _, flows := range []int{1 << 10, 1 << 20} {
			for _, v6 := range []bool{false, true} {
				made := sync.OnceValues(func() (*Table, *packet.Packet) { return benchTable(b, proto, v6, flows) })
				for way, do := range map[string]func(*testing.B, *Table, *packet.Packet, bool, uint32){
					"single": benchSingle, "batch": benchBatch,
				} {
					b.Run(fmt.Sprintf("%s/v6=%t/%d/%s", name, v6, flows, way), func(b *testing.B) {
						t, p := made()
						b.ReportAllocs()
						b.ResetTimer()
						do(b, t, p, v6, uint32(flows))
					})
				}
			}
		}
	}
}

func benchSingle(b *testing.B, t *Table, p *packet.Packet, v6 bool, flows uint32) {
	at, s := uint32(1), &sinkSeen
	for range b.N {
		at = order(at)
		benchFlow(p, v6, at&(flows-1), at>>31)
		t.Track(p, 1+packet.PortID(at>>31), start, 1, s)
		if s.Status != Known {
			b.Fatal(s)
		}
	}
}

// benchBatch is 256 packets at a time: hash, foresee, track.
func benchBatch(b *testing.B, t *Table, p *packet.Packet, v6 bool, flows uint32) {
	at, touched, s := uint32(1), uint64(0), &sinkSeen
	var guesses [256]Guess
	for i := 0; i < b.N; i += len(guesses) {
		ahead := at
		for j := range guesses {
			ahead = order(ahead)
			benchFlow(p, v6, ahead&(flows-1), ahead>>31)
			var k key
			k.set(p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, 0, false)
			guesses[j] = Guess{hash: t.keys.hash(&k)}
		}
		touched += t.Foresee(guesses[:])
		for range guesses {
			at = order(at)
			benchFlow(p, v6, at&(flows-1), at>>31)
			if t.Track(p, 1+packet.PortID(at>>31), start, 1, s); s.Status != Known {
				b.Fatal(s)
			}
		}
	}
	sinkSeen.hash = touched
}

func BenchmarkHash(b *testing.B) {
	p := benchPacket(b, packet.ProtoTCP)
	var sum uint64
	for i := range b.N {
		benchFlow(p, false, uint32(i), uint32(i)>>3)
		var k key
		k.set(p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, 0, false)
		sum += testSeed.hash(&k)
	}
	sinkSeen.hash = sum
}

// BenchmarkNew is Track and Open of UDP flows that nobody answers, in a table that is full of such.
func BenchmarkNew(b *testing.B) {
	t := New(Config{PerPort: 1 << 30, PerSource: 1 << 30, Seed: &testSeed})
	p, s := benchPacket(b, packet.ProtoUDP), &sinkSeen
	open := func(i uint32) {
		benchFlow(p, false, order(i)&0x7fffff, 0)
		t.Track(p, 1, start, 1, s)
		if r := t.Open(s, p, 1, 2, start, 1, 7); r != verdict.None {
			b.Fatal(r)
		}
	}
	benchFull(b, open)
}

// BenchmarkFlood is a SYN of an address and port that was never seen, in a table that has enough of them: where it gets
// a fingerprint, and where it has to be repeated.
func BenchmarkFlood(b *testing.B) {
	b.Run("fingerprint", func(b *testing.B) {
		t := New(Config{PerPort: 1 << 30, Seed: &testSeed})
		t.limits.perFlood = 1 << 30
		benchFlood(b, t)
		if st := t.Stats(); st.Fingerprints < uint64(b.N) {
			b.Fatalf("%+v", st)
		}
	})
	b.Run("repeat", func(b *testing.B) {
		t := New(Config{PerPort: 1 << 30, Seed: &testSeed})
		benchFlood(b, t)
		if st := t.Stats(); st.Unrepeated < uint64(b.N) {
			b.Fatalf("%+v", st)
		}
	})
}

func benchFlood(b *testing.B, t *Table) {
	src, dst := ends(false)
	p := parse(b, ipPacket(src, dst, packet.ProtoTCP, tcpSegment{seq: 1, flags: tcpSYN, window: 500, scale: 7}.bytes()))
	benchFull(b, func(i uint32) {
		benchFlow(p, false, order(i), 0)
		if s := t.seen(p, 1, start, 1); s.Status == NewFlow {
			t.Open(&s, p, 1, 2, start, 1, 7)
		}
	})
}

// benchFull opens as many flows as there are entries, then measures further ones.
func benchFull(b *testing.B, open func(i uint32)) {
	for i := range uint32(2 * DefaultFlows) {
		open(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		open(2*DefaultFlows + uint32(i))
	}
}

// BenchmarkSweep is one call for the whole table, full of flows that last: what a worker's tick costs.
func BenchmarkSweep(b *testing.B) {
	t, _ := benchTable(b, packet.ProtoUDP, false, DefaultFlows)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		t.Sweep(start, 0, 1)
	}
}
