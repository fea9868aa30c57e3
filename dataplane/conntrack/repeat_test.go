// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestRepeat: a port that floods has to repeat its SYNs, and who does gets through; other ports do not notice.
func TestRepeat(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		const flows = 1 << 13
		r := newRig(t, v6, Config{Flows: flows, PerPort: flows})
		flood := r.segment("c S 100 win 1000 ws 7")
		spoof := func(i int) verdict.Reason {
			flood.Src = packet.Addr4(uint32(i)*2654435761 | 1)
			if v6 {
				flood.Src = packet.Addr{Hi: 0x20010db8<<32 | 77, Lo: uint64(i) * 0x9e3779b97f4a7c15}
			}
			s := r.tab.seen(flood, portA, r.now, 1)
			if s.Status == NewFlow {
				return r.tab.Open(&s, flood, portA, portB, r.now, 1, 1)
			}
			return s.Reason
		}
		passed := 0
		for i := range 20 * flows {
			if spoof(i) == verdict.None {
				passed++
			}
			r.now += 1000
		}
		if want := flows / floodShare; passed < want || passed > want+want/10 {
			t.Errorf("%d SYNs of a flood passed, want %d and few more", passed, want)
		}
		syn := r.segment("c S 100 win 1000 ws 2")
		for _, step := range []struct {
			after  int64
			reason verdict.Reason
		}{{0, verdict.SYNFlood}, {second / 100, verdict.SYNFlood}} { // a copy is no repetition
			r.now += step.after
			if _, reason := r.see(syn); reason != step.reason {
				t.Fatalf("a connection request: %v", reason)
			}
		}
		for i := range 4 * flows { // the flood goes on meanwhile
			spoof(100*flows + i)
		}
		r.now += second
		if s, reason := r.see(syn); s.Status != NewFlow || reason != verdict.None {
			t.Fatalf("repeated, it does not pass: %v", reason)
		}
		r.handshake("s SA 500 ack 101 win 1000 ws 3\nc A 101 ack 501 win 1000")
		flood.Src.Lo ^= 1 << 20
		if s := r.tab.seen(flood, portB, r.now, 1); s.Status != NewFlow {
			t.Errorf("another port's: %v", s.Reason)
		}
		late := r.segment("c S 900 win 1000")
		if _, reason := r.see(late); reason != verdict.None { // of the flow that stands: a challenge is its end's affair
			t.Errorf("a SYN on a flow: %v", reason)
		}
		r.now += 62 * second // the flood is over
		for range 64 {
			r.tab.Sweep(r.now, 0, 1)
		}
		r.a.Lo++
		if _, reason := r.see(r.segment("c S 100 win 1000")); reason != verdict.None {
			t.Errorf("after the flood: %v", reason)
		}
		st := r.tab.Stats()
		if st.Unrepeated < 20*flows || st.Opened-st.Closed() != uint64(st.Entries) {
			t.Errorf("%+v", st)
		}
		for i := range r.tab.limits.ports {
			if n := r.tab.limits.ports[i].handshakes.Load(); n < 0 || n > 1 {
				t.Errorf("port %d has %d handshakes", i, n)
			}
		}
	})
}

// TestOthersCannotHaveAPortRepeat: answers that nobody asked for, which are let through while what was open before may
// be taken up, are no handshakes of the port that they go to.
func TestOthersCannotHaveAPortRepeat(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		const flows = 1 << 13
		r := newRig(t, v6, Config{Flows: flows, PerPort: flows, PerSource: flows, Loose: start + 60*second})
		answer := r.segment("s SA 500 ack 101 win 1000 ws 3")
		for port := range uint16(2 * flows / floodShare) {
			answer.SrcPort = 1000 + port
			if s, reason := r.see(answer); s.Status != NewFlow || !s.Reply || reason != verdict.None {
				t.Fatalf("%+v, %v", s, reason)
			}
		}
		if _, reason := r.see(r.segment("c S 100 win 1000")); reason != verdict.None {
			t.Error(reason)
		}
		r.sound()
	})
}

// TestRepeatIsForgotten: what came long ago is no repetition.
func TestRepeatIsForgotten(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64})
	r.tab.limits.perFlood = 0
	syn := r.segment("c S 100 win 1000")
	for range 3 {
		if _, reason := r.see(syn); reason != verdict.SYNFlood {
			t.Fatal(reason)
		}
		r.now += 9 * second
	}
	if n := testing.AllocsPerRun(10, func() { r.see(syn) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
