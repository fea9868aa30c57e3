// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// toServer opens a flow that is translated to the server, from the client's port 40000 to a frontend's.
func (r *pairRig) toServer() (Seen, packet.Ends) {
	r.t.Helper()
	r.frontends[r.front(1)] = &Translation{Dst: r.b, DstPort: 80, Backend: 5}
	s, reason := r.natRig.see(r.fromFront(tcpSYN, 100))
	if reason != verdict.None {
		r.t.Fatal(reason)
	}
	return s, s.Ends
}

// fromFront is a segment that the client sends to the frontend.
func (r *pairRig) fromFront(flags uint8, seq uint32) *packet.Packet {
	e := packet.Ends{Src: r.a, Dst: r.front(1), SrcPort: 40000, DstPort: 80}
	return r.from(packet.ProtoTCP, e, tcpSegment{src: 40000, dst: 80, seq: seq, flags: flags, scale: -1}.bytes())
}

// TestClaims: a translated flow that opens between a pair's addresses has its answers, and what comes as it is
// translated to, kept from the pair for as long as it is remembered.
func TestClaims(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		r.mustPair()
		_, far := r.toServer()
		for _, way := range []struct {
			ends packet.Ends
			in   packet.PortID
		}{{far, portA}, {far.Reverse(), portB}} {
			ref, d := r.kernel.Find(way.ends, packet.ProtoTCP, way.in)
			if _, ways, is := r.kernel.Flow(ref); !is || ways[d].Out != 0 {
				t.Errorf("%v is not claimed: %v", way.ends, ways)
			}
		}
		// The client speaks to the server itself from the same port: another connection.
		direct, reason := r.sent('c', tcpSYN, 900, 0)
		if direct.Paired || !direct.Translated || direct.Ends.SrcPort == far.SrcPort || reason != verdict.None {
			t.Errorf("the same ends again: %+v, %v", direct, reason)
		}
		// Another port is the pair's.
		s := tcpSegment{src: 40001, dst: 80, flags: tcpSYN, scale: -1}
		if other, _ := r.rig.see(r.packet('c', packet.ProtoTCP, s.bytes())); !other.Paired {
			t.Errorf("another port: %+v", other)
		}
		if ref, _ := r.kernel.Pair(r.a, r.b, portA); ref == 0 {
			t.Error("the pair is gone")
		}
		r.now += 3600 * second
		for range 2 * (sweepShare + 1) {
			r.tab.Sweep(r.now, 0, 1)
		}
		if st := r.kernel.Stats(); st.Records != 1 || st.Pairs != 1 || r.tab.Entries() != 0 {
			t.Errorf("left over: %+v, %d entries", st, r.tab.Entries())
		}
	})
}

// TestClaimsWithoutRoom: where the ends cannot be claimed, the pair goes, and its connections are taken up.
func TestClaimsWithoutRoom(t *testing.T) {
	for records := 2; records <= 3; records++ {
		r := newPairRig(t, false, records, Config{})
		r.mustPair()
		r.toServer()
		ref, _ := r.kernel.Pair(r.a, r.b, portA)
		list := r.tab.TakeDropped()
		if records == 3 {
			if ref == 0 || len(list) != 0 {
				t.Errorf("there is room, and the pair is dropped: %v", list)
			}
			continue
		}
		if ref != 0 || len(list) != 1 || list[0] != PairOf(r.a, r.b) || len(r.tab.TakeDropped()) != 0 {
			t.Errorf("record %d, dropped %v", ref, list)
		}
		s := tcpSegment{src: 80, dst: 40009, flags: tcpACK, scale: -1}
		if taken, reason := r.rig.see(r.packet('s', packet.ProtoTCP, s.bytes())); !taken.Reply || reason != verdict.None {
			t.Errorf("a connection of the pair is not taken up: %v", reason)
		}
	}
}

// TestTranslatedBeforePair: while a translated flow has packets between two addresses there is no pair of them, until
// it is over.
func TestTranslatedBeforePair(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for _, end := range []string{"RST", "drop", "expiry"} {
			r := newPairRig(t, v6, 8, Config{})
			s, _ := r.toServer()
			if r.pair() {
				t.Fatal("the pair is entered")
			}
			switch end {
			case "RST":
				r.natRig.see(r.fromFront(tcpRST, 101))
			case "drop":
				s = r.tab.seen(r.fromFront(tcpSYN, 100), portA, r.now, 1)
				r.tab.Drop(&s)
			case "expiry":
				r.now += 3600 * second
				for range 2 * (sweepShare + 1) {
					r.tab.Sweep(r.now, 0, 1)
				}
			}
			if !r.pair() {
				t.Errorf("after %s: the pair is not entered", end)
			}
			if st := r.kernel.Stats(); st.Records != 1 {
				t.Errorf("after %s: %+v", end, st)
			}
		}
	})
}
