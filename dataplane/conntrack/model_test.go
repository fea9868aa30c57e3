// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// model is what the table is to be for UDP and other protocols, where memory is no matter: a map and a clock.
type model map[Tuple]*modelFlow

type modelFlow struct {
	answered, stream bool
	opened, last     int64
	generation       uint32
}

func (f *modelFlow) timeout(proto packet.IPProto) int64 {
	switch {
	case proto != packet.ProtoUDP:
		return 600 * second
	case f.stream:
		return 120 * second
	}
	return 30 * second
}

// track is what Track and Open are to say and do.
func (m model) track(p Tuple, now int64, generation uint32) (status Status, reply bool) {
	for tuple, f := range m {
		if now-f.last > f.timeout(tuple.Proto) {
			delete(m, tuple)
		}
	}
	f, reply := m[p], false
	if f == nil {
		f, reply = m[p.reverse()], true
	}
	if f == nil {
		m[p] = &modelFlow{opened: now, last: now, generation: generation}
		return NewFlow, false
	}
	was := f.answered
	f.answered = f.answered || reply
	f.stream = f.stream || was && now-f.opened > 2*second
	f.last = now
	if f.generation != generation {
		f.generation = generation
		return Stale, reply
	}
	return Known, reply
}

// TestModel compares the table with the model, packet by packet. Time goes in whole seconds, for the table's is
// coarser.
func TestModel(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		rapid.Check(t, func(rt *rapid.T) {
			r, m := newRig(t, v6, Config{Flows: 1 << 10, PerPort: 1 << 10, PerSource: 1 << 10}), model{}
			generation := uint32(1)
			for range rapid.IntRange(1, 200).Draw(rt, "packets") {
				switch rapid.IntRange(0, 9).Draw(rt, "before") {
				case 0:
					r.now += second * rapid.SampledFrom([]int64{1, 3, 29, 31, 119, 121, 599, 601}).Draw(rt, "seconds")
				case 1:
					generation++
				case 2:
					r.tab.Sweep(r.now, 0, 1)
				}
				p := r.draw(rt)
				tuple := Tuple{p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto}
				status, reply := m.track(tuple, r.now, generation)
				s := r.tab.seen(p, portA, r.now, generation)
				if s.Status != status || s.Reply != reply {
					rt.Fatalf("%+v: %v %t, the model says %v %t", tuple, s.Status, s.Reply, status, reply)
				}
				switch s.Status {
				case Stale:
					r.tab.Keep(&s, generation, 0)
				case NewFlow:
					if reason := r.tab.Open(&s, p, portA, portB, r.now, generation, 0); reason != verdict.None {
						rt.Fatal(reason)
					}
				}
			}
			live := 0
			for range r.tab.All(r.now) {
				live++
			}
			if m.track(Tuple{}, r.now, generation); live != len(m)-1 {
				rt.Fatalf("%d flows, the model has %d", live, len(m)-1)
			}
			r.sound()
		})
	})
}

// draw is a packet between few ends, so that flows meet.
func (r *rig) draw(rt *rapid.T) *packet.Packet {
	from := rapid.SampledFrom([]byte("cs")).Draw(rt, "from")
	if rapid.IntRange(0, 4).Draw(rt, "other") == 0 {
		return r.packet(from, 47, make([]byte, 8))
	}
	ports := rapid.Uint16Range(1, 6)
	return r.packet(from, packet.ProtoUDP, udpBytes(ports.Draw(rt, "src"), ports.Draw(rt, "dst"), 1))
}

// sound checks what has to hold of a table at any time.
func (r *rig) sound() {
	r.t.Helper()
	st := r.tab.Stats()
	if st.Entries > st.Capacity || st.Opened-st.Closed() != uint64(st.Entries) {
		r.t.Fatalf("%+v", st)
	}
	half, ports, sources := 0, 0, [2]int{}
	for i := range r.tab.shards {
		sh := &r.tab.shards[i]
		total := 0
		for c := range numClasses {
			length := sh.length(c)
			want := 0
			for s := range numStates {
				if c == listFree && s == free || c != listFree && s != free && classes[s] == c {
					want += int(sh.counts[s])
				}
			}
			if length != want {
				r.t.Fatalf("class %d: %d in the list, %d counted", c, length, want)
			}
		}
		half += sh.length(classHalf)
		for n := range sh.entries {
			e := &sh.entries[n]
			if e.state == free {
				continue
			}
			total++
			if sh.find(r.tab.keys.hash(&e.key), &e.key) != uint32(n+1) {
				r.t.Fatalf("entry %d is not found", n)
			}
		}
		for _, v := range sh.slots {
			if v != 0 {
				total--
			}
		}
		if total != 0 {
			r.t.Fatal("index and entries differ")
		}
	}
	r.soundAliases(&st)
	for i := range r.tab.limits.ports {
		ports += int(r.tab.limits.ports[i].opened.Load())
	}
	for row := range sources {
		for i := range r.tab.limits.sources[row] {
			c := int(r.tab.limits.sources[row][i].Load())
			if c < 0 {
				r.t.Fatal("a source has less than no flow")
			}
			sources[row] += c
		}
	}
	if half != st.HalfOpen || ports != st.Entries || sources != [2]int{half, half} {
		r.t.Fatalf("half-open %d, of sources %v; opened by ports %d; %+v", half, sources, ports, st)
	}
}

func (sh *shard) length(c class) (n int) {
	for at := sh.lists[c].oldest; at != 0; at = sh.links[at].newer {
		n++
	}
	return n
}
