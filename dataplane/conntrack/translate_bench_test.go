// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// benchNAT is the translation of flow i of benchFlow to one of 64 backends.
func benchNAT(i uint32) Translation {
	return Translation{Dst: packet.Addr4(10<<24 | 200<<16 | i&63), DstPort: 8080, Backend: i&63 + 1}
}

// benchAnswer turns a packet of flow i into what its backend answers.
func benchAnswer(p *packet.Packet, i uint32) {
	tr := benchNAT(i)
	benchFlow(p, false, i, 0)
	p.Src, p.Dst, p.SrcPort, p.DstPort = tr.Dst, p.Src, tr.DstPort, p.SrcPort
}

// benchTranslated is a table of flows that are translated and answered, and a packet that may be any's.
func benchTranslated(b *testing.B, proto packet.IPProto, flows int) (*Table, *packet.Packet) {
	t := New(Config{Flows: flows + flows/8 + 64, PerPort: 1 << 30, PerSource: 1 << 30, Seed: &testSeed})
	p := benchPacket(b, proto)
	ask, answer := p, p
	if proto == packet.ProtoTCP {
		src, dst := ends(false)
		syn := func(s tcpSegment) *packet.Packet { return parse(b, ipPacket(src, dst, proto, s.bytes())) }
		ask = syn(tcpSegment{seq: 999, flags: tcpSYN, window: 500, scale: 7})
		answer = syn(tcpSegment{seq: 999, ack: 1000, flags: tcpSYN | tcpACK, window: 500, scale: 7})
	}
	for i := range uint32(flows) {
		benchFlow(ask, false, i, 0)
		s, tr := t.seen(ask, 1, start, 1), benchNAT(i)
		if r := t.OpenTranslated(&s, ask, 1, 2, start, 1, 7, &tr); r != verdict.None {
			b.Fatal(r)
		}
		benchAnswer(answer, i)
		t.seen(answer, 2, start, 1)
		benchFlow(p, false, i, 0)
		if s = t.seen(p, 1, start, 1); s.Status != Known {
			b.Fatal(s)
		}
	}
	if st := t.Stats(); st.Translated != flows || st.HalfOpen != 0 {
		b.Fatalf("%+v", st)
	}
	return t, p
}

// BenchmarkTranslated is Track of packets of translated flows, by alias and by entry.
func BenchmarkTranslated(b *testing.B) {
	for _, proto := range []packet.IPProto{packet.ProtoTCP, packet.ProtoUDP} {
		name := map[packet.IPProto]string{packet.ProtoTCP: "tcp", packet.ProtoUDP: "udp"}[proto]
		for _, flows := range []int{1 << 10, 1 << 20} {
			made := sync.OnceValues(func() (*Table, *packet.Packet) { return benchTranslated(b, proto, flows) })
			for _, way := range []string{"sent", "answered"} {
				b.Run(fmt.Sprintf("%s/%d/%s", name, flows, way), func(b *testing.B) {
					t, p := made()
					b.ReportAllocs()
					b.ResetTimer()
					benchWay(b, t, p, uint32(flows), way == "answered")
				})
			}
		}
	}
}

func benchWay(b *testing.B, t *Table, p *packet.Packet, flows uint32, answered bool) {
	at, s := uint32(1), &sinkSeen
	for range b.N {
		at = order(at)
		port := packet.PortID(1)
		if answered {
			port = 2
			benchAnswer(p, at&(flows-1))
		} else {
			benchFlow(p, false, at&(flows-1), 0)
		}
		if t.Track(p, port, start, 1, s); s.Status != Known || !s.Translated {
			b.Fatal(s)
		}
	}
}

// BenchmarkNewTranslated is BenchmarkNew with OpenTranslated: where the source port may be kept, and where it is
// chosen.
func BenchmarkNewTranslated(b *testing.B) {
	for _, random := range []bool{false, true} {
		b.Run(fmt.Sprintf("random=%t", random), func(b *testing.B) {
			t := New(Config{PerPort: 1 << 30, PerSource: 1 << 30, Seed: &testSeed})
			p, s := benchPacket(b, packet.ProtoUDP), &sinkSeen
			benchFull(b, func(i uint32) {
				n := order(i) & 0x7fffff
				tr := benchNAT(n)
				tr.Random = random
				benchFlow(p, false, n, 0)
				t.Track(p, 1, start, 1, s)
				if r := t.OpenTranslated(s, p, 1, 2, start, 1, 7, &tr); r != verdict.None && r != verdict.NATPortsExhausted {
					b.Fatal(r)
				}
			})
		})
	}
}
