// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A dialogue is lines of
//
//	who flags seq [ack n] [win n] [ws n] [len n]: outcome state
//
// where who is c(lient) or s(erver), flags are letters of S F R A P U or "-", and outcome is a status or a reason.
var dialogues = map[string]string{
	"handshake, data, orderly end": `
		c S 100 win 1000 ws 2: new syn_sent
		s SA 500 ack 101 win 2000 ws 3: known syn_received
		c A 101 ack 501 win 500: known established
		c PA 101 ack 501 win 500 len 300: known established
		s A 501 ack 401 win 500: known established
		s A 501 ack 401 win 500 len 1000: known established
		c A 401 ack 1501 win 500: known established
		c FA 401 ack 1501 win 500: known fin_wait
		s A 1501 ack 402 win 500: known close_wait
		s A 1501 ack 402 win 500 len 10: known close_wait
		s FA 1511 ack 402 win 500: known last_ack
		c A 402 ack 1512 win 500: known time_wait
		s FA 1511 ack 402 win 500: known time_wait
		c A 402 ack 1512 win 500: known time_wait`,
	"server ends": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s FA 501 ack 101 win 1000: known fin_wait
		c A 101 ack 502 win 1000: known close_wait
		c FA 101 ack 502 win 1000: known last_ack
		s A 502 ack 102 win 1000: known time_wait`,
	"both end at once": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		c FA 101 ack 501 win 1000: known fin_wait
		s FA 501 ack 101 win 1000: known last_ack
		s A 502 ack 102 win 1000: known last_ack
		c A 102 ack 502 win 1000: known time_wait`,
	"simultaneous open": `
		c S 100 win 1000: new syn_sent
		s S 500 win 1000: known syn_sent2
		c S 100 win 1000: known syn_sent2
		c SA 100 ack 501 win 1000: known syn_received
		s SA 500 ack 101 win 1000: known established
		c A 101 ack 501 win 1000 len 5: known established`,
	"simultaneous open, bare acknowledgments": `
		c S 100 win 1000: new syn_sent
		s S 500 win 1000: known syn_sent2
		c A 101 ack 501 win 1000: known syn_sent2
		s A 501 ack 101 win 1000: known established`,
	"retransmissions and keep-alives": `
		c S 100 win 1000: new syn_sent
		c S 100 win 1000: known syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c S 100 win 1000: known syn_received
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s SA 500 ack 101 win 2000: known established
		c A 101 ack 501 win 1000 len 100: known established
		c A 101 ack 501 win 1000 len 100: known established
		s A 501 ack 201 win 1000: known established
		c A 200 ack 501 win 1000: known established
		c A 200 ack 501 win 1000 len 1: known established`,
	"a new attempt with another number": `
		c S 100 win 1000: new syn_sent
		c S 9000000 win 1000: known syn_sent
		s SA 500 ack 101 win 1000: tcp_out_of_window syn_sent
		s SA 500 ack 9000001 win 1000: known syn_received`,
	"wrong answers to a SYN": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 100 win 1000: tcp_out_of_window syn_sent
		s SA 500 ack 102 win 1000: tcp_out_of_window syn_sent
		s R 0: tcp_out_of_window syn_sent
		s RA 0 ack 102: tcp_out_of_window syn_sent
		c SA 100 ack 501 win 1000: tcp_out_of_window syn_sent
		c A 101 ack 501 win 1000: tcp_out_of_window syn_sent
		s RA 0 ack 101: known closed`,
	"the final ACK of who has not seen the SYN-ACK": `
		c S 100 win 1000: new syn_sent
		s SA 5000000 ack 101 win 1000: known syn_received
		c A 101 ack 4990000 win 1000: known syn_received
		c A 101 ack 5000002 win 1000: tcp_out_of_window syn_received
		c A 101 ack 5000001 win 1000: known established`,
	"windows": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		c A 2101 ack 501 win 1000 len 1: known established
		c A 2103 ack 501 win 1000 len 1: tcp_out_of_window established
		s A 501 ack 2103 win 2000: tcp_out_of_window established
		s A 501 ack 2102 win 2000: known established
		c A 4102 ack 501 win 1000 len 1: known established
		c A 3999 ack 501 win 1000 len 1: known established
		c A 99 ack 501 win 1000 len 1: tcp_out_of_window established
		s A 1502 ack 2102 win 2000: tcp_out_of_window established`,
	"a scale counts when both offer it": `
		c S 100 win 1000 ws 7: new syn_sent
		s SA 500 ack 101 win 1000: known syn_received
		c A 101 ack 501 win 1000: known established
		s A 1526 ack 101 win 1000: tcp_out_of_window established`,
	"a scaled window": `
		c S 100 win 1000 ws 7: new syn_sent
		s SA 500 ack 101 win 1000 ws 0: known syn_received
		c A 101 ack 501 win 1000: known established
		s A 128501 ack 101 win 1000: known established
		s A 128502 ack 101 win 1000: tcp_out_of_window established`,
	"sequence numbers wrap": `
		c S 4294967290 win 1000: new syn_sent
		s SA 4294967295 ack 4294967291 win 1000: known syn_received
		c A 4294967291 ack 0 win 1000 len 100: known established
		s A 0 ack 95 win 1000 len 50: known established
		c A 95 ack 50 win 1000: known established`,
	"RST": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s R 400: tcp_out_of_window established
		s R 1600: tcp_out_of_window established
		s R 600: known established
		s A 501 ack 101 win 2000 len 10: known established
		s R 511: known closed
		c R 101: known closed`,
	"RST with what was acknowledged, data on its way": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s A 501 ack 101 win 2000 len 100: known established
		s R 501: known closed`,
	"client gives up": `
		c S 100 win 1000: new syn_sent
		c R 99: tcp_out_of_window syn_sent
		c R 101: known closed`,
	"SYN on what stands": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		c S 77777777 win 1000: known established
		s A 501 ack 101 win 2000: known established
		c R 101: known closed
		c S 77777777 win 1000: new syn_sent`,
	"both ends have forgotten what stands, and begin anew": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s SA 90000000 ack 77777778 win 1000: known established
		c S 77777777 win 1000 ws 2: known established
		s SA 90000000 ack 77777779 win 1000 ws 3: known established
		s SA 90000000 ack 77777778 win 1000 ws 3: known syn_received
		s SA 90000000 ack 77777778 win 1000 ws 3: known syn_received
		c A 77777778 ack 90000001 win 500: known established
		s A 90000001 ack 77777778 win 125 len 1000: known established
		c FA 77777778 ack 90001001 win 500: known fin_wait
		s A 501 ack 101 win 2000: tcp_out_of_window fin_wait`,
	"who was asked does not begin anew on what stands": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c A 101 ack 501 win 1000: known established
		s S 90000000 win 1000: known established
		c SA 77777777 ack 90000001 win 1000: known established
		s A 90000001 ack 77777778 win 1000: tcp_out_of_window established
		c A 101 ack 501 win 1000: known established`,
	"an old connection of the server alone": `
		c S 100 win 1000: new syn_sent
		s A 7000000 ack 8000000 win 100: known syn_sent
		c R 8000000: known syn_sent
		c S 100 win 1000: known syn_sent
		s SA 500 ack 101 win 1000: known syn_received`,
	"time wait is opened again, from either end": `
		c S 100 win 1000: new syn_sent
		s SA 500 ack 101 win 2000: known syn_received
		c FA 101 ack 501 win 1000: known fin_wait
		s FA 501 ack 102 win 1000: known last_ack
		c A 102 ack 502 win 1000: known time_wait
		c R 102: known time_wait
		s S 9000 win 1000: new syn_sent
		c SA 700 ack 9001 win 1000: known syn_received`,
	"flags that do not go together": `
		c - 100: bad_tcp_flags none
		c SF 100: bad_tcp_flags none
		c SR 100: bad_tcp_flags none
		c FR 100: bad_tcp_flags none
		c F 100: bad_tcp_flags none
		c P 100: bad_tcp_flags none
		c U 100: bad_tcp_flags none
		c SFA 100 ack 1: bad_tcp_flags none
		c SPAUF 100 ack 1: bad_tcp_flags none
		c SU 100 win 100: new syn_sent
		c SF 100: bad_tcp_flags syn_sent`,
	"no flow": `
		c R 100: tcp_without_flow none
		c RA 100 ack 5: tcp_without_flow none
		s SA 100 ack 5: tcp_without_flow none`,
	"picked up in mid-stream": `
		c A 5000 ack 9000 win 100 len 10: new picked_up
		c A 5010 ack 9000 win 100 len 10: known picked_up
		s A 9000 ack 5020 win 100 len 1000: known established
		c A 5020 ack 10000 win 100: known established
		s R 10000: known closed`,
	"picked up at the end": `
		c FA 5000 ack 9000 win 100: new picked_up
		s A 9000 ack 5001 win 100: known close_wait
		s FA 9000 ack 5001 win 100: known last_ack
		c A 5001 ack 9001 win 100: known time_wait`,
	"picked up, and segments come again before the other end speaks": `
		c A 5000 ack 9000 win 100 len 10: new picked_up
		c A 5010 ack 9000 win 100 len 10: known picked_up
		c A 5000 ack 9000 win 100 len 10: known picked_up
		c A 5020 ack 9100 win 100 len 10: known picked_up
		s A 9100 ack 5030 win 100: known established`,
	"picked up, and the other end begins anew": `
		c A 5000 ack 9000 win 100 len 10: new picked_up
		c S 7000 win 100: known picked_up
		s S 3000 win 100: new syn_sent
		c SA 7000 ack 3001 win 100: known syn_received`,
	"picked up, and the other end knows nothing of it": `
		c A 5000 ack 9000 win 100 len 10: new picked_up
		s R 8999: tcp_out_of_window picked_up
		s R 9000: known closed`,
}

func TestTCP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range dialogues {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, v6, Config{Flows: 64})
				for line := range strings.Lines(strings.TrimSpace(text)) {
					r.speak(strings.TrimSpace(line))
				}
			})
		}
	})
}

// segment reads what one says.
func (r *rig) segment(say string) *packet.Packet {
	words := strings.Fields(say)
	s := tcpSegment{src: 40000, dst: 80, scale: -1}
	if words[0] == "s" {
		s.src, s.dst = s.dst, s.src
	}
	for _, c := range words[1] {
		s.flags |= map[rune]uint8{'F': 1, 'S': 2, 'R': 4, 'P': 8, 'A': 16, 'U': 32}[c]
	}
	fmt.Sscan(words[2], &s.seq)
	for i := 3; i < len(words); i += 2 {
		into := map[string]any{"ack": &s.ack, "win": &s.window, "ws": &s.scale, "len": &s.payload}[words[i]]
		if _, err := fmt.Sscan(words[i+1], into); err != nil {
			r.t.Fatalf("%s: %v", say, err)
		}
	}
	return r.packet(words[0][0], packet.ProtoTCP, s.bytes())
}

func (r *rig) speak(line string) {
	r.t.Helper()
	say, want, _ := strings.Cut(line, ": ")
	s, reason := r.see(r.segment(say))
	outcome := s.Status.String()
	if reason != verdict.None {
		outcome = reason.String()
	}
	if got := outcome + " " + r.state(); got != want {
		r.t.Fatalf("%s: %s, want %s", say, got, want)
	}
}

func (r *rig) speakAll(text string) {
	r.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		r.speak(strings.TrimSpace(line))
	}
}

const opened = `
	c S 100 win 1000: new syn_sent
	s SA 500 ack 101 win 2000: known syn_received
	c A 101 ack 501 win 1000: known established`

// TestForgedAnew: who is not at an end begins nothing anew, and a source's unanswered flows are counted all the same.
func TestForgedAnew(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		const unanswered = "c S 7000 win 1000: known established"
		r := newRig(t, v6, Config{Flows: 64})
		r.speakAll(opened)
		r.tab.seen(r.segment("c S 5000 win 1000"), portA+portB, r.now, 1)
		r.speak("s SA 9000 ack 5001 win 1000: known established")
		r.speak(unanswered)
		r.tab.seen(r.segment("s SA 9000 ack 7001 win 1000"), portA+portB, r.now, 1)
		r.speakAll(`
			c A 101 ack 501 win 1000: known established
			s SA 9000 ack 7001 win 1000: known syn_received`)
		a, b := r.tab.limits.source(r.a)
		if a.Load() != 1 || b.Load() != 1 {
			t.Errorf("%d and %d unanswered", a.Load(), b.Load())
		}
		r.speak("c A 7001 ack 9001 win 1000: known established")
		if a.Load() != 0 || b.Load() != 0 {
			t.Errorf("%d and %d unanswered", a.Load(), b.Load())
		}
		r.sound()
	})
}

// TestLoose: for a while after the dataplane has begun, either end may take up what stood before.
func TestLoose(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64, Loose: start + second})
	p := r.segment("s A 9000 ack 5000 win 100")
	s := r.tab.seen(p, portB, r.now, 1)
	if s.Tuple.Src != r.a || s.Tuple.DstPort != 80 || !s.Reply {
		t.Fatalf("turned: %+v", s)
	}
	if reason := r.tab.Open(&s, p, portB, portA, r.now, 1, 42); reason != verdict.None {
		t.Fatal(reason)
	}
	r.speakAll(`
		s A 9000 ack 5000 win 100: known picked_up
		c A 5000 ack 9000 win 100: known established`)
	for f := range r.tab.All(r.now) {
		if f.Tuple.Src != r.a || f.In != portA || f.Out != portB || f.Sent.Packets != 1 || f.Replied.Packets != 2 {
			t.Fatalf("%+v", f)
		}
	}
	r = newRig(t, true, Config{Flows: 64, Loose: start + second})
	s, _ = r.see(r.segment("s SA 500 ack 101 win 2000 ws 3"))
	if s.Status != NewFlow || !s.Reply || s.Tuple.Src != r.a || r.state() != "picked_up" {
		t.Fatalf("%+v %s", s, r.state())
	}
	r.speak("c A 101 ack 501 win 10: known established")
	r = newRig(t, false, Config{Flows: 64, Loose: start})
	if s, reason := r.see(r.segment("c A 101 ack 501 win 10")); s.Either || reason != verdict.None {
		t.Fatal("still loose")
	}
}

// TestFragmentedTCP: a first fragment moves the window as far as it may reach, and never further.
func TestFragmentedTCP(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64})
	r.speakAll(opened)
	p := r.segment("c A 101 ack 501 win 1000 len 8")
	p.Flags |= packet.Fragment | packet.FirstFragment
	if s, reason := r.see(p); s.Status != Known {
		t.Fatal(reason)
	}
	p.Flags, p.L4 = packet.Fragment, 0
	if s, reason := r.see(p); s.Status != Known {
		t.Fatal(reason)
	}
	r.speakAll(`
		s A 501 ack 2102 win 1000: tcp_out_of_window established
		s A 501 ack 2101 win 1000: known established
		c A 2101 ack 501 win 1000 len 5: known established`)
	p.SrcPort++
	if _, reason := r.see(p); reason != verdict.TCPWithoutFlow {
		t.Fatal(reason)
	}
}
