// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// oneWayRig is a rig with a frontend whose backend answers directly.
func oneWayRig(t *testing.T, v6 bool) (*natRig, packet.Ends) {
	r := newNATRig(t, v6, Config{})
	r.frontends[r.front(1)] = &Translation{Dst: r.b, DstPort: 8080, Backend: 7, Direct: true}
	return r, packet.Ends{Src: r.a, Dst: r.front(1), SrcPort: 40000, DstPort: 80}
}

// goes wants the packet to keep its ends, to be led to the backend, and the flow to be in a state then.
func (r *natRig) goes(p *packet.Packet, state string) {
	r.t.Helper()
	s, reason := r.see(p)
	if reason != verdict.None || !s.Translated || s.Direct != r.b || s.Ends != p.Ends() || s.Waited != 0 {
		r.t.Fatalf("%v: %+v", reason, s)
	}
	for f := range r.tab.All(r.now) {
		if f.State != state || !f.Direct || f.Tuple.Dst != p.Dst || f.Ends.Dst != r.b || f.Ends.DstPort != 8080 {
			r.t.Fatalf("%+v, want %s", f, state)
		}
	}
}

func TestOneWayTCP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r, e := oneWayRig(t, v6)
		tcp := func(seq uint32, flags byte, payload int) *packet.Packet {
			return r.from(packet.ProtoTCP, e, tcpSegment{seq: seq, flags: flags, payload: payload}.bytes())
		}
		r.goes(tcp(100, tcpSYN, 0), "syn_sent")
		r.goes(tcp(100, tcpSYN, 0), "syn_sent")
		r.goes(tcp(101, tcpACK, 0), "one_way")
		r.goes(tcp(101, tcpACK, 50), "one_way")
		r.now += 14 * 60 * second
		r.goes(tcp(151, tcpACK, 50), "one_way")
		r.goes(tcp(7, tcpRST, 0), "one_way") // anybody's
		r.goes(tcp(7, tcpSYN, 0), "one_way")
		r.goes(tcp(201, tcpFIN|tcpACK, 0), "fin_wait")
		r.goes(tcp(202, tcpACK, 0), "fin_wait")
		r.lefts(7)
		r.goes(tcp(9000, tcpSYN, 0), "syn_sent")
		r.lefts(7, true)
		r.goes(tcp(9001, tcpRST, 0), "fin_wait")
		r.drained()
		r.lefts(7, true, true)
	})
}

func TestOneWayUDP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r, e := oneWayRig(t, v6)
		p := r.udp(e.Src, e.SrcPort, e.Dst, e.DstPort)
		r.goes(p, "udp_replied")
		r.now += 3 * second
		r.goes(p, "udp_stream")
		if s := r.tab.seen(r.udp(e.Dst, e.DstPort, e.Src, e.SrcPort), portB, r.now, 1); s.Status != Known || s.Translated {
			t.Errorf("an answer that comes by this node: %+v", s)
		}
		s := r.tab.seen(p, portA, r.now, 2)
		if s.Status != Stale || s.Tuple.Dst != r.b || s.Tuple.DstPort != 8080 || s.Tuple.Src != r.a {
			t.Errorf("policy is asked about %+v", s)
		}
		r.tab.Revoke(&s, 2, verdict.IngressDenied)
		if s = r.tab.seen(p, portA, r.now, 2); s.Reason != verdict.IngressDenied {
			t.Errorf("revoked: %+v", s)
		}
		r.drained()
		r.lefts(7, true)
	})
}
