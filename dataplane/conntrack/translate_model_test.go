// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// soundAliases checks what has to hold of aliases: each translated entry is found by its own, no two have the same ends
// on either side, and where an alias is of no entry a sweep is due.
func (r *rig) soundAliases(st *Stats) {
	r.t.Helper()
	translatedOnes, owned := 0, 0
	sent := map[string]bool{}
	for i := range r.tab.shards {
		sh := &r.tab.shards[i]
		for n := range sh.entries {
			e, l := &sh.entries[n], &sh.records[n]
			if e.state == free || e.flags&translated == 0 {
				continue
			}
			translatedOnes++
			text := fmt.Sprint(l.ends, e.key.proto(), e.key.kind())
			if sent[text] {
				r.t.Fatalf("two flows are sent as %s", text)
			}
			sent[text] = true
			if e.flags&aliased == 0 {
				continue
			}
			var k key
			from := k.set(l.ends.Src, l.ends.Dst, l.ends.SrcPort, l.ends.DstPort, e.key.proto(), e.key.kind(), false)
			at := r.tab.shard(l.hash)
			m := at.aliases.find(l.hash, &k)
			if m == 0 || l.hash != r.tab.keys.hash(&k) || !sh.holds(&at.aliases.all[m-1]) || at.aliases.all[m-1].from != from {
				r.t.Fatalf("%s is not found", text)
			}
			owned++
		}
	}
	over := 0
	for i := range r.tab.shards {
		a, used, slots := &r.tab.shards[i].aliases, 0, 0
		for n := range a.all {
			if a.all[n].n != 0 {
				used++
			}
		}
		for _, v := range a.slots {
			if v != 0 {
				slots++
			}
		}
		if used != int(a.used) || slots != used || used > int(a.top) {
			r.t.Fatalf("%d aliases, %d counted, %d in the index", used, a.used, slots)
		}
		if a.over.Load() || a.left != 0 {
			over++
		}
	}
	if translatedOnes != st.Translated || owned > st.Aliases || owned < st.Aliases && over == 0 {
		r.t.Fatalf("%d are translated, %d of them by aliases: %+v", translatedOnes, owned, st)
	}
}

// natModel is what the table is to be for translated flows, where memory is no matter: a list and a clock.
type natModel struct {
	flows []*natFlow
	ended map[uint32]bool // backend: had it answered
}

type natFlow struct {
	modelFlow
	sent, got packet.Ends
	proto     packet.IPProto
	backend   uint32
}

func (m *natModel) expire(now int64) {
	kept := m.flows[:0]
	for _, f := range m.flows {
		if now-f.last <= f.timeout(f.proto) {
			kept = append(kept, f)
		} else if f.backend != 0 {
			m.ended[f.backend] = f.answered
		}
	}
	m.flows = kept
}

// of is the flow that a packet belongs to, and the ends that it is to have.
func (m *natModel) of(t *rapid.T, e packet.Ends, proto packet.IPProto) (found *natFlow, reply bool, ends packet.Ends) {
	for _, f := range m.flows {
		if f.proto != proto || f.sent != e && f.got.Reverse() != e {
			continue
		}
		if found != nil {
			t.Fatalf("%+v is of two flows: %+v, %+v", e, found, f)
		}
		if found, ends = f, f.got; f.sent != e {
			reply, ends = true, f.sent.Reverse()
		}
	}
	return found, reply, ends
}

// enter is a flow that was opened. It may be mistaken for no other one.
func (m *natModel) enter(t *rapid.T, f *natFlow) {
	for _, o := range m.flows {
		if o.proto != f.proto {
			continue
		}
		if o.sent == f.sent || o.got == f.got || o.sent == f.got.Reverse() || o.got.Reverse() == f.sent {
			t.Fatalf("%+v is opened beside %+v", f, o)
		}
	}
	m.flows = append(m.flows, f)
}

// TestTranslatedModel compares the table with the model, packet by packet: between few addresses and ports, of which
// each may be frontend, backend, client and what it is translated to.
func TestTranslatedModel(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		rapid.Check(t, func(rt *rapid.T) {
			r, m := newNATRig(t, v6, Config{PerPort: 1 << 14, PerSource: 1 << 14}), &natModel{ended: map[uint32]bool{}}
			hosts := []packet.Addr{r.a, r.b, r.snat, r.other, r.front(0), r.front(1)}
			backend := uint32(0)
			for range rapid.IntRange(1, 200).Draw(rt, "packets") {
				switch rapid.IntRange(0, 9).Draw(rt, "before") {
				case 0:
					r.now += second * rapid.SampledFrom([]int64{1, 3, 29, 31, 119, 121, 599, 601}).Draw(rt, "seconds")
				case 1:
					r.tab.Sweep(r.now, 0, 1)
				}
				m.expire(r.now)
				p := r.drawTranslated(rt, hosts, m)
				f, reply, ends := m.of(rt, p.Ends(), p.Proto)
				s := r.tab.seen(p, portA, r.now, 1)
				if f == nil {
					backend++
					r.open(rt, m, p, &s, hosts, backend)
					continue
				}
				was := f.answered
				f.answered = was || reply
				f.stream = f.stream || was && r.now-f.opened > 2*second
				f.last = r.now
				translated := f.sent != f.got || f.backend != 0
				if s.Status != Known || s.Reply != reply || s.Translated != translated || translated && (s.Ends != ends ||
					s.Backend != f.backend || (s.Waited != 0) != (reply && !was)) {
					rt.Fatalf("%+v: %+v, is of %+v", p.Ends(), s, f)
				}
			}
			r.sound()
			r.drained()
			m.expire(r.now)
			for b, answered := range m.ended {
				r.lefts(b, answered)
			}
			if len(r.left) != len(m.ended) {
				rt.Fatalf("%d backends were left, of %d", len(r.left), len(m.ended))
			}
		})
	})
}

// drawTranslated is a packet between any ends, or one of a flow.
func (r *natRig) drawTranslated(rt *rapid.T, hosts []packet.Addr, m *natModel) *packet.Packet {
	proto := rapid.SampledFrom([]packet.IPProto{packet.ProtoUDP, packet.ProtoUDP, packet.ProtoUDP, 47}).Draw(rt, "proto")
	host, port := rapid.SampledFrom(hosts), rapid.Uint16Range(1, 3)
	e := packet.Ends{Src: host.Draw(rt, "src"), Dst: host.Draw(rt, "dst")}
	if proto == packet.ProtoUDP {
		e.SrcPort, e.DstPort = port.Draw(rt, "src port"), port.Draw(rt, "dst port")
	}
	if len(m.flows) > 0 && rapid.Bool().Draw(rt, "of a flow") {
		f := rapid.SampledFrom(m.flows).Draw(rt, "flow")
		e, proto = rapid.SampledFrom([]packet.Ends{f.sent, f.got, f.sent.Reverse(), f.got.Reverse()}).Draw(rt, "way"), f.proto
	}
	if proto != packet.ProtoUDP {
		return r.from(proto, e, make([]byte, 8))
	}
	return r.from(proto, e, udpBytes(1, 2, 3))
}

// open opens the flow of a packet of none, translated by any translation or by none, and compares what becomes of it.
func (r *natRig) open(rt *rapid.T, m *natModel, p *packet.Packet, s *Seen, hosts []packet.Addr, backend uint32) {
	e := p.Ends()
	if s.Status != NewFlow || s.Translated {
		rt.Fatalf("%+v is of no flow: %+v", e, s)
	}
	var tr Translation
	host, none := rapid.SampledFrom(append([]packet.Addr{{}}, hosts...)), packet.Addr{}
	if tr.Dst = host.Draw(rt, "to"); tr.Dst != none && p.Proto == packet.ProtoUDP {
		tr.DstPort = rapid.Uint16Range(1, 3).Draw(rt, "to port")
	}
	tr.Src, tr.Random = host.Draw(rt, "as"), rapid.IntRange(0, 3).Draw(rt, "random") == 0
	tr.FirstPort, tr.LastPort = 1, rapid.Uint16Range(1, 4).Draw(rt, "last")
	if rapid.Bool().Draw(rt, "of a service") {
		tr.Backend = backend
	}
	plain := rapid.IntRange(0, 2).Draw(rt, "plain") == 0
	var reason verdict.Reason
	if plain {
		tr = Translation{}
		reason = r.tab.Open(s, p, portA, portB, r.now, 1, 0)
	} else {
		reason = r.tab.OpenTranslated(s, p, portA, portB, r.now, 1, 0, &tr)
	}
	f := &natFlow{modelFlow: modelFlow{opened: r.now, last: r.now}, sent: e, got: e, proto: p.Proto, backend: tr.Backend}
	if s.Translated {
		f.got = s.Ends
	}
	claimed := false // the packet is from where answers seem to come from
	for _, o := range m.flows {
		claimed = claimed || o.proto == p.Proto && o.sent == e.Reverse()
	}
	want := tr.apply(e)
	want.SrcPort = f.got.SrcPort
	switch {
	case reason == verdict.NATCollision && claimed:
	case reason == verdict.NATPortsExhausted:
	case reason != verdict.None || claimed:
		rt.Fatalf("%+v, of the frontend %t: %v", e, claimed, reason)
	case f.got != want || s.Translated && s.Backend != tr.Backend:
		rt.Fatalf("%+v by %+v became %+v", e, tr, f.got)
	default:
		m.enter(rt, f)
	}
}

// TestTranslatingWorkers: workers that open, follow, drop and forget the same translated flows at once. What each has
// opened is left once.
func TestTranslatingWorkers(t *testing.T) {
	for name, flows := range map[string]int{"room": 4 * shardFlows, "no room": 40} {
		t.Run(name, func(t *testing.T) {
			var lock sync.Mutex
			left, opened := map[uint32]int{}, map[uint32]int{}
			cfg := Config{Flows: flows, PerPort: 1 << 20, PerSource: 1 << 20}
			cfg.Left = func(b uint32, _ bool) { lock.Lock(); left[b]++; lock.Unlock() }
			r := &natRig{rig: newRig(t, false, cfg), snat: addr("10.9.0.1")}
			var workers sync.WaitGroup
			for w := range uint32(4) {
				workers.Go(func() {
					now := r.now
					for i := range uint32(10_000) {
						now += second / 500
						p := parse(t, ipPacket(r.a, r.front(int(i/3%5)), packet.ProtoUDP, udpBytes(uint16(1+i%17), 53, 1)))
						if i%4 == 3 { // an answer, or somebody's who is none
							p = parse(t, ipPacket(r.b, r.snat, packet.ProtoUDP, udpBytes(53, uint16(1+i%17), 1)))
						}
						guesses := []Guess{r.tab.Guess(p.Data())}
						r.tab.Foresee(guesses)
						r.tab.GuessOpen(&guesses[0], p.Data(), r.b, 53)
						r.tab.ForeseeOpen(guesses)
						s := r.tab.seen(p, 1, now, i/3000)
						switch s.Status {
						case NewFlow:
							if i%4 == 3 {
								continue
							}
							r.tab.ForeseeThis(&s, p, r.b, 53)
							tr := Translation{Dst: r.b, DstPort: 53, Src: r.snat, Backend: w<<20 | i + 1}
							if r.tab.OpenTranslated(&s, p, 1, 2, now, i/3000, 1, &tr) == verdict.None {
								lock.Lock()
								opened[tr.Backend]++
								lock.Unlock()
							}
						case Stale:
							r.tab.Keep(&s, i/3000, 2)
						case Known:
							if wrong := s.Ends.Src == r.snat == s.Reply; !s.Translated || wrong || !s.Reply && s.Ends.Dst != r.b {
								t.Errorf("%+v", s)
							}
							if i%11 == 0 {
								r.tab.Drop(&s)
							}
						}
						if i%100 == 0 {
							r.tab.Sweep(now, int(w), 4)
						}
						if i%1500 == 0 {
							r.tab.Forget(map[packet.PortID]bool{1: true})
						}
					}
				})
			}
			workers.Go(func() {
				for range 200 {
					for f := range r.tab.All(r.now) {
						if f.Ends.Dst != r.b || f.Tuple.Src != r.a {
							t.Error("a torn flow", f)
						}
					}
				}
			})
			workers.Wait()
			r.sound()
			r.drained()
			for b, n := range opened {
				if n != 1 || left[b] != 1 {
					t.Fatalf("backend %d was opened %d times, and left %d times", b, n, left[b])
				}
			}
			if len(left) != len(opened) {
				t.Fatalf("%d backends left, %d opened", len(left), len(opened))
			}
		})
	}
}
