// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// udp sends one from the client's port, or the answer to it.
func (r *rig) udp(from byte, port uint16) (Seen, verdict.Reason) {
	r.t.Helper()
	if from == 'c' {
		return r.see(r.packet('c', packet.ProtoUDP, udpBytes(port, 53, 20)))
	}
	return r.see(r.packet('s', packet.ProtoUDP, udpBytes(53, port, 20)))
}

// known says whether the client's next packet is of a flow.
func (r *rig) known(port uint16) bool {
	r.t.Helper()
	p := r.packet('c', packet.ProtoUDP, udpBytes(port, 53, 20))
	return r.tab.seen(p, portA, r.now, 1).Status == Known
}

// full is a table of 8 with flows of ports 1 to 8 that are streams.
func full(t *testing.T) *rig {
	r := newRig(t, false, Config{Flows: 8, PerPort: 100, PerSource: 100})
	for port := range uint16(8) {
		r.udp('c', port+1)
		r.udp('s', port+1)
	}
	r.now += 3 * second
	for port := range uint16(8) {
		r.udp('c', port+1)
	}
	return r
}

func TestWhoMakesWay(t *testing.T) {
	t.Run("nobody who was active", func(t *testing.T) {
		r := full(t)
		for range 100 {
			if _, reason := r.udp('c', 100); reason != verdict.FlowTableFull {
				t.Fatal(reason)
			}
		}
		if st := r.tab.Stats(); st.Entries != 8 || st.RefusedFull != 100 {
			t.Fatalf("%+v", st)
		}
	})
	t.Run("the most idle", func(t *testing.T) {
		r := full(t)
		for port := range uint16(8) {
			if port+1 != 5 {
				r.now += second / 10
				r.udp('c', port+1)
			}
		}
		r.now += 20 * second
		if _, reason := r.udp('c', 100); reason != verdict.None {
			t.Fatal(reason)
		}
		if r.known(5) || !r.known(1) || r.tab.Stats().EvictedIdle != 1 {
			t.Fatalf("%+v", r.tab.Stats())
		}
	})
	t.Run("the oldest half-open before the idle", func(t *testing.T) {
		r := newRig(t, false, Config{Flows: 8, PerPort: 100, PerSource: 100})
		for port := range uint16(8) {
			r.udp('c', port+1)
			if port > 2 {
				r.udp('s', port+1)
			}
		}
		r.now += 3 * second
		for port := range uint16(5) {
			r.udp('c', port+4)
		}
		r.now += 25 * second
		r.udp('c', 100)
		if r.known(1) || !r.known(2) || !r.known(3) || !r.known(8) || r.tab.Stats().EvictedHalfOpen != 1 {
			t.Fatalf("%+v", r.tab.Stats())
		}
		r.udp('c', 101)
		if r.known(2) || !r.known(3) {
			t.Fatal("not the oldest")
		}
	})
	t.Run("what is over behind what goes on", func(t *testing.T) {
		r := newRig(t, false, Config{Flows: 8, PerPort: 100, PerSource: 100})
		r.see(r.query('c', "echo", 5)) // and again each second, as ping does
		r.see(r.query('s', "reply", 5))
		r.speakAll(`
			c S 100 win 1000: new syn_sent
			s RA 0 ack 101: known closed`)
		for port := range uint16(6) {
			r.udp('c', port+1)
		}
		for range 3 {
			r.now += second
			r.see(r.query('c', "echo", 5))
		}
		r.udp('c', 100)
		if st := r.tab.Stats(); !r.known(1) || st.EvictedDone != 1 || st.States["icmp_answered"] != 1 {
			t.Fatalf("%+v", st)
		}
	})
	t.Run("what is revoked no sooner than others", func(t *testing.T) {
		r := newRig(t, false, Config{Flows: 8, PerPort: 100, PerSource: 100})
		for port := range uint16(7) {
			r.udp('c', port+1)
			r.udp('s', port+1)
		}
		r.speakAll(opened)
		r.now += 3 * second
		for port := range uint16(7) {
			r.udp('c', port+1)
		}
		r.now += 20 * second
		s := r.tab.seen(r.segment("c A 101 ack 501 win 1000"), portA, r.now, 2)
		r.tab.Revoke(&s, 2, verdict.EgressDenied)
		for f := range r.tab.All(r.now) {
			if f.State == "revoked" && f.Idle != 0 {
				t.Errorf("%+v", f)
			}
		}
		if _, reason := r.udp('c', 100); reason != verdict.None || r.tab.Stats().EvictedIdle != 1 {
			t.Fatal(reason, r.tab.Stats())
		}
		if s := r.tab.seen(r.segment("s A 501 ack 101 win 2000 len 10"), portB, r.now, 2); s.Status != Invalid {
			t.Fatalf("what was revoked opens the other way round: %+v", s)
		}
	})
	t.Run("what is over before the half-open", func(t *testing.T) {
		r := newRig(t, false, Config{Flows: 8, PerPort: 100, PerSource: 100})
		r.speakAll(opened + `
			s R 501: known closed`)
		for port := range uint16(7) {
			r.udp('c', port+1)
		}
		r.udp('c', 100)
		if !r.known(1) || r.tab.Stats().EvictedDone != 1 {
			t.Fatalf("%+v", r.tab.Stats())
		}
	})
}

func TestPortLimit(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64, PerPort: 3, PerSource: 100})
	for port := range uint16(3) {
		r.udp('c', port)
	}
	if _, reason := r.udp('c', 99); reason != verdict.FlowLimit {
		t.Fatal(reason)
	}
	if _, reason := r.see(r.segment("c S 1 win 1")); reason != verdict.FlowLimit {
		t.Fatal(reason)
	}
	if _, reason := r.see(r.packet('s', packet.ProtoUDP, udpBytes(1, 2, 3))); reason != verdict.None {
		t.Fatal("another port has a limit of its own:", reason)
	}
	r.now += 31 * second
	r.tab.Sweep(r.now, 0, 1)
	for range 64 {
		r.tab.Sweep(r.now, 0, 1)
	}
	if _, reason := r.udp('c', 99); reason != verdict.None {
		t.Fatal(reason)
	}
	if st := r.tab.Stats(); st.RefusedPort != 2 {
		t.Fatalf("%+v", st)
	}
}

func TestSourceLimit(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64, PerSource: 3})
		for port := range uint16(3) {
			r.udp('c', port)
		}
		if _, reason := r.udp('c', 99); reason != verdict.SourceLimit || r.tab.Stats().RefusedSource != 1 {
			t.Fatal(reason)
		}
		r.udp('s', 1) // an answer
		if _, reason := r.udp('c', 99); reason != verdict.None {
			t.Fatal(reason)
		}
		if _, reason := r.udp('s', 3000); reason != verdict.None {
			t.Fatal("another source:", reason)
		}
		r.udp('c', 3001)
		if _, reason := r.see(r.segment("c S 100 win 10")); reason != verdict.None || r.tab.Stats().Fingerprints != 1 {
			t.Fatal("a SYN gets a fingerprint:", reason)
		}
	})
}

// TestTakenUpForOthers: what others have taken up as if a source had opened it leaves the source half of what it may.
func TestTakenUpForOthers(t *testing.T) {
	r := newRig(t, false, Config{Flows: 256, PerPort: 256, PerSource: 20, Loose: start + second})
	p := r.segment("s A 9000 ack 5000 win 100")
	for port := range uint16(40) {
		p.SrcPort = 1000 + port
		s := r.tab.seen(p, portB, r.now, 1)
		want := verdict.None
		if port >= 10 {
			want = verdict.SourceLimit
		}
		if reason := r.tab.Open(&s, p, portB, portA, r.now, 1, 42); reason != want {
			t.Fatal(port, reason)
		}
	}
	for port := range uint16(10) {
		if _, reason := r.udp('c', port+1); reason != verdict.None {
			t.Fatal(reason)
		}
	}
	if _, reason := r.udp('c', 100); reason != verdict.SourceLimit {
		t.Fatal(reason)
	}
}

func TestFingerprint(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		r.tab.limits.perSource = 0 // every SYN gets one
		r.speakAll(`
			c S 100 win 1000 ws 2: new none
			s SA 500 ack 102 win 1000: tcp_without_flow none
			s A 500 ack 101 win 1000: tcp_without_flow none
			s R 500: tcp_without_flow none
			c SA 500 ack 101 win 1000: tcp_without_flow none`)
		s, reason := r.see(r.segment("s SA 500 ack 101 win 2000 ws 3"))
		if s.Status != NewFlow || !s.Reply || s.Tuple.Src != r.a || s.Tuple.DstPort != 80 || reason != verdict.None {
			t.Fatalf("%+v %v", s, reason)
		}
		r.speakAll(`
			s SA 500 ack 101 win 2000 ws 3: known syn_received
			c A 101 ack 501 win 500: known established
			s A 2501 ack 101 win 100: known established
			s A 66100 ack 101 win 100 len 1: tcp_out_of_window established`)
		for f := range r.tab.All(r.now) {
			if f.Tuple.Src != r.a || f.In != portA || f.Out != portB {
				t.Fatalf("%+v", f)
			}
		}
		if st := r.tab.Stats(); st.Fingerprints != 1 || st.Answered != 1 || st.HalfOpen != 0 || st.Entries != 1 {
			t.Fatalf("%+v", st)
		}
	})
}

func TestFingerprintEnds(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64})
	r.tab.limits.perSource = 0
	r.speak("c S 100 win 1000: new none")
	r.now += int64(markLife) + 2*second
	r.speak("s SA 500 ack 101 win 1000: tcp_without_flow none")
	r.speakAll(`
		c S 100 win 1000: new none
		s RA 0 ack 101: new none
		s RA 0 ack 101: tcp_without_flow none`)
}

// TestFlood: ten times as many SYNs as there are entries, of as many sources; what is established and active stays,
// and who is answered gets through.
func TestFlood(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		const flows = 1 << 13
		r := newRig(t, v6, Config{Flows: flows, PerPort: 2 * flows})
		r.tab.limits.perFlood = flows // this is about what comes behind: see repeat_test.go
		streams := flows / 2
		for i := range streams {
			r.udp('c', uint16(i))
			r.udp('s', uint16(i))
		}
		r.now += 3 * second
		for i := range streams {
			r.udp('s', uint16(i))
		}
		r.handshake(opened)
		r.now += 2 * second
		flood := r.segment("c S 100 win 1000 ws 7")
		spoof := func(i int) {
			flood.Src = packet.Addr4(uint32(i)*2654435761 | 1)
			if v6 {
				flood.Src = packet.Addr{Hi: 0x20010db8<<32 | 77, Lo: uint64(i) * 0x9e3779b97f4a7c15}
			}
			if s := r.tab.seen(flood, portB, r.now, 1); s.Status == NewFlow {
				r.tab.Open(&s, flood, portB, portA, r.now, 1, 1)
			}
		}
		for i := range 10 * flows {
			spoof(i)
		}
		r.a.Lo++ // another client
		syn := r.segment("c S 100 win 1000 ws 2")
		if _, reason := r.see(syn); reason != verdict.None {
			t.Fatal(reason)
		}
		for i := range flows / 2 {
			spoof(20*flows + i)
		}
		if s, _ := r.see(r.segment("s SA 500 ack 101 win 1000 ws 3")); s.Status != NewFlow || !s.Reply {
			t.Fatalf("the answer does not get through: %+v", s)
		}
		if s, _ := r.see(r.segment("c A 101 ack 501 win 1000 len 100")); s.Status != Known {
			t.Fatalf("the handshake does not end: %+v", s)
		}
		r.a.Lo--
		if s, _ := r.see(r.segment("c A 101 ack 501 win 1000 len 100")); s.Status != Known {
			t.Fatalf("an established connection is gone: %+v", s)
		}
		for i := range streams {
			if !r.known(uint16(i)) {
				t.Fatalf("stream %d is gone", i)
			}
		}
		st := r.tab.Stats()
		if st.EvictedIdle != 0 || st.Entries > flows || st.Fingerprints < 8*flows || st.RefusedFull != 0 {
			t.Fatalf("%+v", st)
		}
	})
}

// handshake is speakAll among other flows: states are not looked at.
func (r *rig) handshake(text string) {
	r.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		say, _, _ := strings.Cut(line, ":")
		if _, reason := r.see(r.segment(say)); reason != verdict.None {
			r.t.Fatal(say, reason)
		}
	}
}

// TestAnsweredFlood: the server answers every SYN of a flood, so that each gets an entry.
func TestAnsweredFlood(t *testing.T) {
	const flows = 1 << 12
	r := newRig(t, false, Config{Flows: flows, PerPort: 2 * flows})
	r.tab.limits.perFlood = flows
	r.handshake(opened)
	r.now += 20 * second // idle enough to make way
	client := r.a
	syn, answer := r.segment("c S 100 win 1000 ws 7"), r.segment("s SA 500 ack 101 win 1000 ws 7")
	for i := range uint32(10 * flows) {
		syn.Src = packet.Addr4(i*2654435761 | 1)
		answer.Dst = syn.Src
		for _, p := range []*packet.Packet{syn, answer} {
			if _, reason := r.see(p); reason != verdict.None {
				t.Fatal(reason)
			}
		}
	}
	r.a.Lo++
	r.handshake(opened)
	r.a = client
	if s, _ := r.see(r.segment("c A 101 ack 501 win 1000 len 100")); s.Status != Known {
		t.Fatalf("an established connection is gone: %+v", s)
	}
	if st := r.tab.Stats(); st.EvictedIdle != 0 || st.Entries != flows || st.States["established"] != 2 {
		t.Fatalf("%+v", st)
	}
	r.sound()
}

// TestShardsFillEvenly: nine tenths of a table can be used before one flow makes way for another.
func TestShardsFillEvenly(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		const flows = 1 << 16
		tab := New(Config{Flows: flows, PerPort: flows, PerSource: flows})
		p := benchPacket(t, packet.ProtoUDP)
		for i := range uint32(flows / 10 * 9) {
			benchFlow(p, v6, i, 0)
			s := tab.seen(p, portA, start, 1)
			if reason := tab.Open(&s, p, portA, portB, start, 1, 0); reason != verdict.None {
				t.Fatal(reason)
			}
		}
		if st := tab.Stats(); st.Capacity != flows || st.Opened != uint64(st.Entries) {
			t.Fatalf("%+v", st)
		}
	})
}
