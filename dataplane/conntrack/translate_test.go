// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// natRig is a rig of four shards, in which flows to the frontends are translated, each by a translation of its own.
type natRig struct {
	*rig
	snat, other packet.Addr
	frontends   map[packet.Addr]*Translation
	left        map[uint32][]bool // by backend: had it answered
}

func newNATRig(t testing.TB, v6 bool, cfg Config) *natRig {
	r := &natRig{left: map[uint32][]bool{}, frontends: map[packet.Addr]*Translation{}}
	cfg.Left = func(backend uint32, answered bool) { r.left[backend] = append(r.left[backend], answered) }
	if cfg.Flows == 0 {
		cfg.Flows = 4 * shardFlows
	}
	r.rig = newRig(t, v6, cfg)
	r.snat, r.other = addr("10.9.0.1"), addr("10.1.0.77")
	if v6 {
		r.snat, r.other = addr("2001:db8:9::1"), addr("2001:db8::77")
	}
	return r
}

// front is the n-th frontend's address.
func (r *natRig) front(n int) packet.Addr {
	if r.v6 {
		return addr(fmt.Sprintf("2001:db8:f::%x", n))
	}
	return addr(fmt.Sprintf("10.96.0.%d", n))
}

// toPort9 translates both ends, and all source ports to 9.
func (r *natRig) toPort9(backend uint32) *Translation {
	return &Translation{
		Src: r.snat, Dst: r.b, DstPort: 8080, Backend: backend, FirstPort: 9, LastPort: 9, Random: true,
	}
}

// from is a packet with these ends.
func (r *natRig) from(proto packet.IPProto, e packet.Ends, payload []byte) *packet.Packet {
	r.t.Helper()
	p := parse(r.t, ipPacket(e.Src, e.Dst, proto, payload))
	if p.SrcPort|p.DstPort != 0 || proto == packet.ProtoTCP {
		p.SrcPort, p.DstPort = e.SrcPort, e.DstPort // the table reads them here
	}
	return p
}

func (r *natRig) udp(src packet.Addr, srcPort uint16, dst packet.Addr, dstPort uint16) *packet.Packet {
	return r.from(packet.ProtoUDP, packet.Ends{Src: src, Dst: dst, SrcPort: srcPort, DstPort: dstPort}, udpBytes(1, 2, 5))
}

// see tracks a packet, and opens its flow when it is a new one, translated if it goes to a frontend.
func (r *natRig) see(p *packet.Packet) (Seen, verdict.Reason) {
	s := r.tab.seen(p, portA, r.now, 1)
	if s.Status != NewFlow {
		return s, s.Reason
	}
	if tr := r.frontends[p.Dst]; tr != nil {
		return s, r.tab.OpenTranslated(&s, p, portA, portB, r.now, 1, 42, tr)
	}
	return s, r.tab.Open(&s, p, portA, portB, r.now, 1, 42)
}

// want tracks a packet and compares.
func (r *natRig) want(p *packet.Packet, status Status, ends packet.Ends) Seen {
	r.t.Helper()
	s := r.tab.seen(p, portA, r.now, 1)
	if s.Status == NewFlow {
		s, _ = r.see(p)
	}
	if s.Status != status || !s.Translated || s.Ends != ends {
		r.t.Fatalf("%v, %v: translated %t to %+v, want %v, %+v", s.Status, s.Reason, s.Translated, s.Ends, status, ends)
	}
	return s
}

// refused is a packet that is let in under no circumstances.
func (r *natRig) refused(p *packet.Packet, why verdict.Reason) {
	r.t.Helper()
	if s, reason := r.see(p); reason != why {
		r.t.Fatalf("%v, %v, want %v", s.Status, reason, why)
	}
}

// drained has everything expire and be swept, and checks that nothing is left.
func (r *natRig) drained() {
	r.t.Helper()
	r.now += 25 * 3600 * second
	for range 2 * (sweepShare + 1) {
		r.tab.Sweep(r.now, 0, 1)
	}
	r.sound()
	if st := r.tab.Stats(); st.Entries != 0 || st.Translated != 0 || st.Aliases != 0 {
		r.t.Fatalf("left over: %+v", st)
	}
}

func (r *natRig) lefts(backend uint32, answered ...bool) {
	r.t.Helper()
	if got := r.left[backend]; fmt.Sprint(got) != fmt.Sprint(answered) {
		r.t.Fatalf("backend %d was left %v, want %v", backend, got, answered)
	}
}

// talk is what one end says next.
type talk struct {
	answer  bool
	payload func(r *natRig) []byte
}

func tcp(s tcpSegment) func(*natRig) []byte { return func(*natRig) []byte { return s.bytes() } }

func translatedTalks() map[string]struct {
	proto packet.IPProto
	ports bool
	says  []talk
} {
	echo := func(answer bool) func(*natRig) []byte {
		return func(r *natRig) []byte {
			kind := byte(packet.ICMPEchoRequest)
			switch {
			case r.v6 && answer:
				kind = packet.ICMPv6EchoReply
			case r.v6:
				kind = packet.ICMPv6EchoRequest
			case answer:
				kind = packet.ICMPEchoReply
			}
			return icmpBytes(kind, 1000)
		}
	}
	datagram := func(*natRig) []byte { return udpBytes(1, 2, 9) }
	sctp := func(tag uint32, kind byte, initiate uint32) func(*natRig) []byte {
		return func(*natRig) []byte { return sctpBytes(1, 2, tag, kind, 0, initiate) }
	}
	return map[string]struct {
		proto packet.IPProto
		ports bool
		says  []talk
	}{
		"tcp": {packet.ProtoTCP, true, []talk{
			{false, tcp(tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7})},
			{true, tcp(tcpSegment{seq: 500, ack: 101, flags: tcpSYN | tcpACK, window: 1000, scale: 7})},
			{false, tcp(tcpSegment{seq: 101, ack: 501, flags: tcpACK, window: 1000, scale: -1})},
			{false, tcp(tcpSegment{seq: 101, ack: 501, flags: tcpACK, window: 1000, scale: -1, payload: 50})},
			{true, tcp(tcpSegment{seq: 501, ack: 151, flags: tcpACK, window: 1000, scale: -1, payload: 70})},
			{true, tcp(tcpSegment{seq: 571, ack: 151, flags: tcpACK | tcpFIN, window: 1000, scale: -1})},
			{false, tcp(tcpSegment{seq: 151, ack: 572, flags: tcpACK | tcpFIN, window: 1000, scale: -1})},
			{true, tcp(tcpSegment{seq: 572, ack: 152, flags: tcpACK, window: 1000, scale: -1})},
		}},
		"udp": {packet.ProtoUDP, true, []talk{{false, datagram}, {true, datagram}, {true, datagram}, {false, datagram}}},
		"sctp": {packet.ProtoSCTP, true, []talk{
			{false, sctp(0, sctpInit, 11)}, {true, sctp(11, sctpInitAck, 22)}, {false, sctp(22, sctpCookieEcho, 0)},
			{true, sctp(11, sctpCookieAck, 0)}, {false, sctp(22, 0, 0)}, {true, sctp(11, 0, 0)},
		}},
		"echo": {packet.ProtoICMP, true, []talk{{false, echo(false)}, {true, echo(true)}, {false, echo(false)}}},
		"gre": {47, false, []talk{
			{false, func(*natRig) []byte { return make([]byte, 8) }}, {true, func(*natRig) []byte { return make([]byte, 8) }},
		}},
	}
}

// TestTranslated: in every protocol and by every kind of translation, what the opener sends becomes what the backend is
// to get, and answers become the reverse of what he sent.
func TestTranslated(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, d := range translatedTalks() {
			if v6 && name == "echo" {
				d.proto = packet.ProtoICMPv6
			}
			for _, kind := range []string{"destination", "source", "both", "hairpin", "random", "range", "same"} {
				if kind == "hairpin" && !d.ports { // answers would look as what is sent does
					continue
				}
				t.Run(name+" "+kind, func(t *testing.T) { talkThrough(t, v6, d.proto, d.ports, d.says, kind) })
			}
		}
	})
}

func talkThrough(t *testing.T, v6 bool, proto packet.IPProto, ports bool, says []talk, kind string) {
	r := newNATRig(t, v6, Config{})
	v := r.front(1)
	sent := packet.Ends{Src: r.a, Dst: v, SrcPort: 1000, DstPort: 80}
	tr := &Translation{Dst: r.b, DstPort: 8080, Backend: 5}
	switch kind {
	case "source":
		tr = &Translation{Src: r.snat, Backend: 5}
	case "both":
		tr.Src = r.snat
	case "hairpin":
		tr.Dst, tr.Src = r.a, v
	case "random":
		tr.Random = ports
	case "range":
		tr.Random, tr.FirstPort, tr.LastPort = ports, 777, 777
	case "same":
		tr = &Translation{Dst: v, DstPort: 80, Backend: 5}
	}
	if proto == packet.ProtoICMP || proto == packet.ProtoICMPv6 {
		sent.DstPort = 1000
	}
	if proto == 47 {
		sent.SrcPort, sent.DstPort, tr.DstPort = 0, 0, 0
	}
	got := tr.apply(sent)
	r.frontends[v] = tr
	for i, say := range says {
		e, want := sent, got
		if say.answer {
			e, want = got.Reverse(), sent.Reverse()
		}
		p := r.from(proto, e, say.payload(r))
		if i == 0 {
			s, reason := r.see(p)
			if reason != verdict.None || !s.Translated {
				t.Fatal(reason)
			}
			got.SrcPort = s.Ends.SrcPort
			if sent.SrcPort == sent.DstPort {
				got.DstPort = got.SrcPort
			}
			want = got
			switch {
			case s.Ends != want || s.Backend != 5:
				t.Fatalf("%+v, want %+v", s.Ends, want)
			case kind == "range" && ports && got.SrcPort != 777, tr.Random && got.SrcPort < 777:
				t.Fatal(got.SrcPort)
			case !tr.Random && got.SrcPort != sent.SrcPort:
				t.Fatal("its own port was free")
			}
			r.now += second
			continue
		}
		s := r.want(p, Known, want)
		first := say.answer && i == 1
		waited := s.Waited == 0 && !first || s.Waited == start && first
		if s.Backend != 5 || s.Rule != 42 || s.Reply != say.answer || !waited {
			t.Fatalf("packet %d: %+v", i, s)
		}
	}
	r.shows(sent, got, proto)
	if proto == packet.ProtoTCP { // its connection is over, and the entry waits
		r.lefts(5, true)
	} else {
		r.lefts(5)
	}
	r.sound()
	r.drained()
	r.lefts(5, true)
}

func (r *natRig) shows(sent, got packet.Ends, proto packet.IPProto) {
	r.t.Helper()
	for f := range r.tab.All(r.now) {
		want := Tuple{sent.Src, sent.Dst, sent.SrcPort, sent.DstPort, proto}
		if f.Tuple != want || f.Ends != got || !f.Translated || f.Backend != 5 || f.Replied.Packets == 0 {
			r.t.Fatalf("%+v", f)
		}
		return
	}
	r.t.Fatal("no flow")
}

// TestSameBackendTwice: one client speaks from one port to two frontends, and to the backend, which is behind both.
func TestSameBackendTwice(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for first := range 3 {
			r := newNATRig(t, v6, Config{})
			for n := range 2 {
				r.frontends[r.front(n)] = &Translation{Dst: r.b, DstPort: 53, Backend: uint32(n) + 1}
			}
			to := []packet.Ends{
				{Src: r.a, Dst: r.front(0), SrcPort: 2000, DstPort: 53},
				{Src: r.a, Dst: r.front(1), SrcPort: 2000, DstPort: 53},
				{Src: r.a, Dst: r.b, SrcPort: 2000, DstPort: 53},
			}
			var got [3]packet.Ends
			used := map[packet.Ends]bool{}
			for i := range 3 {
				n := (first + i) % 3
				p := r.from(packet.ProtoUDP, to[n], udpBytes(1, 2, 3))
				s, reason := r.see(p)
				if reason != verdict.None || s.Status != NewFlow || s.Translated != (n < 2 || i > 0) {
					t.Fatalf("%d: %v %v", n, s.Status, reason)
				}
				if got[n] = p.Ends(); s.Translated {
					got[n] = s.Ends
				}
				if used[got[n]] || got[n].Src != r.a || got[n].Dst != r.b || got[n].DstPort != 53 {
					t.Fatalf("%d: %+v", n, got[n])
				}
				if used[got[n]] = true; i == 0 && got[n].SrcPort != 2000 {
					t.Fatal("the first keeps its port")
				}
			}
			for range 2 {
				for n, e := range to {
					p := r.from(packet.ProtoUDP, e, udpBytes(1, 2, 3))
					answer := r.from(packet.ProtoUDP, got[n].Reverse(), udpBytes(1, 2, 3))
					if e == got[n] {
						if s, _ := r.see(p); s.Status != Known || s.Translated {
							t.Fatalf("%+v", s)
						}
						continue
					}
					r.want(p, Known, got[n])
					r.want(answer, Known, e.Reverse())
				}
			}
			r.sound()
			r.drained()
			r.lefts(1, true)
			r.lefts(2, true)
		}
	})
}

// TestFourKinds: who sends with the ends of a translated flow, and is at neither end of it.
func TestFourKinds(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = &Translation{Dst: r.b, DstPort: 8080, Src: r.snat, Backend: 1}
		sent := packet.Ends{Src: r.a, Dst: v, SrcPort: 40000, DstPort: 80}
		got := packet.Ends{Src: r.snat, Dst: r.b, SrcPort: 40000, DstPort: 8080}
		segment := func(e packet.Ends, s tcpSegment) *packet.Packet { return r.from(packet.ProtoTCP, e, s.bytes()) }
		syn := tcpSegment{seq: 100, flags: tcpSYN, window: 1000, scale: 7}
		ack := tcpSegment{seq: 101, ack: 501, flags: tcpACK, window: 1000, scale: -1, payload: 5}
		back := tcpSegment{seq: 501, ack: 101, flags: tcpACK, window: 1000, scale: -1, payload: 5}
		r.want(segment(sent, syn), NewFlow, got)
		r.want(segment(got.Reverse(), tcpSegment{seq: 500, ack: 101, flags: tcpSYN | tcpACK, window: 1000, scale: 7}), Known,
			sent.Reverse())
		r.want(segment(sent, ack), Known, got)

		// From the frontend's address to the client, in mid-stream and from the start.
		r.refused(segment(sent.Reverse(), back), verdict.TCPWithoutFlow)
		r.refused(segment(sent.Reverse(), tcpSegment{seq: 501, flags: tcpRST, scale: -1}), verdict.TCPWithoutFlow)
		r.refused(segment(sent.Reverse(), syn), verdict.NATCollision)
		// From the translated source to the backend: in mid-stream nothing, and from the start another flow.
		r.refused(segment(got, ack), verdict.TCPWithoutFlow)
		r.refused(segment(got, tcpSegment{seq: 106, ack: 501, flags: tcpRST | tcpACK, scale: -1}), verdict.TCPWithoutFlow)
		p := segment(got, syn)
		s, reason := r.see(p)
		if reason != verdict.None || !s.Translated || s.Ends.SrcPort == got.SrcPort || s.Backend != 0 {
			t.Fatalf("%v %+v", reason, s)
		}
		own := s.Ends
		r.want(segment(own.Reverse(), tcpSegment{seq: 900, ack: 101, flags: tcpSYN | tcpACK, window: 9, scale: 7}), Known,
			got.Reverse())
		r.want(segment(got, tcpSegment{seq: 101, ack: 901, flags: tcpACK, window: 9, scale: -1}), Known, own)

		// The first flow has not noticed.
		r.want(segment(sent, tcpSegment{seq: 101, ack: 501, flags: tcpACK, window: 1000, scale: -1, payload: 9}), Known, got)
		r.want(segment(got.Reverse(), back), Known, sent.Reverse())
		if st := r.tab.Stats(); st.Entries != 2 || st.Translated != 2 || st.Aliases != 2 || st.Collided != 1 {
			t.Fatalf("%+v", st)
		}
		r.drained()
		r.lefts(1, true)
	})
}

// TestHairpinOnOnePort: a pod that reaches itself by its service, all ports being the same: its answers would look as
// its own packets do, so it gets another source port.
func TestHairpinOnOnePort(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = &Translation{Dst: r.a, DstPort: 53, Src: v, Backend: 1}
		p := r.udp(r.a, 53, v, 53)
		s, reason := r.see(p)
		if reason != verdict.None || s.Ends.Src != v || s.Ends.Dst != r.a || s.Ends.SrcPort == 53 {
			t.Fatalf("%v %+v", reason, s.Ends)
		}
		r.want(p, Known, s.Ends)
		r.want(r.from(packet.ProtoUDP, s.Ends.Reverse(), udpBytes(1, 2, 3)), Known, p.Ends().Reverse())
		r.drained()
	})
}

// TestExhausted: no port is left, or the protocol has none.
func TestExhausted(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		v := r.front(1)
		r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, DstPort: 80, FirstPort: 100, LastPort: 102, Random: true}
		ports := map[uint16]bool{}
		for port := range uint16(3) {
			s, reason := r.see(r.udp(r.a, 5000+port, v, 80))
			if reason != verdict.None || ports[s.Ends.SrcPort] || s.Ends.SrcPort < 100 || s.Ends.SrcPort > 102 {
				t.Fatal(reason, s.Ends)
			}
			ports[s.Ends.SrcPort] = true
		}
		r.refused(r.udp(r.a, 5003, v, 80), verdict.NATPortsExhausted)
		r.frontends[v].Random = false
		if s, reason := r.see(r.udp(r.a, 5003, v, 80)); reason != verdict.None || s.Ends.SrcPort != 5003 {
			t.Fatal("its own port is free", reason)
		}
		r.refused(r.udp(r.other, 5003, v, 80), verdict.NATPortsExhausted)
		gre := func(src packet.Addr) *packet.Packet {
			return r.from(47, packet.Ends{Src: src, Dst: v}, make([]byte, 8))
		}
		r.frontends[v] = &Translation{Src: r.snat, Dst: r.b}
		if _, reason := r.see(gre(r.a)); reason != verdict.None {
			t.Fatal(reason)
		}
		r.refused(gre(r.other), verdict.NATPortsExhausted)
		if st := r.tab.Stats(); st.Exhausted != 3 {
			t.Fatalf("%+v", st)
		}
		r.now += 31 * second // a port that is not used any more is free
		r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, DstPort: 80, FirstPort: 100, LastPort: 100, Random: true}
		if s, reason := r.see(r.udp(r.a, 5009, v, 80)); reason != verdict.None || s.Ends.SrcPort != 100 {
			t.Fatal(reason)
		}
		r.drained()
	})
}

// TestTimestamp: its identifier remains as it is.
func TestTimestamp(t *testing.T) {
	r := newNATRig(t, false, Config{})
	v := r.front(1)
	r.frontends[v] = &Translation{Src: r.snat, Dst: r.b, Random: true}
	ask := func(src packet.Addr) *packet.Packet {
		return r.from(packet.ProtoICMP, packet.Ends{Src: src, Dst: v}, icmpBytes(13, 7))
	}
	r.want(ask(r.a), NewFlow, packet.Ends{Src: r.snat, Dst: r.b})
	r.want(r.from(packet.ProtoICMP, packet.Ends{Src: r.b, Dst: r.snat}, icmpBytes(14, 7)), Known,
		packet.Ends{Src: v, Dst: r.a})
	r.refused(ask(r.other), verdict.NATPortsExhausted)
	r.drained()
}

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
