// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestTranslatedPolicy: a stale flow is judged as from its opener to the backend, under the opener's own address.
func TestTranslatedPolicy(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = r.toPort9(1)
		ask := r.udp(r.a, 1000, v, 80)
		got := packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 9, DstPort: 8080}
		answer := r.from(packet.ProtoUDP, got.Reverse(), udpBytes(1, 2, 3))
		r.want(ask, NewFlow, got)
		judged := Tuple{r.a, r.b, 1000, 8080, packet.ProtoUDP}
		for i, p := range []*packet.Packet{ask, answer} {
			generation, want := uint32(10+i*10), []packet.Ends{got, ask.Ends().Reverse()}[i]
			s := r.tab.seen(p, portA, r.now, generation)
			if s.Status != Stale || s.Tuple != judged || s.Ends != want || !s.Translated {
				t.Fatalf("%+v", s)
			}
			r.tab.Keep(&s, generation, 77)
			if s = r.tab.seen(p, portA, r.now, generation); s.Status != Known || s.Rule != 77 {
				t.Fatalf("%+v", s)
			}
			s = r.tab.seen(p, portA, r.now, generation+1)
			r.tab.Revoke(&s, generation+1, verdict.EgressDenied)
			for _, p := range []*packet.Packet{ask, answer} {
				if s = r.tab.seen(p, portA, r.now, generation+1); s.Reason != verdict.EgressDenied {
					t.Fatalf("%+v", s)
				}
			}
			s = r.tab.seen(p, portA, r.now, generation+2)
			if s.Status != Stale || s.Tuple != judged || s.Ends != want {
				t.Fatalf("%+v", s)
			}
			r.tab.Keep(&s, generation+2, 78)
			if s = r.tab.seen(p, portA, r.now, generation+2); s.Status != Known || s.Ends != want {
				t.Fatalf("%+v", s)
			}
		}
		r.drained()
		r.lefts(1, true)
	})
}

// TestReopenedElsewhere: a connection that is over, or revoked, begins anew with another backend.
func TestReopenedElsewhere(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for _, revoked := range []bool{false, true} {
			r := newNATRig(t, v6, Config{})
			v := r.front(1)
			sent := packet.Ends{Src: r.a, Dst: v, SrcPort: 40000, DstPort: 80}
			syn := r.from(packet.ProtoTCP, sent, tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7}.bytes())
			for i, backend := range []packet.Addr{r.b, r.other, r.other, r.b} {
				tr := &Translation{Dst: backend, DstPort: 8080, Backend: uint32(i) + 1}
				r.frontends[v] = tr
				got := tr.apply(sent)
				r.want(syn, NewFlow, got)
				if s := r.want(syn, Known, got); s.Backend != tr.Backend { // a retransmission
					t.Fatal(s.Backend)
				}
				if revoked {
					s := r.tab.seen(syn, portA, r.now, 2)
					r.tab.Revoke(&s, 2, verdict.IngressDenied)
					continue
				}
				rst := tcpSegment{ack: 101, flags: tcpRST | tcpACK, scale: -1}
				r.want(r.from(packet.ProtoTCP, got.Reverse(), rst.bytes()), Known, sent.Reverse())
			}
			if st := r.tab.Stats(); st.Entries != 1 || st.Aliases != 1 || st.Reopened != 3 {
				t.Fatalf("%+v", st)
			}
			r.drained()
			for n := range uint32(4) {
				r.lefts(n+1, true) // to one that was revoked nobody spoke to the end
			}
		}
	})
}

// TestTranslatedEnds: however a flow ends, its backend is left once, and the alias is gone.
func TestTranslatedEnds(t *testing.T) {
	for name, end := range map[string]func(r *natRig, s *Seen){
		"drop":   func(r *natRig, s *Seen) { r.tab.Drop(s); r.tab.Drop(s) },
		"forget": func(r *natRig, _ *Seen) { r.tab.Forget(map[packet.PortID]bool{portB: true}) },
		"expiry": func(r *natRig, _ *Seen) { r.now += 31 * second; r.tab.seen(r.udp(r.a, 1, r.front(1), 1), 1, r.now, 1) },
		"answer too late": func(r *natRig, _ *Seen) {
			r.now += 31 * second
			r.tab.seen(r.udp(r.b, 2, r.a, 1), 1, r.now, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newNATRig(t, false, Config{})
			v := r.front(1)
			r.frontends[v] = &Translation{Dst: r.b, DstPort: 2, Backend: 1}
			p := r.udp(r.a, 1, v, 1)
			r.see(p)
			s, _ := r.see(p)
			if s.Status != Known {
				t.Fatal(s.Status)
			}
			end(r, &s)
			r.lefts(1, name == "drop" || name == "forget")
			if st := r.tab.Stats(); st.Entries != 0 || st.Aliases != 0 || st.Translated != 0 {
				t.Fatalf("%+v", st)
			}
			r.sound()
		})
	}
}

// TestLeftOver: an alias whose shard is busy when its flow ends translates nobody's packets, and is swept.
func TestLeftOver(t *testing.T) {
	for _, how := range []string{"swept", "found", "replaced"} {
		t.Run(how, func(t *testing.T) {
			r := newNATRig(t, false, Config{})
			v := r.front(1)
			r.frontends[v] = &Translation{Dst: r.b, DstPort: 2, Backend: 1}
			var p *packet.Packet
			var s Seen
			for port := uint16(1); ; port++ { // until the two shards differ
				p = r.udp(r.a, port, v, 1)
				r.see(p)
				if s, _ = r.see(p); r.tab.shard(s.hash) != r.tab.shard(r.hash(p)) {
					break
				}
				r.tab.Drop(&s)
			}
			busy := r.tab.shard(r.hash(p))
			busy.lock.Lock()
			r.tab.Drop(&s)
			busy.lock.Unlock()
			if st := r.tab.Stats(); st.Entries != 0 || st.Aliases != 1 {
				t.Fatalf("%+v", st)
			}
			if how == "replaced" { // the entry is another flow's to the same backend
				q := r.udp(r.a, p.SrcPort, r.b, 2)
				if s, _ := r.see(q); s.Translated || r.tab.seen(q, 1, r.now, 1).Status != Known {
					t.Fatal("not its own")
				}
			}
			switch how {
			case "swept":
				for range sweepShare + 2 {
					r.tab.Sweep(r.now, 0, 1)
				}
			default:
				if s := r.tab.seen(p, portA, r.now, 1); s.Status != NewFlow {
					t.Fatalf("%+v", s)
				}
			}
			if st := r.tab.Stats(); st.Aliases != 0 {
				t.Fatalf("%+v", st)
			}
			r.drained()
		})
	}
}

func (r *rig) hash(p *packet.Packet) uint64 {
	var k key
	k.set(p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, 0, false)
	return r.tab.keys.hash(&k)
}

// TestPickedUpMasquerade: what was open before may get its source again, and no backend.
func TestPickedUpMasquerade(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{Loose: start + 60*second})
		e := packet.Ends{Src: r.a, Dst: r.b, SrcPort: 40000, DstPort: 443}
		ack := tcpSegment{seq: 101, ack: 501, flags: tcpACK, window: 1000, scale: -1}
		p := r.from(packet.ProtoTCP, e, ack.bytes())
		r.frontends[r.b] = &Translation{Dst: r.other, DstPort: 443}
		r.refused(p, verdict.TCPWithoutFlow)
		r.frontends[r.b] = &Translation{Src: r.snat}
		got := packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 40000, DstPort: 443}
		r.want(p, NewFlow, got)
		back := tcpSegment{seq: 501, ack: 101, flags: tcpACK, window: 9, scale: -1}
		r.want(r.from(packet.ProtoTCP, got.Reverse(), back.bytes()), Known, e.Reverse())
		answer := r.from(packet.ProtoTCP, packet.Ends{Src: r.other, Dst: r.a, SrcPort: 443, DstPort: 40000}, ack.bytes())
		r.frontends[r.a] = &Translation{Src: r.snat}
		r.refused(answer, verdict.TCPWithoutFlow) // of an answer nobody knows what it was translated from
		r.drained()
	})
}

// TestRevokedKeepsQuiet: a translated flow does not take the ends of another one that was revoked, for that one is to
// be remembered.
func TestRevokedKeepsQuiet(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = &Translation{Dst: r.b, DstPort: 53}
		direct := r.udp(r.a, 1000, r.b, 53)
		r.see(direct)
		s := r.tab.seen(direct, portA, r.now, 2)
		r.tab.Revoke(&s, 2, verdict.EgressDenied)
		s, reason := r.see(r.udp(r.a, 1000, v, 53))
		if reason != verdict.None || !s.Translated || s.Ends.SrcPort == 1000 {
			t.Fatalf("%v %+v", reason, s.Ends)
		}
		if s := r.tab.seen(direct, portA, r.now, 2); s.Reason != verdict.EgressDenied {
			t.Fatalf("%+v", s)
		}
		r.now += 11 * 60 * second
		if s, _ := r.see(r.udp(r.a, 1000, v, 53)); s.Ends.SrcPort != 1000 {
			t.Fatalf("%+v", s.Ends)
		}
		r.drained()
	})
}
