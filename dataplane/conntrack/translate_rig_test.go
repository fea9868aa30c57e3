// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// natRig is a rig of four shards, in which flows to the frontends are translated, each by a translation of its own.
type natRig struct {
	*rig
	snat, other packet.Addr
	frontends   map[packet.Addr]*Translation
	left        map[uint32][]bool // by backend: had it answered
}

func newNATRig(t testing.TB, v6 bool, cfg Config) *natRig {
	r := &natRig{left: map[uint32][]bool{}, frontends: map[packet.Addr]*Translation{}}
	cfg.Left = func(backend uint32, answered bool) { r.left[backend] = append(r.left[backend], answered) }
	if cfg.Flows == 0 {
		cfg.Flows = 4 * shardFlows
	}
	r.rig = newRig(t, v6, cfg)
	r.snat, r.other = addr("10.9.0.1"), addr("10.1.0.77")
	if v6 {
		r.snat, r.other = addr("2001:db8:9::1"), addr("2001:db8::77")
	}
	return r
}

// front is the n-th frontend's address.
func (r *natRig) front(n int) packet.Addr {
	if r.v6 {
		return addr(fmt.Sprintf("2001:db8:f::%x", n))
	}
	return addr(fmt.Sprintf("10.96.0.%d", n))
}

// toPort9 translates both ends, and all source ports to 9.
func (r *natRig) toPort9(backend uint32) *Translation {
	return &Translation{
		Src: r.snat, Dst: r.b, DstPort: 8080, Backend: backend, FirstPort: 9, LastPort: 9, Random: true,
	}
}

// from is a packet with these ends.
func (r *natRig) from(proto packet.IPProto, e packet.Ends, payload []byte) *packet.Packet {
	r.t.Helper()
	p := parse(r.t, ipPacket(e.Src, e.Dst, proto, payload))
	if p.SrcPort|p.DstPort != 0 || proto == packet.ProtoTCP {
		p.SrcPort, p.DstPort = e.SrcPort, e.DstPort // the table reads them here
	}
	return p
}

func (r *natRig) udp(src packet.Addr, srcPort uint16, dst packet.Addr, dstPort uint16) *packet.Packet {
	return r.from(packet.ProtoUDP, packet.Ends{Src: src, Dst: dst, SrcPort: srcPort, DstPort: dstPort}, udpBytes(1, 2, 5))
}

// see tracks a packet, and opens its flow when it is a new one, translated if it goes to a frontend.
func (r *natRig) see(p *packet.Packet) (Seen, verdict.Reason) {
	s := r.tab.seen(p, portA, r.now, 1)
	if s.Status != NewFlow {
		return s, s.Reason
	}
	if tr := r.frontends[p.Dst]; tr != nil {
		return s, r.tab.OpenTranslated(&s, p, portA, portB, r.now, 1, 42, tr)
	}
	return s, r.tab.Open(&s, p, portA, portB, r.now, 1, 42)
}

// want tracks a packet and compares.
func (r *natRig) want(p *packet.Packet, status Status, ends packet.Ends) Seen {
	r.t.Helper()
	s := r.tab.seen(p, portA, r.now, 1)
	if s.Status == NewFlow {
		s, _ = r.see(p)
	}
	if s.Status != status || !s.Translated || s.Ends != ends {
		r.t.Fatalf("%v, %v: translated %t to %+v, want %v, %+v", s.Status, s.Reason, s.Translated, s.Ends, status, ends)
	}
	return s
}

// refused is a packet that is let in under no circumstances.
func (r *natRig) refused(p *packet.Packet, why verdict.Reason) {
	r.t.Helper()
	if s, reason := r.see(p); reason != why {
		r.t.Fatalf("%v, %v, want %v", s.Status, reason, why)
	}
}

// drained has everything expire and be swept, and checks that nothing is left.
func (r *natRig) drained() {
	r.t.Helper()
	r.now += 25 * 3600 * second
	for range 2 * (sweepShare + 1) {
		r.tab.Sweep(r.now, 0, 1)
	}
	r.sound()
	if st := r.tab.Stats(); st.Entries != 0 || st.Translated != 0 || st.Aliases != 0 {
		r.t.Fatalf("left over: %+v", st)
	}
}

func (r *natRig) lefts(backend uint32, answered ...bool) {
	r.t.Helper()
	if got := r.left[backend]; fmt.Sprint(got) != fmt.Sprint(answered) {
		r.t.Fatalf("backend %d was left %v, want %v", backend, got, answered)
	}
}
