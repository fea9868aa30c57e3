// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestTranslatedFlood: a SYN that is translated gets no fingerprint; it takes the place of the oldest one.
func TestTranslatedFlood(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, cfg := range map[string]Config{
			"handshakes": {Flows: 64, PerSource: 1000, PerPort: 1000}, "source": {Flows: 64, PerSource: 6, PerPort: 1000},
		} {
			t.Run(name, func(t *testing.T) {
				r := newNATRig(t, v6, cfg)
				v := r.front(1)
				syn := func(port uint16) (Seen, verdict.Reason) {
					e := packet.Ends{Src: r.a, Dst: v, SrcPort: port, DstPort: 80}
					return r.see(r.from(packet.ProtoTCP, e, tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7}.bytes()))
				}
				for i := range uint16(200) {
					r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, DstPort: 8080, Backend: uint32(i) + 1}
					if _, reason := syn(1000 + i); reason != verdict.None {
						t.Fatal(reason)
					}
				}
				if s, _ := syn(1199); s.Status != Known {
					t.Fatal(s.Status)
				}
				st := r.tab.Stats()
				if st.Fingerprints != 0 || st.Entries > 9 || st.Aliases != st.Entries ||
					st.EvictedHalfOpen != uint64(200-st.Entries) {
					t.Fatalf("%+v", st)
				}
				r.sound()
				alive := uint32(st.Entries)
				r.drained()
				for i := range uint32(200) { // what had to make way was not waited for
					r.lefts(i+1, i < 200-alive)
				}
			})
		}
	})
}

// TestTranslatedFloodOfOne: who has as many unanswered flows as he may takes his own places, not those of others who
// wait for an answer.
func TestTranslatedFloodOfOne(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{Flows: 64, PerSource: 5, PerPort: 1000})
		v := r.front(1)
		r.frontends[v] = &Translation{Dst: r.b, DstPort: 8080, Backend: 1}
		syn := func(src packet.Addr, port uint16, dst packet.Addr) *packet.Packet {
			e := packet.Ends{Src: src, Dst: dst, SrcPort: port, DstPort: 80}
			return r.from(packet.ProtoTCP, e, tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7}.bytes())
		}
		r.see(syn(r.other, 1, v))
		r.see(syn(r.other, 2, r.b))
		for i := range uint16(200) {
			if _, reason := r.see(syn(r.a, 1000+i, v)); reason != verdict.None {
				t.Fatal(i, reason)
			}
		}
		for port, dst := range map[uint16]packet.Addr{1: v, 2: r.b} {
			if s := r.tab.seen(syn(r.other, port, dst), portA, r.now, 1); s.Status != Known {
				t.Error(port, s.Status)
			}
		}
		if st := r.tab.Stats(); st.Entries != 7 {
			t.Errorf("%+v", st)
		}
		r.sound()
		r.drained()
	})
}

// TestTranslatedRepeat: under a flood SYNs to services have to be repeated as others have.
func TestTranslatedRepeat(t *testing.T) {
	r := newNATRig(t, false, Config{})
	r.tab.limits.perFlood = 0
	v := r.front(1)
	r.frontends[v] = &Translation{Dst: r.b, DstPort: 8080}
	e := packet.Ends{Src: r.a, Dst: v, SrcPort: 1000, DstPort: 80}
	syn := r.from(packet.ProtoTCP, e, tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7}.bytes())
	r.refused(syn, verdict.SYNFlood)
	r.now += second
	r.want(syn, NewFlow, r.frontends[v].apply(e))
}

// TestSourceOfTranslated: unanswered flows are their opener's own, whatever they are translated to.
func TestSourceOfTranslated(t *testing.T) {
	r := newNATRig(t, false, Config{Flows: 64, PerSource: 3, PerPort: 100})
	v := r.front(1)
	r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, DstPort: 53}
	for port := range uint16(3) {
		r.want(r.udp(r.a, 100+port, v, 53), NewFlow, packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 100 + port, DstPort: 53})
	}
	r.refused(r.udp(r.a, 200, v, 53), verdict.SourceLimit)
	r.want(r.udp(r.other, 200, v, 53), NewFlow, packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 200, DstPort: 53})
	r.sound()
	r.want(r.udp(r.b, 53, r.snat, 100), Known, packet.Ends{Src: v, Dst: r.a, SrcPort: 53, DstPort: 100})
	r.want(r.udp(r.a, 201, v, 53), NewFlow, packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 201, DstPort: 53})
	r.sound()
	r.drained()
}
