// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// What policy makes of packets on their way through the worker. What policies mean, and how flows are followed, is
// tested where they are.

// closed lets nobody in to the pods A and B but each other, by isolate's policy.
func closed(s *api.Snapshot) { podNode(s); isolate(s) }

// shut lets nobody in at all.
func shut(s *api.Snapshot) {
	closed(s)
	s.Policies[0].Rules = nil
}

// talk is a UDP datagram from one address to the other, by the port of who sends it.
func (r *rig) talk(by packet.PortID, src, dst string) (out [][]byte) {
	r.t.Helper()
	r.inject(1, onTrunk(by, udp(r.t, 1, src, dst, 20, nil)))
	r.poll()
	return append(r.sent(0), r.sent(1)...)
}

// answer is talk with the ports of udp turned round.
func (r *rig) answer(by packet.PortID, src, dst string) (out [][]byte) {
	r.t.Helper()
	r.inject(1, onTrunk(by, answerOf(udp(r.t, 1, src, dst, 20, nil))))
	r.poll()
	return append(r.sent(0), r.sent(1)...)
}

// answerOf turns the ports of a UDP packet round.
func answerOf(data []byte) []byte {
	at := 14 + 20
	if data[12] == 0x86 {
		at = 14 + 40
	}
	ports := data[at : at+4]
	ports[0], ports[1], ports[2], ports[3] = ports[2], ports[3], ports[0], ports[1]
	return data
}

// unreachable is an ICMP error about a packet.
func unreachable(t *testing.T, device int, src, dst string, about []byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: hostMACs[device][:], DstMAC: portMACs[device][:]}
	if netip.MustParseAddr(src).Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		return build(t, eth,
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: ip(src), DstIP: ip(dst)},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(about[14:]))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: ip(src), DstIP: ip(dst)}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 0)}
	_ = icmp.SetNetworkLayerForChecksum(h)
	return build(t, eth, h, icmp, gopacket.Payload(append(make([]byte, 4), about[14:]...)))
}

var podFamilies = []struct{ a, b, host, world string }{
	{"10.244.1.7", "10.244.1.8", "10.244.1.1", "8.8.8.8"},
	{"fd00:244::7", "fd00:244::8", "fd00:244::1", "2001:db8::9"},
}

func TestPolicy(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, closed)
		if out := r.talk(podA, f.a, f.b); len(out) != 1 {
			t.Errorf("%s to %s, which policy lets: %d packets left", f.a, f.b, len(out))
		}
		if out := r.talk(theHost, f.world, f.b); len(out) != 0 || r.count(theHost, verdict.IngressDenied) != 1 {
			t.Errorf("%s to %s, which policy denies: %d packets left", f.world, f.b, len(out))
		}
		if out := r.talk(podA, f.a, f.world); len(out) != 1 {
			t.Errorf("%s to %s: %d packets left", f.a, f.world, len(out))
		}
		if out := r.answer(theHost, f.world, f.a); len(out) != 1 {
			t.Errorf("the answer to %s: %d packets left", f.a, len(out))
		}
		if out := r.talk(theHost, f.host, f.b); len(out) != 1 {
			t.Errorf("the node to its pod: %d packets left", len(out))
		}
		if out := r.talk(theHost, f.a, f.a); len(out) != 1 {
			t.Errorf("a pod to itself by way of the host: %d packets left", len(out))
		}
		d := r.worker.Denials().List()
		if len(d) != 1 || d[0].Tuple.Src.String() != f.world || d[0].In != theHost || d[0].Out != podB ||
			d[0].Reason != verdict.IngressDenied || d[0].Packets != 1 {
			t.Errorf("remembered: %+v", d)
		}
	}
}

// Of a denied packet its sender is told nothing, not even what would have been amiss with it.
func TestDeniedIsSilent(t *testing.T) {
	r := newRig(t, closed)
	for _, change := range []func(*layers.IPv4){
		func(h *layers.IPv4) { h.TTL = 1 }, func(h *layers.IPv4) { h.Flags = layers.IPv4DontFragment },
	} {
		r.inject(1, onTrunk(theHost, udp(t, 1, "8.8.8.8", "10.244.1.8", 1400, change)))
		r.poll()
	}
	if out := r.sent(1); len(out) != 0 || r.count(theHost, verdict.IngressDenied) != 2 {
		t.Errorf("%d packets left", len(out))
	}
}

// A flow that was let in is judged by the policies in force, whichever end speaks, and comes back with them.
func TestRevocation(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, closed)
		if out := append(r.talk(podA, f.a, f.b), r.answer(podB, f.b, f.a)...); len(out) != 2 {
			t.Fatalf("%d packets left", len(out))
		}
		r.apply(shut)
		if out := append(r.answer(podB, f.b, f.a), r.talk(podA, f.a, f.b)...); len(out) != 0 {
			t.Errorf("%d packets left of a flow that is denied", len(out))
		}
		if r.count(podB, verdict.IngressDenied) != 1 || r.count(podA, verdict.IngressDenied) != 1 {
			t.Error("not counted as denied at both ends")
		}
		r.apply(closed)
		if out := append(r.talk(podA, f.a, f.b), r.answer(podB, f.b, f.a)...); len(out) != 2 {
			t.Errorf("%d packets left of a flow that is let again", len(out))
		}
		if s := r.worker.flows.Stats(); s.Opened != 1 || s.Revoked != 1 || s.Entries != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// A flow is known from the packet on that is really sent, and not before.
func TestFlowsOpenWhenTheyLeave(t *testing.T) {
	r := newRig(t, withLink(func(s *api.Snapshot) {
		closed(s)
		s.Limits = []*api.Limit{{Port: podB, ToPortBitsPerSecond: 1000, ToPortBurstBytes: 100}}
	}))
	entries := func() int { return r.worker.flows.Entries() }
	r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.2.0.2", 20, nil)))
	r.poll() // its neighbour is asked for
	if len(r.sent(0)) != 1 || entries() != 0 {
		t.Fatalf("%d flows before the neighbour is known", entries())
	}
	r.neighbors.Learn(1, packet.AddrFrom(netip.MustParseAddr("10.2.0.2")), hostMACs[0], neighbor.SolicitedOverride, r.now)
	r.poll()
	if out := r.sent(0); len(out) != 1 || entries() != 1 {
		t.Errorf("%d packets left, %d flows", len(out), entries())
	}
	r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.244.1.8", 1400, func(h *layers.IPv4) { h.TTL = 1 })))
	r.poll()
	if entries() != 1 {
		t.Error("a packet whose TTL ran out opened a flow")
	}
}

// What claims to be of a pod's flow and comes by another port than the pod's is not the pod's.
func TestForgedPacketOfAFlow(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, closed)
		if out := r.talk(podA, f.a, f.b); len(out) != 1 {
			t.Fatalf("%d packets left", len(out))
		}
		if out := r.talk(theHost, f.a, f.b); len(out) != 0 || r.count(theHost, verdict.SpoofedSource) != 1 {
			t.Errorf("%d forged packets left", len(out))
		}
		if out := r.answer(podB, f.b, f.a); len(out) != 1 {
			t.Errorf("the answer: %d packets left", len(out))
		}
	}
}

// Nobody on a link begins a flow as a pod, nor as the node.
func TestForgedFlow(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, withLink(closed))
		for i, from := range []string{f.a, f.host} {
			r.inject(0, udp(t, 0, from, f.b, 20, nil))
			r.poll()
			if out := r.sent(1); len(out) != 0 || r.count(1, verdict.SpoofedSource) != uint64(i+1) {
				t.Errorf("from %s: %d packets left", from, len(out))
			}
		}
		r.inject(0, udp(t, 0, f.world, f.b, 20, nil))
		r.poll()
		if r.count(1, verdict.IngressDenied) != 1 {
			t.Errorf("from %s: not denied by policy", f.world)
		}
	}
}

// What policy says of the first fragment of a datagram holds for the others, before and behind it.
func TestPolicyOfFragments(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, closed)
		for i, from := range []struct {
			port packet.PortID
			src  string
			left int
		}{{podA, f.a, 3}, {theHost, f.world, 0}} {
			all := inPieces(t, from.src, f.b, uint32(i+1), 300, 104)
			if left := r.come(from.port, all, 1, 0, 2); len(left) != from.left {
				t.Errorf("from %s: of 3 fragments %v left", from.src, left)
			}
		}
		if n := r.count(theHost, verdict.IngressDenied); n != 3 {
			t.Errorf("%d of 3 counted as denied", n)
		}
	}
}

// withLink is a change with a port to a link in the place of podDirect's.
func withLink(change func(*api.Snapshot)) func(*api.Snapshot) {
	return func(s *api.Snapshot) {
		change(s)
		s.Ports = append([]*api.Port{{Id: 1, Name: "lab", Device: "dev0", Addresses: []*api.Prefix{prefix("10.2.0.1/24")}}},
			slices.DeleteFunc(s.Ports, func(p *api.Port) bool { return p.Id == podDirect })...)
		s.Groups = slices.DeleteFunc(s.Groups, func(g *api.NextHopGroup) bool { return g.Id == podDirect })
		s.Routes = slices.DeleteFunc(s.Routes, func(r *api.Route) bool { return r.Group == podDirect })
	}
}

// A flow between pods is judged again by its own ends' policies, whoever sends what makes it be asked about: who forges
// an answer on a link, or sends an ICMP error, gets it around neither.
func TestOthersDoNotRenewAFlow(t *testing.T) {
	const link = packet.PortID(1)
	for _, f := range podFamilies {
		for _, row := range []struct {
			name string
			by   packet.PortID
			data func() []byte
		}{
			{"an answer by the link", link, func() []byte { return answerOf(udp(t, 0, f.b, f.a, 20, nil)) }},
			{"an answer by the host", theHost, func() []byte { return answerOf(udp(t, 1, f.b, f.a, 20, nil)) }},
			{"an error by the link", link, func() []byte {
				return unreachable(t, 0, f.world, f.a, udp(t, 1, f.a, f.b, 20, nil))
			}},
			{"an error by the host", theHost, func() []byte {
				return unreachable(t, 1, f.world, f.a, udp(t, 1, f.a, f.b, 20, nil))
			}},
		} {
			r := newRig(t, withLink(closed))
			send := func() (left int) {
				if row.by == link {
					r.inject(0, row.data())
				} else {
					r.inject(1, onTrunk(row.by, row.data()))
				}
				r.poll()
				return len(r.sent(0)) + len(r.sent(1))
			}
			if out := r.talk(podA, f.a, f.b); len(out) != 1 {
				t.Fatalf("%d packets left", len(out))
			}
			isError := row.name[3] == 'e'
			if left := send(); (left == 1) != isError {
				t.Errorf("%s: %d packets left", row.name, left)
			}
			r.apply(withLink(shut))
			if left := send(); left != 0 {
				t.Errorf("%s, when the flow is denied: %d packets left", row.name, left)
			}
			if out := r.talk(podA, f.a, f.b); len(out) != 0 {
				t.Errorf("%s: the flow goes on, though it is denied", row.name)
			}
			r.apply(withLink(closed))
			if left := send(); (left == 1) != isError {
				t.Errorf("%s, when the flow is let again: %d packets left", row.name, left)
			}
			if out := r.talk(podA, f.a, f.b); len(out) != 1 {
				t.Errorf("%s: the flow does not go on, though it is let", row.name)
			}
		}
	}
}

// segment is a TCP segment, of which nothing follows.
func segment(t *testing.T, src, dst string, from, to layers.TCPPort, flags func(*layers.TCP)) []byte {
	t.Helper()
	h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: ip(src), DstIP: ip(dst)}
	s := &layers.TCP{SrcPort: from, DstPort: to, Seq: 1000, Ack: 5000, Window: 1000}
	flags(s)
	_ = s.SetNetworkLayerForChecksum(h)
	eth := &layers.Ethernet{SrcMAC: hostMACs[1][:], DstMAC: portMACs[1][:], EthernetType: layers.EthernetTypeIPv4}
	return build(t, eth, h, s)
}

// What is taken up from either end, as it was open before, opens no way for a new connection from the end that policy
// does not let in.
func TestNoConnectionByWhatWasTakenUp(t *testing.T) {
	r := newRig(t, closed)
	r.worker.flows = conntrack.New(conntrack.Config{Flows: 64, Loose: r.now + 1e12})
	r.worker.pipeline.Init(r.worker.flows, nil)
	send := func(data []byte) int {
		r.inject(1, onTrunk(theHost, data))
		r.poll()
		return len(r.sent(1))
	}
	if left := send(segment(t, "8.8.8.8", "10.244.1.7", 443, 40000, func(s *layers.TCP) { s.ACK = true })); left != 1 {
		t.Fatalf("%d segments left of a connection that may have been open", left)
	}
	if left := send(segment(t, "8.8.8.8", "10.244.1.7", 443, 40000, func(s *layers.TCP) { s.SYN = true })); left != 0 {
		t.Errorf("%d SYNs left that policy denies", left)
	}
}

// A connection that policy denies does not go on when its flow was forgotten, by a dataplane that began anew or because
// it was idle, whichever end speaks first: what is an answer by its ports is not taken for a beginning.
func TestForgottenConnectionStaysDenied(t *testing.T) {
	ack := func(s *layers.TCP) { s.ACK = true }
	answer := func(s *layers.TCP) { s.ACK, s.Seq, s.Ack = true, 5000, 1000 }
	for _, row := range []struct {
		name       string
		loose      int64
		from, to   layers.TCPPort // of what pod A says to the world, which policy lets A begin
		left, back int
	}{
		{"asked, after a start", 1e12, 80, 40000, 0, 0}, {"asked, later", 0, 80, 40000, 0, 0},
		{"ports do not tell, after a start", 1e12, 40001, 40000, 0, 0},
		{"ports do not tell, later", 0, 40001, 40000, 1, 1},
		{"opener", 1e12, 40000, 80, 1, 1}, {"opener, later", 0, 40000, 80, 1, 1},
	} {
		r := newRig(t, closed)
		r.worker.flows = conntrack.New(conntrack.Config{Flows: 64, Loose: r.now + row.loose})
		r.worker.pipeline.Init(r.worker.flows, nil)
		r.inject(1, onTrunk(podA, segment(t, "10.244.1.7", "8.8.8.8", row.from, row.to, ack)))
		r.poll()
		left := len(r.sent(1))
		r.inject(1, onTrunk(theHost, segment(t, "8.8.8.8", "10.244.1.7", row.to, row.from, answer)))
		r.poll()
		if back := len(r.sent(1)); left != row.left || back != row.back {
			t.Errorf("%s: %d segments left, %d came back; want %d and %d", row.name, left, back, row.left, row.back)
		}
	}
}

// What comes by a link with a source that is a pod's of this node is not the pod's: it opens no flow, neither to
// another pod that lets that one in nor, as if it spoke to itself, to that one.
func TestForgedPacketByALink(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, withLink(closed))
		for i, to := range []string{f.b, f.a} {
			r.inject(0, udp(t, 0, f.a, to, 20, nil))
			r.poll()
			if out := append(r.sent(0), r.sent(1)...); len(out) != 0 || r.count(1, verdict.SpoofedSource) != uint64(i+1) {
				t.Errorf("%d packets left from a forged %s to %s", len(out), f.a, to)
			}
		}
	}
}

// Of what may have been open before, and is denied either way, the tuple is remembered as it was sent.
func TestDeniedEitherWay(t *testing.T) {
	r := newRig(t, func(s *api.Snapshot) {
		shut(s)
		s.Policies[0].Egress = true
	})
	r.worker.flows = conntrack.New(conntrack.Config{Flows: 64, Loose: r.now + 1e12})
	r.worker.pipeline.Init(r.worker.flows, nil)
	r.inject(1, onTrunk(theHost, segment(t, "8.8.8.8", "10.244.1.7", 4000, 80, func(s *layers.TCP) { s.ACK = true })))
	r.poll()
	d := r.worker.Denials().List()
	if len(d) != 1 || d[0].Tuple.Src.String() != "8.8.8.8" || d[0].In != theHost || d[0].Out != podA ||
		d[0].Reason != verdict.IngressDenied {
		t.Errorf("remembered: %+v", d)
	}
}

// A flood from the world does not have the node itself repeat its requests: kubelet's probes may have but a second.
func TestFloodByTheHostsPort(t *testing.T) {
	r := newRig(t, podNode)
	send := func(src string, from layers.TCPPort) (left int) {
		r.inject(1, onTrunk(theHost, segment(t, src, "10.244.1.7", from, 80, func(s *layers.TCP) { s.SYN = true })))
		r.poll()
		return len(r.sent(1))
	}
	passed := 0
	for from := range layers.TCPPort(100) {
		passed += send("8.8.8.8", 1000+from)
	}
	if passed == 0 || passed == 100 || r.count(theHost, verdict.SYNFlood) != uint64(100-passed) {
		t.Fatalf("%d SYNs of a flood left", passed)
	}
	if left := send("10.244.1.1", 1000); left != 1 {
		t.Errorf("%d SYNs of the node's own left", left)
	}
	if s := r.worker.flows.Stats(); s.Unrepeated != uint64(100-passed) {
		t.Errorf("%d SYNs have to be repeated", s.Unrepeated)
	}
}

// What a pod sends to a service, and the host's stack leads on to another pod, is judged by both pods' policies when it
// comes back.
func TestWhatTheHostLedElsewhere(t *testing.T) {
	for _, f := range podFamilies {
		r := newRig(t, closed)
		if out := r.talk(theHost, f.a, f.b); len(out) != 1 {
			t.Errorf("%d packets left that both let", len(out))
		}
		r = newRig(t, func(s *api.Snapshot) {
			closed(s)
			s.Policies[0].Egress = true // and no rule lets anything out
		})
		if out := r.talk(theHost, f.a, f.b); len(out) != 0 || r.count(theHost, verdict.EgressDenied) != 1 {
			t.Errorf("%d packets left that the sender's policy denies", len(out))
		}
	}
}
