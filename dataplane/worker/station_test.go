// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Pods 7 and 8 are at the trunk, which is device 1 of the rig, and so is the host, 9; pod 5 has device 0 to itself.
const podA, podB, podDirect, theHost = 7, 8, 5, 9

func podPort(id uint32, name, device string, attach api.Port_Attach, addresses ...string) *api.Port {
	p := &api.Port{Id: id, Name: name, Device: device, Attach: attach,
		Addresses: []*api.Prefix{prefix("169.254.1.1/32"), prefix("fe80::1/64")},
		Station:   &api.Station{Mac: hostMACs[0][:]}}
	for _, a := range addresses {
		p.Station.Addresses = append(p.Station.Addresses, ip(a))
	}
	return p
}

func podNode(s *api.Snapshot) {
	host := podPort(theHost, "host", "viaduct0", api.Port_ATTACH_HOST, "10.244.1.1", "fd00:244::1")
	host.Station.Router = true
	s.Ports = []*api.Port{
		podPort(podDirect, "default/direct", "dev0", api.Port_ATTACH_DIRECT, "10.244.1.5", "fd00:244::5"),
		podPort(podA, "default/a", "vd7", api.Port_ATTACH_TRUNK, "10.244.1.7", "fd00:244::7"),
		podPort(podB, "default/b", "vd8", api.Port_ATTACH_TRUNK, "10.244.1.8", "fd00:244::8"), host,
	}
	s.Groups, s.Routes = nil, nil
	for _, p := range s.Ports {
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: p.Id, Hops: []*api.NextHop{{Port: p.Id, Weight: 1}}})
		for _, a := range p.Station.Addresses {
			s.Routes = append(s.Routes, &api.Route{Prefix: a, Bits: uint32(8 * len(a)), Group: p.Id})
		}
	}
	s.Groups = append(s.Groups, &api.NextHopGroup{Id: 20, Hops: []*api.NextHop{{Port: theHost, Weight: 1, Mtu: 1500}}})
	addRoute(s, "0.0.0.0/0", 20)
	addRoute(s, "::/0", 20)
}

// podRig is a rig whose device 1 is the trunk.
func podRig(t testing.TB) *rig {
	t.Helper()
	return newRig(t, podNode)
}

// onTrunk is a packet as the hook at a port hands it over.
func onTrunk(id packet.PortID, data []byte) []byte {
	source, gateway := packet.TrunkMAC(id), packet.GatewayMAC
	if data[0]&1 == 0 {
		copy(data, gateway[:])
	}
	copy(data[6:], source[:])
	return data
}

// fromTrunk is the one packet that left by the trunk, without its Ethernet header, and the port that it names.
func (r *rig) fromTrunk() (packet.PortID, []byte) {
	r.t.Helper()
	all := r.sent(1)
	if len(all) != 1 || packet.MAC(all[0][6:12]) != packet.GatewayMAC {
		r.t.Fatalf("%d packets left: %x", len(all), all)
	}
	return packet.TrunkPort(packet.MAC(all[0][:6])), all[0][14:]
}

func TestPodToPod(t *testing.T) {
	for _, row := range []struct {
		src, dst string
		from, to packet.PortID
	}{
		{"10.244.1.7", "10.244.1.8", podA, podB}, {"fd00:244::7", "fd00:244::8", podA, podB},
		{"10.244.1.8", "8.8.8.8", podB, theHost}, {"fd00:244::8", "2001:db8::1", podB, theHost},
		{"192.0.2.77", "10.244.1.7", theHost, podA}, {"10.244.1.1", "10.244.1.7", theHost, podA},
		{"10.244.1.7", "10.244.1.7", theHost, podA}, // the host may have translated the destination
		{"10.244.1.7", "10.244.1.1", podA, theHost},
	} {
		r := podRig(t)
		sent := udp(t, 1, row.src, row.dst, 100, nil)
		r.inject(1, onTrunk(row.from, sent))
		r.poll()
		to, data := r.fromTrunk()
		if to != row.to {
			t.Errorf("%s to %s left for port %d, want %d", row.src, row.dst, to, row.to)
		}
		p := decode(append(make([]byte, 12), append(sent[12:14:14], data...)...))
		if u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); !ok || u.DstPort != 5678 || len(u.Payload) != 100 {
			t.Errorf("%s to %s: what left is %v", row.src, row.dst, p)
		}
		if n := r.neighbors.Statistics().Entries; n != 0 {
			t.Errorf("%d neighbours were made", n)
		}
	}
}

// Between the trunk and a device with sockets of its own.
func TestPodToDirect(t *testing.T) {
	r := podRig(t)
	r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.244.1.5", 100, nil)))
	r.poll()
	if out := r.sent(0); len(out) != 1 || packet.MAC(out[0][:6]) != hostMACs[0] ||
		packet.MAC(out[0][6:12]) != portMACs[0] {
		t.Fatalf("%x", out)
	}
	r.inject(0, udp(t, 0, "10.244.1.5", "10.244.1.7", 100, nil))
	r.poll()
	if to, _ := r.fromTrunk(); to != podA {
		t.Errorf("left for port %d", to)
	}
}

func TestStationsAreHeldToThemselves(t *testing.T) {
	arp := func(sender, target string) []byte {
		return build(
			t,
			&layers.Ethernet{
				SrcMAC:       hostMACs[0][:],
				DstMAC:       layers.EthernetBroadcast,
				EthernetType: layers.EthernetTypeARP,
			},
			&layers.ARP{AddrType: 1, Protocol: 0x800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
				SourceHwAddress: hostMACs[0][:], SourceProtAddress: ip(sender),
				DstHwAddress: make([]byte, 6), DstProtAddress: ip(target)},
		)
	}
	stranger := udp(t, 0, "10.244.1.5", "10.244.1.7", 10, nil)
	copy(stranger[6:], hostMACs[1][:])
	for name, row := range map[string]struct {
		device int
		data   []byte
		port   packet.PortID
		why    verdict.Reason
	}{
		"another pod's":      {1, onTrunk(podA, udp(t, 1, "10.244.1.8", "8.8.8.8", 10, nil)), podA, verdict.SpoofedSource},
		"another pod's IPv6": {1, onTrunk(podA, udp(t, 1, "fd00:244::8", "2001::1", 10, nil)), podA, verdict.SpoofedSource},
		"the gateway's":      {1, onTrunk(podA, udp(t, 1, "169.254.1.1", "10.244.1.8", 1, nil)), podA, verdict.SpoofedSource},
		"a martian":          {1, onTrunk(podA, udp(t, 1, "127.0.0.1", "10.244.1.8", 10, nil)), podA, verdict.MartianSource},
		"direct":             {0, udp(t, 0, "10.244.1.7", "10.244.1.8", 10, nil), podDirect, verdict.SpoofedSource},
		"direct, MAC":        {0, stranger, podDirect, verdict.SourceMACInvalid},
		"ARP":                {1, onTrunk(podA, arp("10.244.1.8", "169.254.1.1")), podA, verdict.MartianSource},
		"no such port":       {1, onTrunk(77, udp(t, 1, "10.244.1.7", "10.244.1.8", 10, nil)), 0, verdict.UnknownPort},
		"a port elsewhere":   {1, onTrunk(podDirect, udp(t, 1, "10.244.1.5", "10.244.1.8", 10, nil)), 0, verdict.UnknownPort},
		"link-local":         {1, onTrunk(podA, udp(t, 1, "fe80::7", "fd00:244::8", 1, nil)), podA, verdict.LinkLocalForward},
	} {
		r := podRig(t)
		r.inject(row.device, row.data)
		r.poll()
		if r.count(row.port, row.why) != 1 {
			t.Errorf("%s: not counted as %s on port %d", name, row.why, row.port)
		}
		if n := len(r.sent(0)) + len(r.sent(1)); n != 0 {
			t.Errorf("%s: %d packets left", name, n)
		}
	}
}

// The gateway answers ARP and neighbour discovery, on the trunk to the port, whatever MAC the message has.
func TestGatewayAnswers(t *testing.T) {
	r := podRig(t)
	request := build(
		t,
		&layers.Ethernet{SrcMAC: hostMACs[1][:], DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: 1, Protocol: 0x800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: hostMACs[1][:], SourceProtAddress: ip("10.244.1.7"), DstHwAddress: make([]byte, 6),
			DstProtAddress: ip("169.254.1.1")},
	)
	r.inject(1, onTrunk(podA, request))
	r.poll()
	to, data := r.fromTrunk()
	reply, _ := gopacket.NewPacket(data, layers.LayerTypeARP, gopacket.Default).Layer(layers.LayerTypeARP).(*layers.ARP)
	if to != podA || reply == nil || reply.Operation != layers.ARPReply ||
		packet.MACFrom(reply.SourceHwAddress) != packet.GatewayMAC ||
		packet.MACFrom(reply.DstHwAddress) != hostMACs[1] ||
		!net.IP(reply.SourceProtAddress).Equal(net.IP(ip("169.254.1.1"))) {
		t.Errorf("to port %d: %v", to, reply)
	}
	for _, source := range []string{"fd00:244::7", "fe80::77", "::"} {
		r.inject(1, onTrunk(podA, solicitation(t, source, "fe80::1")))
		r.poll()
		to, data := r.fromTrunk()
		p := gopacket.NewPacket(data, layers.LayerTypeIPv6, gopacket.Default)
		na, _ := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		if to != podA || na == nil || !na.TargetAddress.Equal(net.IP(ip("fe80::1"))) {
			t.Errorf("from %s: to port %d: %v", source, to, p)
		}
	}
	if n := r.neighbors.Statistics().Entries; n != 0 {
		t.Errorf("%d neighbours were learned of stations", n)
	}
	// Duplicate address detection of the pod's own address is nobody's to answer.
	r.inject(1, onTrunk(podA, solicitation(t, "::", "fd00:244::7")))
	r.poll()
	if out := r.sent(1); len(out) != 0 {
		t.Errorf("answered: %x", out)
	}
}

func solicitation(t *testing.T, source, target string) []byte {
	h := &layers.IPv6{
		Version:    6,
		HopLimit:   255,
		NextHeader: layers.IPProtocolICMPv6,
		SrcIP:      ip(source),
		DstIP:      ip("ff02::1:ff00:1"),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	_ = icmp.SetNetworkLayerForChecksum(h)
	ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: ip(target)}
	if source != "::" {
		ns.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: hostMACs[0][:]}}
	}
	return build(t, &layers.Ethernet{SrcMAC: hostMACs[0][:], DstMAC: net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 1},
		EthernetType: layers.EthernetTypeIPv6}, h, icmp, ns)
}

// What a pod is told comes from an address of the host's, since the gateway's means nothing elsewhere.
func TestErrorsComeFromTheHost(t *testing.T) {
	r := podRig(t)
	r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.244.1.8", 10, func(h *layers.IPv4) { h.TTL = 1 })))
	r.poll()
	to, data := r.fromTrunk()
	if h, ok := gopacket.NewPacket(data, layers.LayerTypeIPv4, gopacket.Default).NetworkLayer().(*layers.IPv4); !ok ||
		to != podA ||
		h.SrcIP.String() != "10.244.1.1" {
		t.Errorf("to port %d: %x", to, data)
	}
}

// A limit delays what comes over the burst, in order, and drops what would wait too long.
func TestLimitDelays(t *testing.T) {
	for name, limit := range map[string]*api.Limit{
		"from": {Port: podA, FromPortBitsPerSecond: 8e6, FromPortBurstBytes: 3000},
		"to":   {Port: podB, ToPortBitsPerSecond: 8e6, ToPortBurstBytes: 3000},
	} {
		r := newRig(t, func(s *api.Snapshot) {
			podNode(s)
			s.Limits = []*api.Limit{limit}
		})
		for i := range 100 { // 1000 bytes each, 8 Mb/s: one a millisecond
			data := udp(t, 1, "10.244.1.7", "10.244.1.8", 1000-42, nil)
			binary.BigEndian.PutUint32(data[42:], uint32(i))
			r.inject(1, onTrunk(podA, data))
		}
		r.poll()
		at, injected := make(map[int]int), uint64(100)
		next := uint32(0)
		take := func(pass int) {
			for _, data := range r.sent(1) {
				if n := binary.BigEndian.Uint32(data[42:]); n != next {
					t.Fatalf("%s: packet %d left in the place of %d", name, n, next)
				}
				next++
				at[pass]++
			}
		}
		take(0)
		if n := r.held(); at[0] < 3 || at[0] > 5 || n < 45 || n > 52 {
			t.Fatalf("%s: %d left at once and %d wait; the burst is 3, and 50 may wait", name, at[0], n)
		}
		for pass := range 60 {
			if pass == 20 { // one that comes behind those that wait leaves behind them
				data := udp(t, 1, "10.244.1.7", "10.244.1.8", 1000-42, nil)
				binary.BigEndian.PutUint32(data[42:], next+uint32(r.held()))
				r.inject(1, onTrunk(podA, data))
				injected++
			}
			r.poll() // a millisecond each
			take(pass + 1)
			if at[pass+1] > 2 {
				t.Fatalf("%s: %d left in one millisecond", name, at[pass+1])
			}
		}
		if refused := r.count(podA, verdict.OverLimit); uint64(next)+refused != injected || r.held() != 0 {
			t.Errorf("%s: %d left and %d were refused, of %d", name, next, refused, injected)
		}
	}
}

// What waits for a limit is judged again, and is dropped when its port has gone.
func TestLimitedPortGoes(t *testing.T) {
	limited := func(s *api.Snapshot) {
		podNode(s)
		s.Limits = []*api.Limit{{Port: podA, FromPortBitsPerSecond: 8e6, FromPortBurstBytes: 1000}}
	}
	r := newRig(t, limited)
	for range 20 {
		r.inject(1, onTrunk(podA, udp(t, 1, "10.244.1.7", "10.244.1.8", 1000, nil)))
	}
	r.poll()
	r.sent(1)
	r.apply(func(s *api.Snapshot) {
		podNode(s)
		s.Ports = append(s.Ports[:1:1], s.Ports[2:]...)
		s.Groups = append(s.Groups[:1:1], s.Groups[2:]...)
		var left []*api.Route
		for _, to := range s.Routes {
			if to.Group != podA {
				left = append(left, to)
			}
		}
		s.Routes = left
	})
	for range 60 {
		r.poll()
	}
	if out := r.sent(1); len(out) != 0 {
		t.Errorf("%d packets of a port that is gone left", len(out))
	}
	if n := r.count(0, verdict.UnknownPort); n < 15 {
		t.Errorf("%d counted", n)
	}
}

// A pass over packets between pods, of which some are spoofed and some wait, allocates nothing.
func TestPodsAllocateNothing(t *testing.T) {
	r := newRig(t, func(s *api.Snapshot) {
		podNode(s)
		s.Limits = []*api.Limit{{Port: podB, ToPortBitsPerSecond: 80e6, ToPortBurstBytes: 5000}}
	})
	good, bad := onTrunk(
		podA,
		udp(t, 1, "10.244.1.7", "10.244.1.8", 500, nil),
	), onTrunk(
		podA,
		udp(t, 1, "1.1.1.1", "10.244.1.8", 500, nil),
	)
	pass := func() {
		for range 16 {
			r.rings[1].Inject(good)
			r.rings[1].Inject(bad)
		}
		r.now += 1e6
		r.worker.Poll(r.now)
		r.rings[1].Drain(func([]byte, bool) {})
	}
	for range 200 {
		pass()
	}
	if n := testing.AllocsPerRun(200, pass); n != 0 {
		t.Errorf("%v allocations a pass", n)
	}
}

// held is how many packets wait; the ledger balances.
func (r *rig) held() uint64 {
	r.t.Helper()
	all := r.checkLedger()
	return all.Get(ledger.Held)
}
