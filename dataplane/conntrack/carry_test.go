// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// far is a connection that the kernel has carried a good way off from what was seen here.
const far = `
	c S 100 win 1000 ws 2: new syn_sent
	s SA 500 ack 101 win 2000 ws 3: known syn_received
	c A 101 ack 501 win 500: known established
	s A 501 ack 101 win 500: known established
	c A 101 ack 501 win 500 len 30000: carried established
	s A 501 ack 30101 win 500 len 40000: carried established
	c A 30101 ack 40501 win 500 len 30000: carried established
	s A 40501 ack 60101 win 500 len 40000: carried established
	c A 60101 ack 80501 win 500 len 30000: carried established
	s A 80501 ack 90101 win 500 len 40000: carried established
	c A 90101 ack 120501 win 500: carried established
`

// carriedDialogues begin with far.
var carriedDialogues = map[string]string{
	"orderly end": `
		c FA 90101 ack 120501 win 500: carried fin_wait
		s A 120501 ack 90102 win 500 len 1000: carried close_wait
		c A 90102 ack 121501 win 500: carried close_wait
		s FA 121501 ack 90102 win 500: carried last_ack
		s FA 121501 ack 90102 win 500: carried last_ack
		c A 90102 ack 121502 win 500: carried time_wait
		s FA 121501 ack 90102 win 500: known time_wait`,
	"the last data with the FIN": `
		s PA 120501 ack 90101 win 500 len 1000: carried established
		s FPA 121501 ack 90101 win 500 len 700: carried fin_wait
		c A 90101 ack 121501 win 500: carried fin_wait
		c FA 90101 ack 122202 win 500: carried last_ack
		s A 122202 ack 90102 win 500: carried time_wait`,
	"an acknowledgement that the kernel has not seen": `
		c FA 90101 ack 120501 win 500: carried fin_wait
		s FA 120501 ack 90102 win 500: carried last_ack
		c A 90102 ack 120502 win 500: carried time_wait`,
	"RST with the number that is expected": `
		s R 120501: known closed`,
	"RST after data that nobody has acknowledged": `
		c A 90101 ack 120501 win 500 len 20000: carried established
		c RA 110101 ack 120501: known established
		s A 120501 ack 110101 win 500: known established
		c R 110101: known closed`,
	"RST from elsewhere": `
		s R 501: tcp_out_of_window established
		s R 382646: tcp_out_of_window established
		c R 20000: tcp_out_of_window established
		c R 616000: tcp_out_of_window established
		c A 90101 ack 120501 win 500: carried established`,
	"RST within bounds": `
		s R 130000: known established
		s A 120501 ack 90101 win 500: known established
		c A 90101 ack 120501 win 500: known established
		c A 90101 ack 120501 win 500: carried established`,
	"SYN of somebody else": `
		c S 77 win 1000: known established
		c A 90101 ack 120501 win 500: carried established
		s A 120501 ack 90101 win 500: carried established`,
	"both have forgotten it": `
		c S 7000000 win 1000 ws 2: known established
		s SA 9000000 ack 7000001 win 1000 ws 2: known syn_received
		c A 7000001 ack 9000001 win 1000: known established
		c A 7000001 ack 9000001 win 1000 len 100: carried established
		s A 9000001 ack 7000101 win 1000: known established
		s A 9000001 ack 7000101 win 1000: carried established`,
	"FIN of somebody else has no effect": `
		s FA 2000000000 ack 90101 win 500: carried established
		c A 90101 ack 120501 win 500: carried established
		s A 120501 ack 90101 win 500: carried established
		s FA 120501 ack 90101 win 500: known fin_wait`,
	"FIN that acknowledges what was never sent": `
		c FA 90101 ack 2000000000 win 500: carried fin_wait
		s A 120501 ack 90102 win 500: carried close_wait`,
	"acknowledgements and RST of somebody who knows the ends alone": `
		c A 2000000000 ack 4000000000 win 500: carried established
		c R 130000: known established
		c A 2000000000 ack 4000000000 win 500: known established
		s A 120501 ack 90101 win 500 len 10: known established
		c A 90101 ack 120511 win 500: carried established
		s A 120511 ack 90101 win 500 len 10: carried established
		c FA 90101 ack 120521 win 500: carried fin_wait
		s FA 120521 ack 90102 win 500: carried last_ack
		c A 90102 ack 120522 win 500: carried time_wait`,
	"acknowledgement of what was never sent": `
		c A 90101 ack 2000000000 win 500: carried established
		s FA 120501 ack 90101 win 500: carried fin_wait
		c A 90101 ack 120502 win 500: carried close_wait`,
}

func TestCarriedTCP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range carriedDialogues {
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 8)
				r.speak(far)
				r.speak(text)
			})
		}
	})
}

// TestUncarriedTCP: the same connections where nothing is entered any more behind far: windows are right again.
func TestUncarriedTCP(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	r.speak(far)
	for f := range r.tab.Carried() {
		if !r.tab.Uncarry(f.ID) || r.tab.Uncarry(f.ID) {
			t.Fatal("not once")
		}
	}
	r.idle = true
	r.speak(`
		s A 120501 ack 90101 win 500 len 3000: known established
		c A 90101 ack 123501 win 500 len 3000: known established
		c A 2000000000 ack 123501 win 500 len 3000: tcp_out_of_window established
		s A 123501 ack 2000000000 win 500: tcp_out_of_window established
		s FA 123501 ack 93101 win 500: known fin_wait
		c FA 93101 ack 123502 win 500: known last_ack
		s A 123502 ack 93102 win 500: known time_wait`)
}

// TestCarriedCounts: what the kernel has carried is the flow's, as long as it carries it and behind that.
func TestCarriedCounts(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	r.speak(far)
	want := func(sent, replied Traffic, carried bool) {
		t.Helper()
		if f := r.flow(); f.Sent != sent || f.Replied != replied || f.Carried != carried {
			t.Fatalf("%+v, want %v %v %t", f, sent, replied, carried)
		}
	}
	sent, replied := Traffic{6, 44 + 5*40 + 3*30000}, Traffic{5, 44 + 4*40 + 3*40000}
	want(sent, replied, true)
	for f := range r.tab.Carried() {
		r.tab.Uncarry(f.ID)
	}
	want(sent, replied, false)
	r.speak("c A 90101 ack 120501 win 500: known established")
	sent.Packets, sent.Bytes = sent.Packets+1, sent.Bytes+40
	want(sent, replied, true)
	r.speak("c A 90101 ack 120501 win 500: carried established")
	sent.Packets, sent.Bytes = sent.Packets+1, sent.Bytes+40
	want(sent, replied, true)
}

// TestCarriedUDP: the second packet of a direction is the last that is seen, and the flow lives by what the kernel
// carries.
func TestCarriedUDP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 8)
		ask, answer := r.udp(r.a, 1000, r.b, 53), r.udp(r.b, 53, r.a, 1000)
		r.sends(ask, "new udp_unreplied")
		r.sends(ask, "known udp_unreplied")
		r.sends(ask, "carried udp_unreplied")
		r.sends(answer, "known udp_replied")
		r.sends(answer, "known udp_replied")
		r.sends(answer, "carried udp_replied")
		r.now += 3 * second
		r.sends(ask, "carried udp_stream")
		for range 20 {
			r.now += 100 * second
			for range sweepShare + 1 {
				r.tab.Sweep(r.now, 0, 1)
			}
			r.sends(answer, "carried udp_stream")
		}
		if f := r.flow(); f.Idle > 34*time.Millisecond || f.Expires < 119*time.Second || f.Replied.Packets != 23 {
			t.Fatalf("%+v", f)
		}
		r.now += 121 * second
		r.sends(ask, "carried udp_stream")
		r.now += 121 * second
		if r.state() != "none" {
			t.Fatal(r.state())
		}
		r.drained()
		r.soundCarried()
		if st := r.kernel.Stats(); st.Records != 0 {
			t.Fatalf("%+v", st)
		}
		r.sends(ask, "new udp_unreplied")
	})
}

func (r *carryRig) sends(p *packet.Packet, want string) {
	r.t.Helper()
	if _, outcome := r.send(p); outcome+" "+r.state() != want {
		r.t.Fatalf("%s %s, want %s", outcome, r.state(), want)
	}
	r.soundCarried()
}

// TestNotCarried: flows, and packets, that the kernel is not to carry.
func TestNotCarried(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 8)
		not := func(name string, p *packet.Packet, in packet.PortID) {
			t.Helper()
			if s := r.tab.seen(p, in, r.now, 1); s.Carry {
				t.Errorf("%s: may be carried", name)
			}
		}
		echo := r.query('c', "echo", 7)
		for range 3 {
			r.see(echo)
		}
		not("echo", echo, portA)
		r.see(r.packet('c', 47, make([]byte, 8)))
		not("GRE", r.packet('c', 47, make([]byte, 8)), portA)
		ask := r.udp(r.a, 1000, r.b, 53)
		r.see(ask)
		if s, _ := r.see(ask); !s.Carry {
			t.Fatalf("%+v", s)
		}
		not("from elsewhere", ask, portB)
		part := *ask
		part.Flags |= packet.Fragment
		not("a fragment", &part, portA)
		about := r.errorAbout(ask, r.a, 0)
		not("an error", about, portB)
		if s := r.tab.seen(ask, portA, r.now, 2); s.Carry || s.Status != Stale {
			t.Fatalf("%+v", s)
		}
		plain := newRig(t, v6, Config{Flows: 64})
		for range 3 {
			plain.see(ask)
		}
		if s, _ := plain.see(ask); s.Carry || plain.tab.Carry(&s, &offload.Way{In: portA, Out: portB}) {
			t.Fatal("there is no kernel")
		}
	})
}

// TestNoPorts: a flow without ports would read as a pair.
func TestNoPorts(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	p := r.udp(r.a, 0, r.b, 0)
	for range 4 {
		r.sends(p, map[bool]string{true: "new udp_unreplied", false: "known udp_unreplied"}[r.state() == "none"])
	}
	if st := r.kernel.Stats(); st.Records != 0 {
		t.Fatalf("%+v", st)
	}
}

// carriedUDP has a flow from a port carried in both directions.
func (r *carryRig) carriedUDP(port uint16) (ask, answer *packet.Packet) {
	r.t.Helper()
	ask, answer = r.udp(r.a, port, r.b, 53), r.udp(r.b, 53, r.a, port)
	for range 2 {
		r.send(ask)
	}
	for range 2 {
		r.send(answer)
	}
	for _, p := range []*packet.Packet{ask, answer} {
		if _, outcome := r.send(p); outcome != "carried" {
			r.t.Fatal(outcome)
		}
	}
	return ask, answer
}

// TestJudge: who goes over what is carried keeps flows or revokes them.
func TestJudge(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 8)
		ask, answer := r.carriedUDP(1000)
		denied, _ := r.carriedUDP(1001)
		n := 0
		for f := range r.tab.Carried() {
			n++
			if f.In != portA || f.Out != portB || f.Ways[0].In != portA || f.Ways[1].Out != portA || f.Generation != 1 ||
				f.Rule != 42 || f.Used == 0 || f.Near != f.Far || f.Near.SrcPort != f.Tuple.SrcPort {
				t.Fatalf("%+v", f)
			}
			why := verdict.None
			if f.Tuple.SrcPort == 1001 {
				why = verdict.IngressDenied
			}
			if !r.tab.Judge(f.ID, why, r.now, 2, 43) {
				t.Fatal("it was carried")
			}
			if r.tab.Judge(f.ID, why, r.now, 2, 43) == (why != verdict.None) {
				t.Fatal("a flow that is revoked is carried no longer")
			}
			r.soundCarried()
		}
		r.kernel.SetGeneration(2)
		if _, outcome := r.send(ask); outcome != "carried" || n != 2 {
			t.Fatal(outcome, n)
		}
		if _, outcome := r.send(answer); outcome != "carried" {
			t.Fatal(outcome)
		}
		if s := r.tab.seen(denied, portA, r.now, 2); s.Reason != verdict.IngressDenied {
			t.Fatalf("%+v", s)
		}
		if st := r.tab.Stats(); st.Revoked != 1 || r.kernel.Stats().Records != 1 {
			t.Fatalf("%+v", st)
		}
	})
}

// TestStaleRecord: a flow that comes here because its record is of old policy is carried again once policy has let it,
// and not when it has not.
func TestStaleRecord(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	ask, answer := r.carriedUDP(1000)
	r.kernel.SetGeneration(2)
	if _, ok := r.hook.Carry(hooked(ask, portA)); ok {
		t.Fatal("carried under old policy")
	}
	s := r.tab.seen(ask, portA, r.now, 2)
	r.tab.Keep(&s, 2, 7)
	if _, ok := r.hook.Carry(hooked(answer, portB)); !ok {
		t.Fatal("not carried")
	}
	r.soundCarried()
	s = r.tab.seen(ask, portA, r.now, 3)
	r.tab.Revoke(&s, 3, verdict.EgressDenied)
	if _, ok := r.hook.Carry(hooked(answer, portB)); ok || r.kernel.Stats().Records != 0 {
		t.Fatal("carried")
	}
	r.soundCarried()
}

// TestCarriedTranslation: what a hook makes of a packet is what Track says of it.
func TestCarriedTranslation(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for _, tr := range []Translation{
			{}, {Src: addr("10.9.0.1")}, {Random: true, FirstPort: 7, LastPort: 9}, {Backend: 3},
		} {
			r := newCarryRig(t, v6, Config{}, 8)
			v := r.front(1)
			if tr.Dst, tr.DstPort = r.b, 8080; tr.Src != (packet.Addr{}) {
				tr.Src = r.snat
			}
			r.frontends[v] = &tr
			ask := r.udp(r.a, 1000, v, 53)
			r.send(ask)
			s, _ := r.send(ask)
			to := s.Ends
			answer := r.udp(to.Dst, to.DstPort, to.Src, to.SrcPort)
			r.send(answer)
			back, _ := r.send(answer)
			for p, want := range map[*packet.Packet]packet.Ends{ask: to, answer: back.Ends} {
				in, _ := r.ports(p)
				if got, ok := r.hook.Carry(hooked(p, in)); !ok || got.Ends != want {
					t.Fatalf("%t, %+v, want %+v", ok, got.Ends, want)
				}
			}
			for f := range r.tab.Carried() {
				if f.Near != ask.Ends() || f.Far != to || f.Backend != tr.Backend {
					t.Fatalf("%+v", f)
				}
			}
			r.soundCarried()
			r.drained()
			r.soundCarried()
		}
	})
}

// TestEvicted: a flow whose record had to make way goes on here, with all that was counted, and windows that fit.
func TestEvicted(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 1)
		r.speak(far)
		r.now += 20 * second
		r.carriedUDP(1000) // takes the record
		for f := range r.tab.All(r.now) {
			if f.Tuple.Proto == packet.ProtoTCP && (f.Carried || f.Sent.Packets != 6 || f.Replied.Packets != 5) {
				t.Fatalf("%+v", f)
			}
		}
		if st := r.kernel.Stats(); st.Evicted != 1 {
			t.Fatalf("%+v", st)
		}
		for _, say := range []string{"c A 90101 ack 120501 win 500 len 30", "s A 120501 ack 90131 win 500 len 30"} {
			if _, outcome := r.send(r.segment(say)); outcome != "known" {
				t.Fatal(outcome)
			}
		}
		r.soundCarried()
	})
}

// TestClaim: packets of a flow are kept here, whatever pair there is, until it is gone.
func TestClaim(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{}, 8)
		pair := offload.Flow{Near: packet.Ends{Src: r.a, Dst: r.b}, Proto: packet.ProtoTCP, Generation: 1, Pair: true}
		pair.Far = pair.Near
		ref, _ := r.kernel.Enter(0, &pair, 0, &offload.Way{In: portA, Out: portB, MTU: someMTU})
		r.kernel.Enter(ref, &pair, 1, &offload.Way{In: portB, Out: portA, MTU: someMTU})
		v := r.front(1)
		r.frontends[v] = &Translation{Dst: r.b, DstPort: 80}
		one := func(flags uint8, seq, ack uint32) *packet.Packet {
			return r.from(packet.ProtoTCP, packet.Ends{Src: r.a, Dst: v, SrcPort: 40000, DstPort: 80},
				tcpSegment{src: 40000, dst: 80, seq: seq, ack: ack, flags: flags, window: 1000, scale: -1}.bytes())
		}
		s, _ := r.send(one(tcpSYN, 100, 0))
		if synAck := r.segment("s SA 500 ack 101 win 1000"); true {
			if _, ok := r.hook.Carry(hooked(synAck, portB)); ok {
				t.Fatal("the pair has the answer of a translated flow")
			}
			if !r.tab.Claim(&s) {
				t.Fatal("not claimed")
			}
			if got, outcome := r.send(synAck); outcome != "known" || got.Ends.Src != v {
				t.Fatal(outcome)
			}
		}
		r.soundCarried()
		if _, outcome := r.send(one(tcpACK, 101, 501)); outcome != "known" {
			t.Fatal(outcome)
		}
		for _, want := range []string{"known", "carried"} {
			if _, outcome := r.send(r.segment("s A 501 ack 101 win 1000")); outcome != want {
				t.Fatal(outcome)
			}
		}
		for f := range r.tab.Carried() {
			r.tab.Uncarry(f.ID)
		}
		if _, outcome := r.send(r.segment("s FA 501 ack 101 win 1000")); outcome != "known" {
			t.Fatal(outcome)
		}
		r.send(one(tcpFIN|tcpACK, 101, 502))
		if _, outcome := r.send(r.segment("s A 502 ack 102 win 1000")); outcome != "known" || r.state() != "time_wait" {
			t.Fatal(outcome, r.state())
		}
		r.soundCarried()
		r.drained()
		r.soundCarried()
		_, outcome := r.send(r.segment("s A 502 ack 102 win 1000"))
		if outcome != "carried" || r.kernel.Stats().Records != 1 {
			t.Fatal(outcome)
		}
	})
}

// TestErrorAboutCarried: errors about what the kernel has carried are the flow's.
func TestErrorAboutCarried(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 8)
		r.speak(far)
		for say, want := range map[string]string{
			"c A 90101 ack 120501 win 500 len 10":      "related",
			"c A 85000 ack 120501 win 500 len 10":      "related",
			"c A 120501 ack 120501 win 500 len 10":     "related",
			"c A 2000000000 ack 120501 win 500 len 10": "icmp_without_flow",
		} {
			if _, reason := r.see(r.errorAbout(r.segment(say), r.a, 0)); want == "related" && reason != verdict.None ||
				want != "related" && reason.String() != want {
				t.Errorf("%s: %v, want %s", say, reason, want)
			}
		}
	})
}

// TestErrorAfterRestart: errors are also about what the kernel carried before this process was, of which nothing came
// here.
func TestErrorAfterRestart(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{Flows: 64}, 8)
		r.speak(far)
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		for _, want := range []string{"new", "known", "carried"} {
			if _, outcome := r.send(ask); outcome != want {
				t.Fatal(outcome, want)
			}
		}
		if failed := r.restart(Config{Flows: 64}); failed != nil {
			t.Fatal(failed)
		}
		for _, p := range []*packet.Packet{r.segment("c A 90101 ack 120501 win 500 len 10"), ask} {
			if s, reason := r.see(r.errorAbout(p, r.a, 0)); s.Status != Related || reason != verdict.None {
				t.Errorf("%v: %v, %v", p.Proto, s.Status, reason)
			}
		}
	})
}

// TestForgetCarried: what is forgotten is not carried.
func TestForgetCarried(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	r.speak(far)
	_, answer := r.carriedUDP(1000)
	s := r.tab.seen(answer, portB, r.now, 1)
	r.tab.Drop(&s)
	r.soundCarried()
	if r.kernel.Stats().Records != 1 {
		t.Fatal("dropped and carried")
	}
	r.tab.Forget(map[packet.PortID]bool{portB: true})
	r.soundCarried()
	if st := r.kernel.Stats(); st.Records != 0 || r.tab.Entries() != 0 {
		t.Fatalf("%+v", st)
	}
}

// carries has the hook carry what is said, and nobody look.
func (r *carryRig) carries(lines ...string) {
	r.t.Helper()
	for _, say := range lines {
		if _, outcome := r.send(r.segment(say)); outcome != "carried" {
			r.t.Fatal(say, outcome)
		}
	}
}

// TestOddLast: where the last that was acknowledged cannot be, the next segment that comes here is believed, and the
// connection goes on, far from where it was seen last.
func TestOddLast(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	r.speak(far)
	seq := 120501
	for range 20 {
		r.carries(fmt.Sprintf("s A %d ack 90101 win 500 len 60000", seq))
		seq += 60000
		r.carries(fmt.Sprintf("c A 90101 ack %d win 500", seq))
	}
	r.carries("c A 90101 ack 4000000000 win 500")
	for f := range r.tab.Carried() {
		r.tab.Uncarry(f.ID)
	}
	r.idle = true
	r.speak(fmt.Sprintf(`
		s A %d ack 90101 win 500 len 10: known established
		c A 90101 ack %d win 500: known established
		s FA %d ack 90101 win 500: known fin_wait
		c FA 90101 ack %d win 500: known last_ack`, seq, seq+10, seq+10, seq+11))
}

// TestLost: nothing is known of what a record carried whose place was taken without a word. The RST may be anybody's.
func TestLost(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 64}, 8)
	r.speak(far)
	for n := range 10 {
		r.carries(fmt.Sprintf("s A %d ack 90101 win 500 len 60000", 120501+n*60000))
	}
	for ref := range r.kernel.All() {
		r.kernel.Remove(ref)
	}
	r.idle = true
	r.speak(`
		s R 800000: known established
		c A 90101 ack 720501 win 500: known established
		s A 720501 ack 90101 win 500 len 10: known established
		s A 2000000000 ack 90101 win 500 len 10: known established
		c A 90101 ack 720511 win 500: known established`)
}

// TestWrapped: numbers have gone round while nobody looked, by how much is told by what was carried.
func TestWrapped(t *testing.T) {
	for _, more := range []uint64{1 << 30, 1<<31 + 5, 1<<32 - 100_000, 1 << 32, 1<<32 + 100_000, 5 << 32} {
		r := newCarryRig(t, false, Config{Flows: 64}, 8)
		r.speak(far)
		for ref := range r.kernel.All() {
			counted := r.mem.Records[192*(uint32(ref)-1)+128+8:]
			binary.NativeEndian.PutUint64(counted, binary.NativeEndian.Uint64(counted)+more)
		}
		seq := 120501 + uint32(more)
		r.carries(fmt.Sprintf("c A 90101 ack %d win 500", seq))
		r.speak(fmt.Sprintf(`
			s FA %d ack 90101 win 500: carried fin_wait
			c FA 90101 ack %d win 500: carried last_ack
			s A %d ack 90102 win 500: carried time_wait`, seq, seq+1, seq+1))
	}
}
