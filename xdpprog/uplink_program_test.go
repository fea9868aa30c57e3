// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tcxNext   = 0xffffffff
	hostPort  = 0x0a0b0c
	frontPort = 53    // UDP, at ours4 and ours6
	nodePort  = 30080 // TCP, at kernels4 and kernels6
)

// uplinkLab is services whose hook is at no device, and the device that test runs give it.
type uplinkLab struct {
	services *Services
	ifindex  int
	mac      []byte
}

func newUplinkLab(t testing.TB) *uplinkLab {
	t.Helper()
	return newUplinkLabOf(t, loadTrunk(t, TrunkOptions{MaxPorts: 16}))
}

func newUplinkLabOf(t testing.TB, trunk *Trunk) *uplinkLab {
	t.Helper()
	attachTrunk(t, trunk, newVeth(t, vethOptions{}).ifindex, 1)
	l := &uplinkLab{services: loadServices(t, trunk, ""), ifindex: newVeth(t, vethOptions{}).ifindex}
	device, err := netlink.LinkByIndex(l.ifindex)
	must(t, err)
	l.mac = device.Attrs().HardwareAddr
	s := l.services
	must(t, s.SetNode(Node{HostPort: hostPort}))
	must(t, s.SetPods([]netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd00:77::/32")}))
	for _, a := range []netip.Addr{ours4, ours6} {
		must(t, s.SetFrontend(Frontend{a, unix.IPPROTO_UDP, frontPort}))
		must(t, s.SetAddress(a, AtFrontend))
	}
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		must(t, s.SetFrontend(Frontend{a, unix.IPPROTO_TCP, nodePort}))
	}
	for _, a := range []netip.Addr{kernels4, kernels6} {
		must(t, s.SetAddress(a, AtNodePorts|AtHost))
	}
	for _, a := range []netip.Addr{second4, second6} {
		must(t, s.SetAddress(a, AtEgress))
	}
	return l
}

func loadServices(t testing.TB, trunk *Trunk, pins string) *Services {
	t.Helper()
	s, err := trunk.LoadServices(pins)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// family builds the same packet of either family.
type ipFamily struct {
	name                               string
	frontend, node, egress, other, pod netip.Addr
	packet                             func(from, to netip.Addr, proto byte, payload []byte) []byte
	// fragment of a packet: its place in 8 bytes.
	fragment  func(from, to netip.Addr, proto byte, id uint16, place int, more bool, payload []byte) []byte
	icmp      byte
	tooBig    byte
	notAnswer byte
}

var ipFamilies = []ipFamily{
	{
		name: "IPv4", frontend: ours4, node: kernels4, egress: second4, other: inOurs4.Next(), pod: inOurs4,
		packet: func(from, to netip.Addr, proto byte, payload []byte) []byte {
			return join([]byte{0x08, 0x00}, from4(from, with(ip4(to, payload), 9, proto)))
		},
		fragment: func(from, to netip.Addr, proto byte, id uint16, place int, more bool, payload []byte) []byte {
			b := from4(from, with(ip4(to, payload), 9, proto))
			binary.BigEndian.PutUint16(b[4:], id)
			field := uint16(place)
			if more {
				field |= 0x2000
			}
			return join([]byte{0x08, 0x00}, fragment4(b, field))
		},
		icmp: unix.IPPROTO_ICMP, tooBig: 3, notAnswer: 8,
	},
	{
		name: "IPv6", frontend: ours6, node: kernels6, egress: second6, other: inOurs6.Next(), pod: inOurs6,
		packet: func(from, to netip.Addr, proto byte, payload []byte) []byte {
			return join([]byte{0x86, 0xdd}, from6(from, ip6(to, proto, 64, payload)))
		},
		fragment: func(from, to netip.Addr, proto byte, id uint16, place int, more bool, payload []byte) []byte {
			field := uint16(place) << 3
			if more {
				field |= 1
			}
			header := binary.BigEndian.AppendUint16([]byte{proto, 0}, field)
			header = binary.BigEndian.AppendUint16(append(header, 0, 0), id)
			return join([]byte{0x86, 0xdd}, from6(from, ip6(to, 44, 64, join(header, payload))))
		},
		icmp: unix.IPPROTO_ICMPV6, tooBig: 2, notAnswer: 128,
	},
}

// client4 and client6 are nobody's in the lab.
func (f ipFamily) client() netip.Addr {
	if f.frontend.Is4() {
		return netip.MustParseAddr("192.0.2.7")
	}
	return netip.MustParseAddr("2001:db8::7")
}

// ports begins a TCP or UDP header.
func portsOf(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	return append(binary.BigEndian.AppendUint16(b, to), make([]byte, 16)...)
}

// frame puts the link header before an EtherType and a packet.
func (l *uplinkLab) frame(packet []byte) []byte { return join(l.mac, []byte{2, 0, 0, 0, 0, 9}, packet) }

// run gives the program one frame and returns what it counted.
func (l *uplinkLab) run(t *testing.T, frame []byte) (uint32, Reason, []byte) {
	t.Helper()
	before, err := l.services.Counters()
	must(t, err)
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512),
		Context: skb{IfIndex: uint32(l.ifindex)}}
	action, err := l.services.fromUplink.Run(&options)
	must(t, err)
	after, err := l.services.Counters()
	must(t, err)
	found := endUplinkReasons
	for i, c := range after {
		if c.Packets == before[i].Packets {
			continue
		}
		if found != endUplinkReasons || c.Packets != before[i].Packets+1 ||
			c.Bytes != before[i].Bytes+uint64(len(frame)) {
			t.Fatalf("%s counted %d packets, %d bytes for one frame of %d", c.Name, c.Packets, c.Bytes, len(frame))
		}
		found = c.Reason
	}
	return action, found, options.DataOut
}

// expect: what is taken has the MACs of what the host's port sends to its router, what is left is as it was.
func (l *uplinkLab) expect(t *testing.T, frame []byte, want Reason) {
	t.Helper()
	action, reason, after := l.run(t, frame)
	wantAction, wantFrame := uint32(tcxNext), frame
	if want <= EgressTaken {
		wantAction = tcRedirect
		wantFrame = join([]byte{0x02, 0x76, 0x64, 0, 0, 0, 0x02, 0x76, 0x64, 0x0a, 0x0b, 0x0c}, frame[12:])
	}
	if want == NoTrunkUplinkDropped {
		wantAction = tcShot
	}
	if reason != want || action != wantAction {
		t.Errorf("action %d for %s, want %d for %s", int32(action), reason, int32(wantAction), want)
	}
	if !bytes.Equal(after, wantFrame) {
		t.Errorf("frame is\n%x, want\n%x", after, wantFrame)
	}
}

func TestFromUplink(t *testing.T) {
	l := newUplinkLab(t)
	const tcp, udp, sctp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP
	for _, f := range ipFamilies {
		client := f.client()
		for _, row := range []struct {
			name   string
			packet []byte
			want   Reason
		}{
			{"frontend", f.packet(client, f.frontend, udp, portsOf(1, frontPort)), ServiceTaken},
			{"frontend, another port", f.packet(client, f.frontend, udp, portsOf(1, 54)), NotOursLeft},
			{"frontend, another protocol", f.packet(client, f.frontend, tcp, portsOf(1, frontPort)), NotOursLeft},
			{"frontend, a node port", f.packet(client, f.frontend, tcp, portsOf(1, nodePort)), NotOursLeft},
			{"node port", f.packet(client, f.node, tcp, portsOf(1, nodePort)), ServiceTaken},
			{"node port, another protocol", f.packet(client, f.node, sctp, portsOf(1, nodePort)), NotOursLeft},
			{"the node itself", f.packet(client, f.node, tcp, portsOf(1, 22)), NotOursLeft},
			{"a frontend's port at the node", f.packet(client, f.node, udp, portsOf(1, frontPort)), NotOursLeft},
			{"somebody else", f.packet(client, f.other, tcp, portsOf(1, nodePort)), NotOursLeft},
			{"egress", f.packet(client, f.egress, tcp, portsOf(443, 9)), EgressTaken},
			{"egress, no ports", f.packet(client, f.egress, 47, make([]byte, 8)), EgressTaken},
			{"egress, echo", f.packet(client, f.egress, f.icmp, []byte{f.notAnswer, 0, 0, 0, 0, 1, 0, 1}), EgressTaken},
			{"egress, fragment", f.fragment(client, f.egress, udp, 9, 5, false, make([]byte, 8)), EgressTaken},
			{"cut ports", f.packet(client, f.frontend, udp, []byte{0, 1, 0}), UnreadableLeft},
			{"echo to the node", f.packet(client, f.node, f.icmp, []byte{f.notAnswer, 0, 0, 0, 0, 1, 0, 1}), NotOursLeft},
			{"another protocol", f.packet(client, f.frontend, 47, make([]byte, 8)), NotOursLeft},
			{"from the node", f.packet(f.node, f.frontend, udp, portsOf(1, frontPort)), ForgedLeft},
			{"from a pod", f.packet(f.pod, f.node, tcp, portsOf(1, nodePort)), ForgedLeft},
			{"egress, from a pod", f.packet(f.pod, f.egress, tcp, portsOf(1, 2)), ForgedLeft},
			{"from a pod to others", f.packet(f.pod, f.other, tcp, portsOf(1, 2)), NotOursLeft},
		} {
			t.Run(f.name+" "+row.name, func(t *testing.T) { l.expect(t, l.frame(row.packet), row.want) })
		}
	}
}

func TestFromUplinkLinkLayer(t *testing.T) {
	l := newUplinkLab(t)
	f := ipFamilies[0]
	taken := l.frame(f.packet(f.client(), f.frontend, unix.IPPROTO_UDP, portsOf(1, frontPort)))
	for name, row := range map[string]struct {
		frame []byte
		want  Reason
	}{
		"another host's": {with(taken, 5, taken[5]^1), OtherHostLeft},
		"broadcast":      {join(bytes.Repeat([]byte{0xff}, 6), taken[6:]), OtherHostLeft},
		"802.1Q":         {join(taken[:12], []byte{0x81, 0x00}, tag(0x0800), taken[14:]), TaggedLeft},
		"802.1ad":        {join(taken[:12], []byte{0x88, 0xa8}, tag(0x0800), taken[14:]), TaggedLeft},
		"arp":            {join(taken[:12], []byte{0x08, 0x06}, arp(1, ours4)), NotOursLeft},
		"options":        {with(taken, 14, 0x46), OptionsLeft},
		"version 5":      {with(taken, 14, 0x55), UnreadableLeft},
		"short header":   {with(taken, 14, 0x44), UnreadableLeft},
	} {
		t.Run(name, func(t *testing.T) { l.expect(t, row.frame, row.want) })
	}
	six := ipFamilies[1]
	udp := portsOf(1, frontPort)
	behind := func(payload []byte) []byte {
		return l.frame(join([]byte{0x86, 0xdd}, from6(six.client(), ip6(six.frontend, 60, 64, payload))))
	}
	l.expect(t, behind(join(extension(60, 0), extension(17, 1), udp)), ServiceTaken)
	l.expect(t, behind(join(extension(60, 0), extension(60, 0), extension(60, 0), extension(60, 0),
		extension(17, 0), udp)), UnreadableLeft)
	must(t, l.services.SetNode(Node{}))
	l.expect(t, taken, NoTrunkUplinkDropped)
}

// Fragments go where the first one of their packet went, if that came before them.
func TestFromUplinkFragments(t *testing.T) {
	l := newUplinkLab(t)
	const udp = unix.IPPROTO_UDP
	for _, f := range ipFamilies {
		t.Run(f.name, func(t *testing.T) {
			client := f.client()
			piece := func(id uint16, place int, more bool) []byte {
				payload := portsOf(1, frontPort)
				if place > 0 {
					payload = make([]byte, 32)
				}
				return l.frame(f.fragment(client, f.frontend, udp, id, place, more, payload))
			}
			l.expect(t, piece(7, 4, false), NotOursLeft)
			l.expect(t, piece(7, 0, true), ServiceTaken)
			l.expect(t, piece(7, 4, true), FragmentTaken)
			l.expect(t, piece(7, 8, false), FragmentTaken)
			l.expect(t, piece(8, 4, false), NotOursLeft)
			l.expect(t, l.frame(f.fragment(f.other, f.frontend, udp, 7, 4, false, make([]byte, 32))), NotOursLeft)
			l.expect(t, l.frame(f.fragment(client, f.frontend, unix.IPPROTO_TCP, 7, 4, false, make([]byte, 32))),
				NotOursLeft)
			// Another packet has the identification, and is not for a service.
			l.expect(t, l.frame(f.fragment(client, f.frontend, udp, 7, 0, true, portsOf(1, 99))), NotOursLeft)
			l.expect(t, piece(7, 4, false), NotOursLeft)
		})
	}
	l.expect(t, l.frame(ipFamilies[1].fragment(ipFamilies[1].client(), ours6, udp, 1, 0, false, // atomic
		portsOf(1, frontPort))), ServiceTaken)
}

// An error is taken that is about what a frontend sent.
func TestFromUplinkErrors(t *testing.T) {
	l := newUplinkLab(t)
	const udp, tcp = unix.IPPROTO_UDP, unix.IPPROTO_TCP
	for _, f := range ipFamilies {
		client, router := f.client(), f.client().Next()
		about := func(to netip.Addr, kind byte, quoted []byte) []byte {
			return l.frame(f.packet(router, to, f.icmp, join([]byte{kind, 4, 0, 0, 0, 0, 5, 0}, quoted)))
		}
		quote := func(from netip.Addr, proto byte, port uint16) []byte {
			return f.packet(from, client, proto, portsOf(port, 1)[:8])[2:]
		}
		for _, row := range []struct {
			name  string
			frame []byte
			want  Reason
		}{
			{"of a frontend", about(f.frontend, f.tooBig, quote(f.frontend, udp, frontPort)), ErrorTaken},
			{"of a node port", about(f.node, f.tooBig, quote(f.node, tcp, nodePort)), ErrorTaken},
			{"of the node", about(f.node, f.tooBig, quote(f.node, tcp, 22)), NotOursLeft},
			{"of another protocol", about(f.node, f.tooBig, quote(f.node, udp, nodePort)), NotOursLeft},
			{"no error", about(f.frontend, f.notAnswer, quote(f.frontend, udp, frontPort)), NotOursLeft},
			{"of nobody", about(f.frontend, f.tooBig, quote(f.other, udp, frontPort)), NotOursLeft},
			{"cut", about(f.frontend, f.tooBig, quote(f.frontend, udp, frontPort)[:10]), NotOursLeft},
			{"without a quote", about(f.frontend, f.tooBig, nil), NotOursLeft},
			{"of a later fragment", about(f.frontend, f.tooBig, f.fragment(f.frontend, client, udp, 1, 4, false,
				portsOf(frontPort, 1))[2:]), NotOursLeft},
			{"of a first fragment", about(f.frontend, f.tooBig, f.fragment(f.frontend, client, udp, 1, 0, true,
				portsOf(frontPort, 1))[2:]), ErrorTaken},
		} {
			t.Run(f.name+" "+row.name, func(t *testing.T) { l.expect(t, row.frame, row.want) })
		}
	}
}

// Frames cut at every length and with bytes changed at random: a verdict, and nothing but MACs changed.
func TestHostileFromUplink(t *testing.T) {
	l := newUplinkLab(t)
	random := rand.New(rand.NewPCG(5, 6))
	check := func(frame []byte) {
		if !runs(frame) {
			return
		}
		action, reason, after := l.run(t, frame)
		if (reason <= EgressTaken) != (action == tcRedirect) || reason == endUplinkReasons ||
			!bytes.Equal(after[12:], frame[12:]) {
			t.Fatalf("action %d for %s: %x became\n%x", action, reason, frame, after)
		}
	}
	for _, f := range ipFamilies {
		quoted := f.packet(f.node, f.client(), unix.IPPROTO_TCP, portsOf(nodePort, 1))[2:]
		for _, packet := range [][]byte{
			f.packet(f.client(), f.frontend, unix.IPPROTO_UDP, portsOf(1, frontPort)),
			f.fragment(f.client(), f.frontend, unix.IPPROTO_UDP, 1, 0, true, portsOf(1, frontPort)),
			f.packet(f.client(), f.node, f.icmp, join([]byte{f.tooBig, 4, 0, 0, 0, 0, 5, 0}, quoted)),
		} {
			frame := l.frame(packet)
			for n := 14; n < len(frame); n++ {
				check(frame[:n])
			}
			for range 100 {
				b := bytes.Clone(frame)
				for range 1 + random.IntN(3) {
					b[12+random.IntN(len(b)-12)] = byte(random.Uint32())
				}
				check(b)
			}
		}
	}
}

func TestServicesLayout(t *testing.T) {
	uplink, err := loadFromUplink()
	must(t, err)
	sockets, err := loadNodeSockets()
	must(t, err)
	for _, maps := range []map[string]*ebpf.MapSpec{uplink.Maps, sockets.Maps} {
		if k, n := maps["frontends"].KeySize, binary.Size(frontendKey{}); int(k) != n {
			t.Errorf("frontends: keys of %d bytes in Go, %d in C", n, k)
		}
		if v, n := maps["node"].ValueSize, binary.Size(nodeValue{}); int(v) != n {
			t.Errorf("node: %d bytes in Go, %d in C", n, v)
		}
		if m := maps["service_addresses"]; m.KeySize != 16 || m.ValueSize != 4 {
			t.Errorf("service_addresses: %v", m)
		}
	}
	if n := uplink.Maps["uplink_counters"].MaxEntries; n != uint32(numUplinkReasons) {
		t.Errorf("%d reasons in C, %d in Go", n, numUplinkReasons)
	}
}

func BenchmarkFromUplink(b *testing.B) {
	l := newUplinkLab(b)
	f := ipFamilies[0]
	for name, to := range map[string]netip.Addr{"others": f.other, "node": f.node, "frontend": f.frontend} {
		frame := l.frame(f.packet(f.client(), to, unix.IPPROTO_UDP, portsOf(1, frontPort)))
		b.Run(name, func(b *testing.B) {
			_, err := l.services.fromUplink.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(b.N),
				Context: skb{IfIndex: uint32(l.ifindex)}})
			must(b, err)
		})
	}
}
