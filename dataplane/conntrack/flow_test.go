// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func TestEntrySize(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size != 128 {
		t.Fatalf("an entry has %d bytes", size)
	}
}

// query is an ICMP message of either family: echo or reply, by name.
func (r *rig) query(from byte, name string, id uint16) *packet.Packet {
	kinds := map[string][2]byte{"echo": {8, 128}, "reply": {0, 129}, "time": {13, 13}, "told": {14, 14}}
	if r.v6 {
		return r.packet(from, packet.ProtoICMPv6, icmpBytes(kinds[name][1], id))
	}
	return r.packet(from, packet.ProtoICMP, icmpBytes(kinds[name][0], id))
}

func (r *rig) expect(p *packet.Packet, want string) Seen {
	r.t.Helper()
	s, reason := r.see(p)
	outcome := s.Status.String()
	if reason != verdict.None {
		outcome = reason.String()
	}
	if got := outcome + " " + r.state(); got != want {
		r.t.Fatalf("%s, want %s", got, want)
	}
	return s
}

func TestUDP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		answer := r.packet('s', packet.ProtoUDP, udpBytes(53, 1000, 200))
		s := r.expect(ask, "new udp_unreplied")
		if s.Tuple != (Tuple{r.a, r.b, 1000, 53, packet.ProtoUDP}) || s.Reply {
			t.Fatalf("%+v", s)
		}
		r.expect(ask, "known udp_unreplied")
		if s = r.expect(answer, "known udp_replied"); !s.Reply || s.Rule != 42 || s.Moved {
			t.Fatalf("%+v", s)
		}
		r.now += second
		r.expect(ask, "known udp_replied")
		r.now += 2 * second
		r.expect(answer, "known udp_stream")
		for f := range r.tab.All(r.now) {
			if f.Sent.Packets != 3 || f.Replied.Bytes != 2*uint64(answer.L3Len) {
				t.Fatalf("%+v", f)
			}
			if f.In != portA || f.Out != portB || f.Rule != 42 {
				t.Fatalf("%+v", f)
			}
			if f.Age.Round(time.Second) != 3*time.Second || f.Idle != 0 || f.Expires.Round(time.Second) != 2*time.Minute {
				t.Fatalf("%+v", f)
			}
		}
		if s := r.tab.seen(answer, portA, r.now, 1); !s.Moved {
			t.Fatal("came by another port, and nobody says so")
		}
	})
}

func TestQueries(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		r.expect(r.query('s', "reply", 5), "icmp_without_flow none")
		r.expect(r.query('c', "echo", 5), "new icmp_asked")
		r.expect(r.query('s', "reply", 6), "icmp_without_flow icmp_asked")
		r.expect(r.query('c', "reply", 5), "icmp_without_flow icmp_asked")
		r.expect(r.query('s', "reply", 5), "known icmp_answered")
		r.expect(r.query('c', "echo", 5), "known icmp_answered")
		r.expect(r.query('s', "echo", 5), "new icmp_asked") // his own question, by the same number
		if got := r.tab.Stats().Entries; got != 2 {
			t.Fatalf("%d entries", got)
		}
		r.now += 29 * second // answers keep nothing
		r.see(r.query('s', "reply", 5))
		r.now += 2 * second
		r.expect(r.query('s', "reply", 5), "icmp_without_flow none")
	})
	r := newRig(t, false, Config{Flows: 64})
	r.b = r.a // who asks himself
	r.expect(r.query('s', "reply", 5), "icmp_without_flow none")
	r.expect(r.query('c', "echo", 5), "new icmp_asked")
	r.expect(r.query('c', "reply", 5), "known icmp_asked")

	r = newRig(t, false, Config{Flows: 64})
	r.expect(r.query('s', "told", 5), "icmp_without_flow none")
	r.expect(r.query('c', "time", 5), "new icmp_asked")
	r.expect(r.query('s', "reply", 5), "icmp_without_flow icmp_asked")
	r.expect(r.query('s', "told", 5), "known icmp_answered")
	r.expect(r.packet('c', packet.ProtoICMP, icmpBytes(15, 5)), "icmp_without_flow icmp_answered")
}

func TestOther(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		const gre = 47
		r.expect(r.packet('c', gre, make([]byte, 20)), "new other_unreplied")
		r.expect(r.packet('c', gre, make([]byte, 20)), "known other_unreplied")
		r.expect(r.packet('s', gre, make([]byte, 20)), "known other_replied")
		r.expect(r.packet('s', packet.ProtoESP, make([]byte, 20)), "new other_unreplied")
	})
}

// sctpDialogues are lines of: who tag chunk [initiate-tag] [T]: outcome state.
var sctpDialogues = map[string]string{
	"association": `
		s 7 cookie-ack: sctp_without_flow none
		c 7 data: sctp_without_flow none
		c 5 init 11: sctp_without_flow none
		c 0 init 0: sctp_without_flow none
		c 0 init 11: new sctp_cookie_wait
		c 0 init 12: known sctp_cookie_wait
		s 11 init-ack 22: sctp_without_flow sctp_cookie_wait
		s 12 init-ack 22: known sctp_cookie_wait
		c 23 cookie-echo: sctp_without_flow sctp_cookie_wait
		c 22 cookie-echo: known sctp_cookie_echoed
		c 22 cookie-ack: known sctp_cookie_echoed
		s 12 cookie-ack: known sctp_established
		c 22 data: known sctp_established
		s 22 data: sctp_without_flow sctp_established
		c 0 init 99: known sctp_established
		c 22 shutdown: known sctp_shutdown
		s 12 shutdown-ack: known sctp_shutdown
		c 22 shutdown-complete: known sctp_closed
		s 12 data: known sctp_closed
		s 0 init 33: new sctp_cookie_wait`,
	"aborts": `
		c 0 init 12: new sctp_cookie_wait
		s 13 abort: sctp_without_flow sctp_cookie_wait
		s 12 init-ack 22: known sctp_cookie_wait
		c 12 abort: sctp_without_flow sctp_cookie_wait
		c 12 abort T: known sctp_closed`,
}

func TestSCTP(t *testing.T) {
	chunks := map[string]byte{"data": 0, "init": 1, "init-ack": 2, "abort": 6, "shutdown": 7, "shutdown-ack": 8,
		"cookie-echo": 10, "cookie-ack": 11, "shutdown-complete": 14}
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range sctpDialogues {
			r := newRig(t, v6, Config{Flows: 64})
			for line := range strings.Lines(strings.TrimSpace(text)) {
				say, want, _ := strings.Cut(strings.TrimSpace(line), ": ")
				w := append(strings.Fields(say), "")
				number := func(s string) (n uint32) {
					for _, c := range s {
						n = n*10 + uint32(c-'0')
					}
					return n
				}
				src, dst, flags, initiate := uint16(4000), uint16(80), byte(0), uint32(0)
				if w[0] == "s" {
					src, dst = dst, src
				}
				if w[3] == "T" {
					flags = 1
				} else {
					initiate = number(w[3])
				}
				p := r.packet(w[0][0], packet.ProtoSCTP, sctpBytes(src, dst, number(w[1]), chunks[w[2]], flags, initiate))
				s, reason := r.see(p)
				outcome := s.Status.String()
				if reason != verdict.None {
					outcome = reason.String()
				}
				if got := outcome + " " + r.state(); got != want {
					t.Fatalf("%s: %s: %s, want %s", name, say, got, want)
				}
			}
		}
	})
}

// errorAbout is an ICMP error that quotes p's IP packet, from router to the given address.
func (r *rig) errorAbout(p *packet.Packet, to packet.Addr, cut int) *packet.Packet {
	router, proto, kind := addr("192.0.2.9"), packet.ProtoICMP, byte(3)
	if r.v6 {
		router, proto, kind = addr("2001:db8:9::9"), packet.ProtoICMPv6, 1
	}
	quoted := p.Frame[p.L3:p.End]
	return parse(r.t, ipPacket(router, to, proto, icmpError(kind, quoted[:len(quoted)-cut])))
}

func TestErrors(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		answer := r.packet('s', packet.ProtoUDP, udpBytes(53, 1000, 20))
		r.expect(r.errorAbout(ask, r.a, 0), "icmp_without_flow none")
		r.expect(ask, "new udp_unreplied")
		if s := r.expect(r.errorAbout(ask, r.a, 20), "related udp_unreplied"); !s.Reply || s.Rule != 42 {
			t.Fatalf("%+v", s)
		}
		r.expect(r.errorAbout(ask, r.a, 21), "icmp_without_flow udp_unreplied")
		r.expect(r.errorAbout(ask, r.b, 0), "icmp_without_flow udp_unreplied")
		r.expect(r.errorAbout(answer, r.b, 0), "icmp_without_flow udp_unreplied") // he has not sent any
		r.expect(answer, "known udp_replied")
		if s := r.expect(r.errorAbout(answer, r.b, 0), "related udp_replied"); s.Reply {
			t.Fatalf("%+v", s)
		}
		if s := r.tab.seen(r.errorAbout(ask, r.a, 0), portB, r.now, 2); s.Status != Stale || s.Tuple.Src != r.a {
			t.Fatalf("%+v", s)
		}
		r.now += 29 * second // errors keep nothing
		r.expect(r.errorAbout(ask, r.a, 0), "related udp_replied")
		r.now += 2 * second
		r.expect(r.errorAbout(ask, r.a, 0), "icmp_without_flow none")
	})
}

func TestErrorsAboutTCP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		r.speakAll(opened)
		r.expect(r.errorAbout(r.segment("c A 100 ack 1"), r.a, 12), "related established")
		r.expect(r.errorAbout(r.segment("c A 102 ack 1"), r.a, 12), "icmp_without_flow established")
		r.expect(r.errorAbout(r.segment("c A 4294900000 ack 1"), r.a, 12), "icmp_without_flow established")
		redirect := r.packet('s', packet.ProtoICMP, icmpError(5, make([]byte, 28)))
		if v6 {
			redirect = r.packet('s', packet.ProtoICMPv6, icmpError(100, make([]byte, 60)))
		}
		r.expect(redirect, "icmp_without_flow established")
	})
}

// TestErrorQuotesExtensions: what is quoted may have IPv6 extension headers, and lie about them.
func TestErrorQuotesExtensions(t *testing.T) {
	r := newRig(t, true, Config{Flows: 64})
	ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
	r.expect(ask, "new udp_unreplied")
	udp := udpBytes(1000, 53, 20)
	options := []byte{17, 0, 1, 4, 0, 0, 0, 0}
	fragment := []byte{17, 0, 0, 0, 0, 0, 0, 1}
	for _, row := range []struct {
		next packet.IPProto
		head []byte
		want string
	}{
		{60, options, "related udp_unreplied"},
		{44, fragment, "related udp_unreplied"},
		{51, append([]byte{17, 4, 0, 0}, make([]byte, 20)...), "related udp_unreplied"},
		{60, []byte{17, 200, 1, 4, 0, 0, 0, 0}, "icmp_without_flow udp_unreplied"},
		{44, []byte{17, 0, 0, 8, 0, 0, 0, 1}, "icmp_without_flow udp_unreplied"},
	} {
		inner := ipPacket(r.a, r.b, row.next, append(append([]byte{}, row.head...), udp...))
		r.expect(parse(t, ipPacket(r.b, r.a, packet.ProtoICMPv6, icmpError(1, inner))), row.want)
	}
	many := ipPacket(r.a, r.b, 60, append(append(make([]byte, 0), repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 20)...), udp...))
	r.expect(parse(t, ipPacket(r.b, r.a, packet.ProtoICMPv6, icmpError(1, many))), "icmp_without_flow udp_unreplied")
}

func repeat(b []byte, n int) (all []byte) {
	for range n {
		all = append(all, b...)
	}
	return all
}

func TestGenerations(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		answer := r.packet('s', packet.ProtoUDP, udpBytes(53, 1000, 20))
		r.see(ask)
		s := r.tab.seen(answer, portB, r.now, 2)
		if s.Status != Stale || !s.Reply || s.Rule != 42 || s.Tuple.Src != r.a {
			t.Fatalf("%+v", s)
		}
		r.tab.Keep(&s, 2, 43)
		if k := r.tab.seen(ask, portA, r.now, 2); k.Status != Known || k.Rule != 43 {
			t.Fatalf("%+v", k)
		}
		s = r.tab.seen(ask, portA, r.now, 3)
		r.tab.Revoke(&s, 3, verdict.EgressDenied)
		r.tab.Revoke(&s, 3, verdict.IngressDenied)
		for _, p := range []*packet.Packet{ask, answer} { // neither end may go on, nor open it the other way round
			if k := r.tab.seen(p, portB, r.now, 3); k.Status != Invalid || k.Reason != verdict.IngressDenied {
				t.Fatalf("%+v", k)
			}
		}
		if st := r.tab.Stats(); st.Revoked != 1 || st.Entries != 1 || st.Opened != 1 {
			t.Fatalf("%+v", st)
		}
		for f := range r.tab.All(r.now + 7*second) {
			if f.State != "revoked" || f.Idle.Round(time.Second) != 7*time.Second {
				t.Errorf("%+v", f)
			}
		}
		s = r.tab.seen(answer, portB, r.now, 4)
		if s.Status != Stale || s.Tuple.Src != r.a || !s.Reply {
			t.Fatalf("%+v", s)
		}
		r.tab.Keep(&s, 4, 44)
		if k := r.tab.seen(ask, portA, r.now, 4); k.Status != Known || k.Rule != 44 {
			t.Fatalf("%+v", k)
		}
		s = r.tab.seen(ask, portA, r.now, 5)
		r.tab.Revoke(&s, 5, verdict.EgressDenied)
		r.now += int64(revokedFor) + second
		if k := r.tab.seen(answer, portB, r.now, 5); k.Status != NewFlow || k.Tuple.Src != r.b {
			t.Fatalf("%+v", k)
		}
	})
}

// TestGenerationsOfQueries: whichever address is the higher one, a query's flow is kept and revoked.
func TestGenerationsOfQueries(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for _, from := range []byte("cs") {
			r := newRig(t, v6, Config{Flows: 64})
			ask := r.query(from, "echo", 5)
			r.expect(ask, "new icmp_asked")
			s := r.tab.seen(ask, portA, r.now, 2)
			r.tab.Keep(&s, 2, 43)
			if k := r.tab.seen(ask, portA, r.now, 2); k.Status != Known || k.Rule != 43 {
				t.Errorf("kept: %+v", k)
			}
			s = r.tab.seen(ask, portA, r.now, 3)
			r.tab.Revoke(&s, 3, verdict.EgressDenied)
			if k := r.tab.seen(ask, portA, r.now, 3); k.Status != Invalid || k.Reason != verdict.EgressDenied {
				t.Errorf("revoked: %+v", k)
			}
			about := r.a
			if from == 's' {
				about = r.b
			}
			s = r.tab.seen(r.errorAbout(ask, about, 0), portA, r.now, 4)
			r.tab.Keep(&s, 4, 44)
			if k := r.tab.seen(ask, portA, r.now, 4); k.Status != Known || k.Rule != 44 {
				t.Errorf("kept by an error: %+v", k)
			}
		}
	})
}

// TestOpenTwice: another worker has opened the flow meanwhile.
func TestOpenTwice(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64})
	ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
	s := r.tab.seen(ask, portA, r.now, 1)
	for rule := range uint32(2) {
		if reason := r.tab.Open(&s, ask, portA, portB, r.now, 1, rule); reason != verdict.None {
			t.Fatal(reason)
		}
	}
	if k := r.tab.seen(ask, portA, r.now, 1); k.Status != Known || k.Rule != 0 || r.tab.Stats().Opened != 1 {
		t.Fatalf("%+v", k)
	}
}

// TestTimeouts: an entry ends with its state's timeout, whether it is swept or not.
func TestTimeouts(t *testing.T) {
	const tick = 1 << tickShift
	for st := free + 1; st < numStates; st++ {
		r := newRig(t, false, Config{Flows: 64})
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		r.see(ask)
		sh := &r.tab.shards[0]
		n := sh.lists[classHalf].oldest
		sh.enter(n, st)
		sh.entries[n-1].refresh(tickOf(r.now))
		timeout := int64(states[st].timeout)
		for _, sweep := range []bool{false, true} {
			at := func(now int64) bool {
				if sweep {
					for range 100 {
						r.tab.Sweep(now, 0, 1)
					}
					return r.tab.Stats().Entries == 1
				}
				for range r.tab.All(now) {
					return true
				}
				return false
			}
			if !at(r.now + timeout) {
				t.Errorf("%s: gone before its time", states[st].name)
			}
			if at(r.now + timeout + 3*tick) {
				t.Errorf("%s: still there, sweep %t", states[st].name, sweep)
			}
		}
		if st := r.tab.Stats(); st.Expired != 1 || st.Entries != 0 || st.Closed() != st.Opened {
			t.Errorf("%+v", st)
		}
		if r.now += timeout + 3*tick; r.tab.seen(ask, portA, r.now, 1).Status != NewFlow {
			t.Errorf("%s: known after its time", states[st].name)
		}
	}
}

func TestTrackSeesNoExpired(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64})
	ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
	r.expect(ask, "new udp_unreplied")
	r.now += 30 * second
	r.expect(ask, "known udp_unreplied")
	r.now += 31 * second
	answer := r.packet('s', packet.ProtoUDP, udpBytes(53, 1000, 20))
	if s := r.tab.seen(answer, portB, r.now, 1); s.Status != NewFlow || s.Reply || s.Tuple.Src != r.b {
		t.Fatalf("%+v", s)
	}
}

// TestErrorsAboutOthers: the quoted packet has to have the tag of its association, and to be a query that was sent.
func TestErrorsAboutOthers(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		r.expect(r.query('c', "echo", 5), "new icmp_asked")
		r.expect(r.errorAbout(r.query('c', "echo", 5), r.a, 0), "related icmp_asked")
		r.expect(r.errorAbout(r.query('c', "echo", 6), r.a, 0), "icmp_without_flow icmp_asked")
		r.expect(r.errorAbout(r.query('s', "reply", 5), r.b, 0), "icmp_without_flow icmp_asked")
		r.expect(r.errorAbout(r.errorAbout(r.query('c', "echo", 5), r.a, 0), r.a, 0), "icmp_without_flow icmp_asked")

		r = newRig(t, v6, Config{Flows: 64})
		say := func(from byte, tag uint32, kind byte, initiate uint32) *packet.Packet {
			src, dst := uint16(4000), uint16(80)
			if from == 's' {
				src, dst = dst, src
			}
			return r.packet(from, packet.ProtoSCTP, sctpBytes(src, dst, tag, kind, 0, initiate))
		}
		r.expect(say('c', 0, sctpInit, 11), "new sctp_cookie_wait")
		r.expect(r.errorAbout(say('c', 0, sctpInit, 11), r.a, 0), "related sctp_cookie_wait")
		r.expect(say('s', 11, sctpInitAck, 22), "known sctp_cookie_wait")
		r.expect(say('c', 22, sctpCookieEcho, 0), "known sctp_cookie_echoed")
		r.expect(r.errorAbout(say('c', 22, 0, 0), r.a, 0), "related sctp_cookie_echoed")
		r.expect(r.errorAbout(say('c', 23, 0, 0), r.a, 0), "icmp_without_flow sctp_cookie_echoed")
		r.expect(r.errorAbout(say('c', 0, sctpInit, 11), r.a, 0), "icmp_without_flow sctp_cookie_echoed")
	})
}

func TestForget(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		r.see(r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20)))
		r.see(r.packet('c', packet.ProtoUDP, udpBytes(1001, 53, 20)))
		r.tab.Forget(map[packet.PortID]bool{portA + portB + 1: true})
		if st := r.tab.Stats(); st.Entries != 2 || st.Forgotten != 0 {
			t.Fatalf("%+v", st)
		}
		r.tab.Forget(map[packet.PortID]bool{portB: true})
		if st := r.tab.Stats(); st.Entries != 0 || st.Forgotten != 2 || st.Closed() != st.Opened {
			t.Fatalf("%+v", st)
		}
	})
}
