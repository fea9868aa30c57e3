// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// What leaves is compared byte by byte with the packet as another implementation builds it.
func TestForwardRewritesTheHeaderOnly(t *testing.T) {
	for _, c := range []struct {
		name, src, dst string
		size           int
	}{
		{"IPv4 by a route", "10.1.0.2", "10.20.1.1", 18},
		{"IPv4 on-link", "10.1.0.2", "10.2.0.2", 1400},
		{"IPv6 by a route", "fd00:1::2", "fd00:20::1", 18},
		{"IPv6 on-link", "fd00:1::2", "fd00:2::2", 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil).know()
			in := udp(t, 0, c.src, c.dst, c.size, nil)
			want := decode(bytes.Clone(in))
			eth := want.LinkLayer().(*layers.Ethernet)
			eth.SrcMAC, eth.DstMAC = portMACs[1][:], hostMACs[1][:]
			switch h := want.NetworkLayer().(type) {
			case *layers.IPv4:
				h.TTL--
			case *layers.IPv6:
				h.HopLimit--
			}
			b := gopacket.NewSerializeBuffer()
			u := want.TransportLayer().(*layers.UDP)
			_ = u.SetNetworkLayerForChecksum(want.NetworkLayer())
			if err := gopacket.SerializePacket(b, gopacket.SerializeOptions{ComputeChecksums: true}, want); err != nil {
				t.Fatal(err)
			}
			out, back := r.forward(0, in)
			if len(out) != 1 || len(back) != 0 {
				t.Fatalf("%d packets left, %d came back", len(out), len(back))
			}
			if !bytes.Equal(out[0], b.Bytes()) {
				t.Errorf("left:\n%x\nwant:\n%x", out[0], b.Bytes())
			}
			if r.count(1, verdict.Routed) != 1 {
				t.Error("not counted as routed")
			}
		})
	}
}

// answers says what becomes of packets that are not forwarded: the reason, and the ICMP message that comes back.
func TestPacketsThatAreAnswered(t *testing.T) {
	ttl := func(n uint8) func(*layers.IPv4) { return func(h *layers.IPv4) { h.TTL = n } }
	df := func(h *layers.IPv4) { h.Flags = layers.IPv4DontFragment }
	for _, c := range []struct {
		name, dst string
		size      int
		change    func(*layers.IPv4)
		reason    verdict.Reason
		icmp      layers.ICMPv4TypeCode // zero value (echo reply) for none
		icmp6     layers.ICMPv6TypeCode
	}{
		{"TTL 1", "10.20.0.1", 10, ttl(1), verdict.TTLExceeded, layers.CreateICMPv4TypeCode(11, 0), 0},
		{"no route", "192.0.2.1", 10, nil, verdict.NoRoute, layers.CreateICMPv4TypeCode(3, 0), 0},
		{"blackhole", "10.21.0.1", 10, nil, verdict.Blackhole, 0, 0},
		{"unreachable", "10.22.0.1", 10, nil, verdict.Unreachable, layers.CreateICMPv4TypeCode(3, 1), 0},
		{"prohibited", "10.23.0.1", 10, nil, verdict.Prohibited, layers.CreateICMPv4TypeCode(3, 13), 0},
		{"too long for the port, DF", "10.20.0.1", 3000, df, verdict.FragmentationNeeded,
			layers.CreateICMPv4TypeCode(3, 4), 0},
		{"too long for the route, DF", "10.24.0.1", 700, df, verdict.FragmentationNeeded,
			layers.CreateICMPv4TypeCode(3, 4), 0},
		{"to our own port", "10.1.0.1", 10, nil, verdict.PortUnreachable, layers.CreateICMPv4TypeCode(3, 3), 0},
		{"to our other address", "10.2.0.1", 10, nil, verdict.PortUnreachable, layers.CreateICMPv4TypeCode(3, 3), 0},
		{"broadcast of the subnet", "10.2.0.255", 10, nil, verdict.BroadcastForward, 0, 0},
		{"multicast", "239.1.1.1", 10, nil, verdict.MulticastForward, 0, 0},
		{"loopback", "127.0.0.1", 10, nil, verdict.MartianDestination, 0, 0},
		{"no IPv6 route", "2001:db8::1", 10, nil, verdict.NoRoute, 0, layers.CreateICMPv6TypeCode(1, 0)},
		{"too big for IPv6", "fd00:20::1", 3000, nil, verdict.PacketTooBig, 0, layers.CreateICMPv6TypeCode(2, 0)},
		{"IPv6 to our own port", "fd00:2::1", 10, nil, verdict.PortUnreachable, 0, layers.CreateICMPv6TypeCode(1, 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil).know()
			src := "10.1.0.2"
			if netip.MustParseAddr(c.dst).Is6() {
				src = "fd00:1::2"
			}
			in := udp(t, 0, src, c.dst, c.size, c.change)
			out, back := r.forward(0, bytes.Clone(in))
			if len(out) != 0 {
				t.Errorf("%d packets left", len(out))
			}
			if r.count(1, c.reason) != 1 {
				t.Errorf("not counted as %v", c.reason)
			}
			checkError(t, in, back, c.icmp, c.icmp6)
		})
	}
}

func checkError(t *testing.T, in []byte, back [][]byte, want layers.ICMPv4TypeCode, want6 layers.ICMPv6TypeCode) {
	t.Helper()
	if want == 0 && want6 == 0 {
		if len(back) != 0 {
			t.Errorf("answered with %x", back[0])
		}
		return
	}
	if len(back) != 1 {
		t.Fatalf("%d answers", len(back))
	}
	p := decode(back[0])
	if p.ErrorLayer() != nil {
		t.Fatal(p.ErrorLayer().Error())
	}
	if eth := p.LinkLayer().(*layers.Ethernet); !bytes.Equal(eth.DstMAC, hostMACs[0][:]) {
		t.Errorf("answer goes to %v", eth.DstMAC)
	}
	switch m := p.Layer(layers.LayerTypeICMPv4); {
	case want != 0 && m == nil, want != 0 && m.(*layers.ICMPv4).TypeCode != want:
		t.Errorf("answer is %v, want %v", p, want)
	case want6 != 0:
		m6 := p.Layer(layers.LayerTypeICMPv6)
		if m6 == nil || m6.(*layers.ICMPv6).TypeCode != want6 {
			t.Errorf("answer is %v, want %v", p, want6)
		}
	}
	if !bytes.Contains(back[0], in[14:14+28]) {
		t.Error("the packet is not quoted as received")
	}
	var view packet.Packet
	view.Frame, view.End = back[0], len(back[0])
	if reason := view.Parse(); reason != verdict.None || !view.VerifyTransport(nil) {
		t.Errorf("answer does not check out: %v", reason)
	}
}

func TestEchoReply(t *testing.T) {
	r := newRig(t, nil).know()
	echo := build(t,
		&layers.Ethernet{SrcMAC: hostMACs[0][:], DstMAC: portMACs[0][:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 1, Protocol: layers.IPProtocolICMPv4,
			SrcIP: net.IPv4(10, 1, 0, 2).To4(), DstIP: net.IPv4(10, 2, 0, 1).To4()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 7, Seq: 9},
		gopacket.Payload(bytes.Repeat([]byte("viaduct"), 700))) // more than a frame
	_, back := r.forward(0, echo)
	if len(back) != 1 {
		t.Fatalf("%d answers", len(back))
	}
	p := decode(back[0])
	m, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || m.TypeCode.Type() != layers.ICMPv4TypeEchoReply || m.Id != 7 || m.Seq != 9 || len(m.Payload) != 4900 {
		t.Fatalf("answer is %v", p)
	}
	if sum := packet.Fold(packet.Sum(back[0][34:], 0)); sum != 0xffff {
		t.Errorf("checksum does not check out: %#x", sum)
	}
}

// The first packets to a neighbour wait while it is asked for; none is lost, and their order stays.
func TestNeighborIsResolved(t *testing.T) {
	r := newRig(t, nil)
	for i := range 5 {
		r.inject(0, udp(t, 0, "10.1.0.2", "10.2.0.2", 10+i, nil))
	}
	r.poll()
	out := r.sent(1)
	if len(out) != 1 {
		t.Fatalf("%d packets left, want one ARP request", len(out))
	}
	request, ok := decode(out[0]).Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok || !bytes.Equal(request.DstProtAddress, ip("10.2.0.2")) ||
		!bytes.Equal(request.SourceProtAddress, ip("10.2.0.1")) {
		t.Fatalf("left: %v", decode(out[0]))
	}
	all := r.checkLedger()
	if all.Get(ledger.Held) != 5 {
		t.Errorf("%d packets held", all.Get(ledger.Held))
	}
	r.inject(1, arp(t, 1, layers.ARPReply, "10.2.0.2", "10.2.0.1"))
	r.poll()
	r.poll()
	out = r.sent(1)
	if len(out) != 5 {
		t.Fatalf("%d packets left after the answer", len(out))
	}
	for i, data := range out {
		if n := len(decode(data).ApplicationLayer().Payload()); n != 10+i {
			t.Errorf("packet %d has %d bytes of payload: out of order", i, n)
		}
	}
}

func arp(t testing.TB, device int, op uint16, src, dst string) []byte {
	return build(t,
		&layers.Ethernet{SrcMAC: hostMACs[device][:], DstMAC: portMACs[device][:], EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6,
			ProtAddressSize: 4, Operation: op, SourceHwAddress: hostMACs[device][:], SourceProtAddress: ip(src),
			DstHwAddress: portMACs[device][:], DstProtAddress: ip(dst)})
}

func TestARPIsAnswered(t *testing.T) {
	r := newRig(t, nil)
	_, back := r.forward(0, arp(t, 0, layers.ARPRequest, "10.1.0.2", "10.1.0.1"))
	if len(back) != 1 {
		t.Fatalf("%d answers", len(back))
	}
	reply, ok := decode(back[0]).Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok || reply.Operation != layers.ARPReply || !bytes.Equal(reply.SourceHwAddress, portMACs[0][:]) {
		t.Fatalf("answer: %v", decode(back[0]))
	}
	if _, back = r.forward(0, arp(t, 0, layers.ARPRequest, "10.1.0.2", "10.1.0.77")); len(back) != 0 {
		t.Error("answered for an address that is not ours")
	}
}

// A neighbour that does not answer: the sender is told, after three solicitations.
func TestNeighborFails(t *testing.T) {
	r := newRig(t, nil)
	r.inject(0, udp(t, 0, "10.1.0.2", "10.2.0.77", 10, nil))
	r.know()
	solicitations := 0
	var back [][]byte
	for range 100 {
		r.now += 1e8
		r.poll()
		solicitations += len(r.sent(1))
		if back = append(back, r.sent(0)...); len(back) > 0 {
			break
		}
	}
	if solicitations != 3 {
		t.Errorf("%d solicitations", solicitations)
	}
	if len(back) != 1 || r.count(1, verdict.NeighborFailed) != 1 {
		t.Fatalf("%d answers, %d failures counted", len(back), r.count(1, verdict.NeighborFailed))
	}
}

func TestFragmentation(t *testing.T) {
	r := newRig(t, nil).know()
	in := udp(t, 0, "10.1.0.2", "10.20.0.1", 8000, nil)
	out, _ := r.forward(0, in)
	if len(out) != 6 {
		t.Fatalf("%d fragments", len(out))
	}
	var payload []byte
	for i, data := range out {
		h, ok := decode(data).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok || len(data) > 14+1500 || int(h.FragOffset)*8 != len(payload) || h.TTL != 63 {
			t.Fatalf("fragment %d: %v", i, h)
		}
		payload = append(payload, data[14+20:14+int(h.Length)]...)
	}
	if !bytes.Equal(payload, in[14+20:]) {
		t.Error("the fragments do not add up to the packet")
	}
	if all := r.checkLedger(); all.Get(ledger.Fragments) != 5 || all.Get(ledger.Transmitted) != 6 {
		t.Errorf("%d extra fragments, %d packets booked", all.Get(ledger.Fragments), all.Get(ledger.Transmitted))
	}
}

// A superframe of TCP, larger than the link it came by, leaves as segments that fit.
func TestSuperframeIsSegmented(t *testing.T) {
	r := newRig(t, nil)
	r.mtu = [2]int{1500, 1500}
	r.apply(nil)
	r.know()
	h := &layers.IPv4{Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP,
		SrcIP: net.IP(ip("10.1.0.2")), DstIP: net.IP(ip("10.20.0.1"))}
	tcp := &layers.TCP{SrcPort: 1, DstPort: 2, Seq: 100, ACK: true, PSH: true}
	_ = tcp.SetNetworkLayerForChecksum(h)
	data := bytes.Repeat([]byte("segment"), 5000)
	in := build(t, &layers.Ethernet{SrcMAC: hostMACs[0][:], DstMAC: portMACs[0][:],
		EthernetType: layers.EthernetTypeIPv4}, h, tcp, gopacket.Payload(data))
	out, back := r.forward(0, in)
	var got []byte
	for i, piece := range out {
		p := decode(piece)
		seg, ok := p.TransportLayer().(*layers.TCP)
		if !ok || len(piece) > 1514 || int(seg.Seq) != 100+len(got) {
			t.Fatalf("segment %d: %v", i, p)
		}
		got = append(got, seg.Payload...)
	}
	if len(back) != 0 || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d left in %d segments; %d answers", len(got), len(data), len(out), len(back))
	}
}

func TestVLANPorts(t *testing.T) {
	r := newRig(t, nil).know()
	out, _ := r.forward(0, udp(t, 0, "10.1.0.2", "10.3.0.2", 20, nil))
	if len(out) != 1 {
		t.Fatalf("%d packets left", len(out))
	}
	tag, ok := decode(out[0]).Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q)
	if !ok || tag.VLANIdentifier != 100 {
		t.Fatalf("left: %v", decode(out[0]))
	}
	answer := udp(t, 1, "10.3.0.2", "10.1.0.2", 20, nil)
	tagged := append(bytes.Clone(answer[:12]), 0x81, 0, 0, 100)
	out, _ = r.forward(1, append(tagged, answer[12:]...))
	if len(out) != 1 || decode(out[0]).Layer(layers.LayerTypeDot1Q) != nil {
		t.Fatalf("back: %d packets", len(out))
	}
	other := append(bytes.Clone(answer[:12]), 0x81, 0, 0, 101)
	r.forward(1, append(other, answer[12:]...))
	if r.count(0, verdict.UnknownVLAN) != 1 {
		t.Error("an unknown tag is not counted as such")
	}
}

func TestPacketsOverManyFrames(t *testing.T) {
	r := newRig(t, nil)
	r.mtu = [2]int{65535, 65535}
	r.apply(nil)
	r.know()
	in := udp(t, 0, "10.1.0.2", "10.20.0.1", 60000, nil)
	out, _ := r.forward(0, in)
	if len(out) != 1 || !bytes.Equal(out[0][34:], in[34:]) {
		t.Fatalf("%d packets left", len(out))
	}
}

// A checksum that a sending stack left to the device is completed.
func TestPartialChecksum(t *testing.T) {
	r := newRig(t, nil).know()
	in := udp(t, 0, "10.1.0.2", "10.20.0.1", 100, nil)
	whole := bytes.Clone(in[40:42])
	pseudo := packet.Fold(packet.PseudoSum(packet.Addr4(0x0a010002), packet.Addr4(0x0a140001), packet.ProtoUDP, 108))
	in[40], in[41] = byte(pseudo>>8), byte(pseudo)
	out, _ := r.forward(0, in)
	if len(out) != 1 || !bytes.Equal(out[0][40:42], whole) {
		t.Fatalf("%d packets left; checksum %x, want %x", len(out), out[0][40:42], whole)
	}
}

func TestFullTxRingIsCounted(t *testing.T) {
	r := newRig(t, nil).know()
	const n = 1200
	for range n / 200 {
		for range 200 {
			r.inject(0, udp(t, 0, "10.1.0.2", "10.20.0.1", 18, nil))
		}
		r.poll()
	}
	all := r.checkLedger()
	lost := r.count(1, verdict.TxRingFull)
	if lost == 0 || lost+r.count(1, verdict.Routed) != n {
		t.Errorf("%d lost, %d routed of %d", lost, r.count(1, verdict.Routed), n)
	}
	if sent := len(r.sent(1)); uint64(sent) != all.Get(ledger.Transmitted) {
		t.Errorf("%d left, %d booked", sent, all.Get(ledger.Transmitted))
	}
}

// The tables are swapped after every packet; each is judged by one set of tables, and none is lost.
func TestTablesSwapUnderTraffic(t *testing.T) {
	r := newRig(t, nil).know()
	const n = 300
	left := 0
	for i := range n {
		r.apply(func(s *api.Snapshot) {
			if i%2 == 0 {
				s.Routes[0].Group = toSlow
			}
		})
		out, _ := r.forward(0, udp(t, 0, "10.1.0.2", "10.20.0.1", 18, nil))
		left += len(out)
	}
	if left != n {
		t.Errorf("%d of %d packets left", left, n)
	}
}

// A device vanishes with packets on all of its rings: every frame comes back, and the other port goes on.
func TestDeviceVanishes(t *testing.T) {
	r := newRig(t, nil).know()
	for range 100 {
		r.inject(0, udp(t, 0, "10.1.0.2", "10.20.0.1", 5000, func(h *layers.IPv4) { h.Flags = 0 }))
		r.inject(1, udp(t, 1, "10.2.0.2", "10.1.0.2", 100, nil))
		r.inject(1, udp(t, 1, "10.2.0.2", "10.1.0.77", 100, nil))
	}
	r.worker.Poll(r.now)
	r.rings[1].Break()
	for range 3 {
		r.poll()
	}
	if len(r.gone) != 1 || r.gone[0] != 1 {
		t.Fatalf("gone: %v", r.gone)
	}
	r.sent(0)
	if out, back := r.forward(0, udp(t, 0, "10.1.0.2", "10.20.0.1", 100, nil)); len(out)+len(back) != 0 {
		t.Error("something left by a device that is gone")
	}
	if r.count(1, verdict.NoOutputPort) == 0 {
		t.Error("packets to a port that is gone are not counted as such")
	}
	if _, back := r.forward(0, udp(t, 0, "10.1.0.2", "10.1.0.1", 100, nil)); len(back) != 1 {
		t.Error("the other port no longer answers")
	}
	r.worker.RemoveDevice(0)
	r.worker.shutdown()
	if free := r.pool.Free(); free != rigChunks {
		t.Errorf("%d of %d frames came back", free, rigChunks)
	}
	r.checkLedger()
}

func TestPassDoesNotAllocate(t *testing.T) {
	r := newRig(t, nil).know()
	packets := [][]byte{
		udp(t, 0, "10.1.0.2", "10.20.0.1", 18, nil), udp(t, 0, "fd00:1::2", "fd00:20::1", 18, nil),
		udp(t, 0, "10.1.0.2", "10.22.0.1", 18, nil), udp(t, 0, "10.1.0.2", "10.20.0.1", 6000, nil),
		udp(t, 0, "10.1.0.2", "10.2.0.99", 18, nil), udp(t, 0, "10.1.0.2", "10.3.0.2", 18, nil),
		arp(t, 0, layers.ARPRequest, "10.1.0.2", "10.1.0.1"),
	}
	discard := func([]byte, bool) {}
	pass := func() {
		for _, p := range packets {
			r.rings[0].Inject(p)
		}
		r.now += 1e8
		r.worker.Poll(r.now)
		r.rings[0].Drain(discard)
		r.rings[1].Drain(discard)
	}
	for range 50 { // the neighbour that does not answer has its entry
		pass()
	}
	if allocs := testing.AllocsPerRun(200, pass); allocs != 0 {
		t.Errorf("%v allocations a pass", allocs)
	}
}
