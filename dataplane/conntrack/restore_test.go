// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// restart has another table over what the kernel has, as after kill -9: with what its records say, and nothing else.
func (r *carryRig) restart(cfg Config) (failed []error) {
	r.t.Helper()
	r.kernel = r.takeOver(r.t)
	cfg.Offload, cfg.Seed = r.kernel, nil
	cfg.Left = r.tab.left
	r.tab = New(cfg)
	for ref := range r.kernel.All() {
		s, ok := r.tab.Recorded(ref, r.now)
		if !ok {
			continue
		}
		if err := r.tab.Restore(&s, r.now); err != nil {
			failed = append(failed, err)
			r.kernel.Remove(ref)
		}
	}
	return failed
}

// handOver has another table with all that the first one knows.
func (r *carryRig) handOver(cfg Config) {
	r.t.Helper()
	was := slices.Collect(r.tab.Export(r.now))
	r.kernel = r.takeOver(r.t)
	cfg.Offload, cfg.Seed = r.kernel, nil
	cfg.Left = r.tab.left
	r.tab = New(cfg)
	for i := range was {
		saved := was[i] // Restore adds the record
		if err := r.tab.Restore(&saved, r.now); err != nil {
			r.t.Fatalf("%v: %+v", err, saved)
		}
	}
	is := slices.Collect(r.tab.Export(r.now))
	for _, list := range [][]Saved{was, is} {
		slices.SortFunc(list, func(a, b Saved) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	for i := range was {
		if was[i] != is[i] {
			r.t.Fatalf("was %+v\nis  %+v", was[i], is[i])
		}
	}
}

// TestHandOver: what another table has been told of goes on as if nothing had been.
func TestHandOver(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range carriedDialogues {
			if strings.Contains(text, "SA 9000000") {
				continue // fingerprints of SYNs are not handed over
			}
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 8)
				r.speak(far)
				r.handOver(Config{Flows: 64})
				for line := range strings.Lines(strings.TrimSpace(text)) {
					r.speak(line)
					r.handOver(Config{Flows: 64})
					r.soundCarried()
				}
			})
		}
	})
}

// TestHandOverAll: so do flows of all protocols and states, in mid-handshake, translated, revoked, over; and what
// comes afterwards ends as well.
func TestHandOverAll(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range dialogues {
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 8)
				r.idle = true
				for line := range strings.Lines(strings.TrimSpace(text)) {
					r.rig.speak(strings.TrimSpace(line))
					marks := r.tab.shards[0].marks
					r.handOver(Config{Flows: 64, Seed: &testSeed})
					r.tab.keys, r.tab.limits.keys = testSeed, testSeed // fingerprints of SYNs are not handed over
					r.rehash(marks)
				}
			})
		}
		r := newCarryRig(t, v6, Config{}, 8)
		r.frontends[r.front(1)] = r.toPort9(7)
		r.frontends[r.front(2)] = &Translation{Backend: 8, Dst: r.b, DstPort: 53, Direct: true}
		ask := r.udp(r.a, 1000, r.front(1), 53)
		r.send(ask)
		r.send(r.udp(r.b, 8080, r.snat, 9))
		direct := r.udp(r.a, 1000, r.front(2), 53)
		r.send(direct)
		r.send(r.query('c', "echo", 5))
		r.send(r.query('s', "echo", 5))
		r.send(r.packet('c', 47, make([]byte, 8)))
		if !v6 {
			r.send(r.query('c', "time", 6))
		}
		denied := r.udp(r.a, 4000, r.b, 53)
		r.send(denied)
		s := r.tab.seen(denied, portA, r.now, 2)
		r.tab.Revoke(&s, 1, verdict.EgressDenied)
		r.now += 5 * second
		r.handOver(Config{Flows: 4 * shardFlows})
		r.soundCarried()
		if s := r.tab.seen(denied, portA, r.now, 1); s.Reason != verdict.EgressDenied {
			t.Fatalf("%+v", s)
		}
		if s := r.tab.seen(ask, portA, r.now, 1); s.Status != Known || s.Ends.SrcPort != 9 || s.Backend != 7 || s.Rule != 42 {
			t.Fatalf("%+v", s)
		}
		if s := r.tab.seen(direct, portA, r.now, 1); s.Status != Known || s.Direct != r.b || s.Backend != 8 {
			t.Fatalf("%+v", s)
		}
		if _, outcome := r.send(r.query('s', "reply", 5)); outcome != "known" {
			t.Fatal(outcome)
		}
		r.drained()
		r.lefts(7, true)
		r.lefts(8, true)
	})
}

// rehash has the only shard's index be by the table's keys.
func (r *carryRig) rehash(marks []uint64) {
	sh := &r.tab.shards[0]
	clear(sh.slots)
	for i := range sh.entries {
		if e := &sh.entries[i]; e.state != free {
			sh.slots.insert(r.tab.keys.hash(&e.key), uint32(i+1))
		}
	}
	copy(sh.marks, marks)
}

// TestKilled: of what the kernel carried all goes on after kill -9: carried, and ended as it should be.
func TestKilled(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, text := range carriedDialogues {
			if strings.Contains(name, "elsewhere") || strings.Contains(text, "SA 9000000") {
				continue // scales are not known, and fingerprints of SYNs are
			}
			t.Run(name, func(t *testing.T) {
				r := newCarryRig(t, v6, Config{Flows: 64}, 8)
				r.speak(far)
				if failed := r.restart(Config{Flows: 64}); failed != nil {
					t.Fatal(failed)
				}
				r.soundCarried()
				r.speak(text)
			})
		}
		t.Run("strangers", func(t *testing.T) {
			r := newCarryRig(t, v6, Config{Flows: 64}, 8)
			r.speak(far)
			r.restart(Config{Flows: 64})
			r.speak(`
				s R 2300000000: tcp_out_of_window established
				c R 501: tcp_out_of_window established
				c A 90101 ack 120501 win 500: carried established
				c R 100000: known established
				c A 90101 ack 120501 win 500: known established`)
		})
	})
}

// TestKilledEarly: of a direction that has carried nothing, nothing is known, and the first segment is believed.
func TestKilledEarly(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for text, more := range map[string]string{
			opened: "c FA 101 ack 501 win 10: carried fin_wait\ns FA 501 ack 102 win 10: known last_ack",
			opened + "\ns A 501 ack 101 win 50: known established": "s FA 501 ack 101 win 10: carried fin_wait",
			opened + "\nc A 101 ack 501 win 5: carried established": `
				s A 501 ack 101 win 10 len 90: known established
				s A 591 ack 101 win 10 len 90: carried established
				s R 681: known established
				c A 101 ack 681 win 9: known established
				s R 681: known closed`,
		} {
			r := newCarryRig(t, v6, Config{Flows: 64}, 8)
			r.speak(text)
			if failed := r.restart(Config{Flows: 64}); failed != nil {
				t.Fatal(failed)
			}
			r.speak(more)
		}
	})
}

// TestKilledTranslated: a translated flow is found by both sides again, with the backend that its finder says, and UDP
// goes on by its kernel's last use.
func TestKilledTranslated(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newCarryRig(t, v6, Config{}, 8)
		r.frontends[r.front(1)] = r.toPort9(7)
		ask, answer := r.udp(r.a, 1000, r.front(1), 53), r.udp(r.b, 8080, r.snat, 9)
		for _, p := range []*packet.Packet{ask, ask, answer, answer} {
			r.send(p)
		}
		r.sends(answer, "carried udp_replied")
		r.now += 20 * second
		r.kernel = r.takeOver(t)
		r.tab = New(Config{Flows: 4 * shardFlows, Offload: r.kernel, Left: r.tab.left})
		for ref := range r.kernel.All() {
			s, ok := r.tab.Recorded(ref, r.now)
			if !ok || s.Near != ask.Ends() || s.Far != answer.Ends().Reverse() || s.In != portA || s.Out != portB ||
				s.Expires < 9*time.Second || s.Expires > 11*time.Second {
				t.Fatalf("%+v", s)
			}
			s.Backend = 12
			if err := r.tab.Restore(&s, r.now); err != nil {
				t.Fatal(err)
			}
			if r.tab.Restore(&s, r.now) == nil {
				t.Fatal("restored twice")
			}
		}
		r.soundCarried()
		for _, p := range []*packet.Packet{ask, answer} {
			in, _ := r.ports(p)
			if s := r.tab.seen(p, in, r.now, 1); s.Status != Known || !s.Translated || s.Backend != 12 || s.Carry {
				t.Fatalf("%+v", s)
			}
			r.sends(p, "carried udp_stream")
		}
		r.drained()
		r.soundCarried()
		r.lefts(12, true)
	})
}

// TestSenseless: what cannot be a flow is not restored.
func TestSenseless(t *testing.T) {
	a, b := ends(false)
	six, _ := ends(true)
	good := Saved{
		Near:  packet.Ends{Src: a, Dst: b, SrcPort: 1, DstPort: 2},
		Far:   packet.Ends{Src: a, Dst: b, SrcPort: 1, DstPort: 2},
		Proto: packet.ProtoUDP, State: "udp_stream", In: portA, Out: portB, Expires: time.Second,
	}
	for name, spoil := range map[string]func(s *Saved){
		"no state":           func(s *Saved) { s.State = "" },
		"free":               func(s *Saved) { s.State = "free" },
		"another protocol's": func(s *Saved) { s.State = "established" },
		"two families":       func(s *Saved) { s.Near.Src, s.Far.Src = six, six },
		"not translated":     func(s *Saved) { s.Far.Src = b },
		"backend":            func(s *Saved) { s.Translated, s.Backend = true, left|1 },
		"expired":            func(s *Saved) { s.Expires = 0 },
		"forever":            func(s *Saved) { s.Expires = 2*time.Minute + time.Second },
		"age":                func(s *Saved) { s.Age = -1 },
		"direct":             func(s *Saved) { s.Direct = true },
	} {
		r := newCarryRig(t, false, Config{Flows: 64}, 8)
		s := good
		spoil(&s)
		if r.tab.Restore(&s, r.now) == nil {
			t.Errorf("%s: restored", name)
		}
		if err := r.tab.Restore(&good, r.now); err != nil {
			t.Error(err)
		}
		r.soundCarried()
	}
}

// TestRestoreFull: where there is no room flows are refused, and nothing is left over.
func TestRestoreFull(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 256}, 64)
	for port := range uint16(20) {
		r.carriedUDP(1000 + port)
	}
	if failed := r.restart(Config{Flows: 16, PerPort: 12}); len(failed) != 8 {
		t.Fatal(failed)
	}
	r.soundCarried()
	if st := r.kernel.Stats(); st.Records != 12 || r.tab.Entries() != 12 {
		t.Fatalf("%+v", st)
	}
}
