// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestTranslatedErrors: an ICMP error about a translated packet, on either side of the translation.
func TestTranslatedErrors(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = r.toPort9(1)
		near := packet.Ends{Src: r.a, Dst: v, SrcPort: 1000, DstPort: 80}
		far := packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 9, DstPort: 8080}
		about := func(e packet.Ends) *packet.Packet {
			proto, kind := packet.ProtoICMP, byte(3)
			if v6 {
				proto, kind = packet.ProtoICMPv6, 1
			}
			quote := ipPacket(e.Src, e.Dst, packet.ProtoUDP, udpBytes(e.SrcPort, e.DstPort, 20))
			return parse(t, ipPacket(r.other, e.Src, proto, icmpError(kind, quote)))
		}
		rows := []struct{ quoted, ends packet.Ends }{
			{far, near}, {near, near}, {near.Reverse(), far.Reverse()}, {far.Reverse(), far.Reverse()},
		}
		for _, row := range rows {
			if s := r.tab.seen(about(row.quoted), portA, r.now, 1); s.Reason != verdict.ICMPWithoutFlow {
				t.Fatalf("about nothing: %+v", s)
			}
		}
		r.want(r.from(packet.ProtoUDP, near, udpBytes(1, 2, 3)), NewFlow, far)
		for _, row := range rows[2:] {
			if s := r.tab.seen(about(row.quoted), portA, r.now, 1); s.Reason != verdict.ICMPWithoutFlow {
				t.Fatalf("about an answer that there was not: %+v", s)
			}
		}
		r.want(r.from(packet.ProtoUDP, far.Reverse(), udpBytes(1, 2, 3)), Known, near.Reverse())
		for i, row := range rows {
			for generation, status := range []Status{1: Related, 2: Stale} {
				if generation == 0 {
					continue
				}
				s := r.tab.seen(about(row.quoted), portA, r.now, uint32(generation))
				if s.Status != status || !s.Translated || s.Quoted != row.quoted || s.Ends != row.ends || s.Backend != 1 ||
					s.Reply != (i < 2) {
					t.Fatalf("%d: %+v", i, s)
				}
				judged := s.Tuple == Tuple{r.a, r.b, 1000, 8080, packet.ProtoUDP} && s.Opener == portA && s.Other == portB
				if status == Stale && !judged {
					t.Fatalf("%+v", s)
				}
			}
		}
		wrong := far
		wrong.SrcPort++
		if s := r.tab.seen(about(wrong), portA, r.now, 1); s.Reason != verdict.ICMPWithoutFlow {
			t.Fatalf("%+v", s)
		}
		r.drained()
	})
}

// TestForgedTranslatedError: who has not seen the connection cannot quote of it, on either side.
func TestForgedTranslatedError(t *testing.T) {
	r := newNATRig(t, false, Config{})
	v := r.front(1)
	r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, DstPort: 8080}
	near := packet.Ends{Src: r.a, Dst: v, SrcPort: 1000, DstPort: 80}
	far := packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 1000, DstPort: 8080}
	syn := tcpSegment{seq: 1 << 20, flags: tcpSYN, window: 100, scale: -1}
	r.want(r.from(packet.ProtoTCP, near, syn.bytes()), NewFlow, far)
	for _, e := range []packet.Ends{near, far} {
		for seq, status := range map[uint32]Status{1 << 20: Related, 1 << 25: Invalid} {
			s := tcpSegment{src: e.SrcPort, dst: e.DstPort, seq: seq, flags: tcpSYN, scale: -1}
			quote := ipPacket(e.Src, e.Dst, packet.ProtoTCP, s.bytes())
			got := r.tab.seen(parse(t, ipPacket(r.b, e.Src, packet.ProtoICMP, icmpError(3, quote))), portA, r.now, 1)
			if got.Status != status || status == Related && got.Ends != near {
				t.Fatalf("%+v", got)
			}
		}
	}
}
