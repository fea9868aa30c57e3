// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

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
