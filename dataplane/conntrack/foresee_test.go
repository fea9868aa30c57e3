// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestForesee: of the packets of a batch those are foreseen to be of no known flow that are of none, be the others
// found by an entry or by an alias. Nothing becomes of the table by it.
func TestForesee(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newNATRig(t, v6, Config{})
		r.frontends[r.front(1)] = &Translation{Dst: r.b, DstPort: 8080, Src: r.snat, Backend: 1}
		packetOf := func(src packet.Addr, srcPort uint16, dst packet.Addr, dstPort uint16) *packet.Packet {
			return r.from(packet.ProtoUDP, packet.Ends{
				Src: src, Dst: dst, SrcPort: srcPort, DstPort: dstPort,
			}, udpBytes(srcPort, dstPort, 5))
		}
		plain, asked := packetOf(r.a, 7, r.b, 53), packetOf(r.a, 1000, r.front(1), 80)
		other, stranger := packetOf(r.a, 8, r.b, 53), packetOf(r.a, 1001, r.front(1), 80)
		for _, p := range []*packet.Packet{plain, asked} {
			if _, reason := r.see(p); reason != verdict.None {
				t.Fatal(reason)
			}
		}
		answer := packetOf(r.b, 8080, r.snat, 1000)
		guesses := make([]Guess, 5)
		for i, p := range []*packet.Packet{plain, asked, answer, other, stranger} {
			guesses[i] = r.tab.Guess(p.Data())
		}
		r.tab.Foresee(guesses)
		for i, unknown := range []bool{false, false, false, true, true} {
			if guesses[i].Unknown() != unknown {
				t.Errorf("%d: %+v", i, guesses[i])
			}
		}
		r.tab.GuessOpen(&guesses[4], stranger.Data(), r.b, 8080)
		for i := range guesses {
			if guesses[i].Opens() != (i == 4) {
				t.Errorf("%d opens: %v", i, guesses[i].Opens())
			}
		}
		r.tab.ForeseeOpen(guesses)
		s := r.tab.seen(stranger, portA, r.now, 1)
		r.tab.ForeseeThis(&s, stranger, r.b, 8080)
		if s, reason := r.see(stranger); reason != verdict.None || !s.Translated {
			t.Errorf("%+v: %s", s, reason)
		}
		r.sound()
	})
}
