// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestWorkers: two workers with both directions of the same flows, and others that sweep and look.
func TestWorkers(t *testing.T) {
	r := newRig(t, false, Config{Flows: 64, PerPort: 40, PerSource: 1000})
	var workers sync.WaitGroup
	for w := range 2 {
		workers.Go(func() {
			a, b := r.a, r.b
			if w == 1 {
				a, b = b, a
			}
			now := r.now
			var guesses [1]Guess
			for i := range 20_000 {
				now += second / 1000
				src, dst := uint16(1+i%90), uint16(1+i%90)
				p := parse(t, ipPacket(a, b, packet.ProtoUDP, udpBytes(src, dst, 1)))
				guesses[0] = r.tab.Guess(p.Data())
				r.tab.Foresee(guesses[:])
				s := r.tab.seen(p, packet.PortID(w+1), now, uint32(i/5000))
				switch s.Status {
				case NewFlow:
					r.tab.Open(&s, p, packet.PortID(w+1), packet.PortID(2-w), now, uint32(i/5000), 1)
				case Stale:
					r.tab.Keep(&s, uint32(i/5000), 2)
				}
				if i%50 == 0 {
					r.tab.Sweep(now, 0, 1)
				}
			}
		})
	}
	workers.Go(func() {
		for range 200 {
			for f := range r.tab.All(r.now) {
				if f.Tuple.SrcPort != f.Tuple.DstPort {
					t.Error("a torn flow", f)
				}
			}
			r.tab.Stats()
		}
	})
	workers.Wait()
	r.sound()
}

// TestNoAllocation: nothing in a packet's way allocates.
func TestNoAllocation(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 64})
		ask := r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20))
		about := r.errorAbout(ask, r.a, 0)
		syn, ack := r.segment("c S 1 win 1"), r.segment("s A 1 ack 1 win 1")
		var guesses [4]Guess
		generation := uint32(0)
		allocs := testing.AllocsPerRun(1000, func() {
			generation++
			for i, p := range []*packet.Packet{ask, about, syn, ack} {
				guesses[i] = r.tab.Guess(p.Data())
				s := r.tab.seen(p, portA, r.now, generation)
				if s.Status == NewFlow && r.tab.Open(&s, p, portA, portB, r.now, generation, 1) != verdict.None {
					t.Fatal("not opened")
				}
				r.tab.Keep(&s, generation, 2)
				if generation%3 == 0 {
					r.tab.Revoke(&s, generation, verdict.IngressDenied)
				}
			}
			r.tab.Foresee(guesses[:])
			r.now += second
			r.tab.Sweep(r.now, 0, 1)
		})
		if allocs != 0 {
			t.Fatalf("%v allocations", allocs)
		}
	})
}

// TestTranslationDoesNotAllocate: nor does anything in the way of a translated flow's packets.
func TestTranslationDoesNotAllocate(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{Flows: 4 * shardFlows})
		r.tab.left = func(uint32, bool) {}
		v, generation := r.front(1), uint32(0)
		ask, direct := r.udp(r.a, 1000, v, 53), r.udp(r.snat, 1000, r.b, 53)
		answer, about := r.udp(r.b, 53, r.snat, 1000), r.errorAbout(ask, r.a, 0)
		syn := r.from(packet.ProtoTCP, ask.Ends(), tcpSegment{seq: 1, flags: tcpSYN, window: 9, scale: 7}.bytes())
		allocs := testing.AllocsPerRun(1000, func() {
			generation++
			for _, p := range []*packet.Packet{ask, direct, answer, about, syn, ask} {
				s := &sinkSeen
				r.tab.Track(p, portA, r.now, generation, s)
				switch {
				case s.Status == NewFlow && p == direct:
					r.tab.Open(s, p, portA, portB, r.now, generation, 1)
				case s.Status == NewFlow:
					tr := Translation{Src: r.snat, Dst: r.b, DstPort: 53, Backend: 1}
					r.tab.OpenTranslated(s, p, portA, portB, r.now, generation, 1, &tr)
				}
				if p == ask && !s.Translated {
					t.Fatalf("%+v", s)
				}
				r.tab.Keep(s, generation, 2)
				if generation%3 == 0 {
					r.tab.Drop(s)
				}
			}
			r.now += second
			r.tab.Sweep(r.now, 0, 1)
		})
		if allocs != 0 {
			t.Fatalf("%v allocations", allocs)
		}
	})
}

// TestGuess: a guess is the hash that Track uses.
func TestGuess(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newRig(t, v6, Config{Flows: 1 << 15})
		for _, p := range []*packet.Packet{
			r.packet('c', packet.ProtoUDP, udpBytes(1000, 53, 20)), r.segment("s A 1 ack 1 win 1"),
		} {
			s := r.tab.seen(p, portA, r.now, 1)
			if got := r.tab.Guess(p.Data()); got.hash != s.hash || got.Proto != p.Proto || got.DstPort != p.DstPort {
				t.Fatalf("guessed %+v, is %x", got, s.hash)
			}
			for n := range p.Data() {
				r.tab.Guess(p.Data()[:n])
			}
		}
	})
}
