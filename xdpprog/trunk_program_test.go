// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// Actions of linux/pkt_cls.h.
const (
	tcShot     = 2
	tcRedirect = 7
)

func station(ifindex int) TrunkPort {
	return TrunkPort{ID: portID, IfIndex: ifindex, MAC: stationMAC,
		Addresses: []netip.Addr{second4, peer4, second6, peer6}}
}

// loadedTrunk returns a trunk, not pinned, whose packets would go to the loopback device, and a device for a port.
func loadedTrunk(t testing.TB) (*Trunk, int) {
	t.Helper()
	pod := newVeth(t, vethOptions{})
	trunk := loadTrunk(t, TrunkOptions{MaxPorts: 16})
	attachTrunk(t, trunk, newVeth(t, vethOptions{}).ifindex, 1)
	setPort(t, trunk, station(pod.ifindex))
	return trunk, pod.ifindex
}

// skb begins as struct __sk_buff does.
type skb struct {
	_       [10]uint32
	IfIndex uint32
}

// runHook gives a program one frame from a device, and returns its action, what it counted and the frame after it.
func runHook(t testing.TB, trunk *Trunk, program *ebpf.Program, ifindex int, frame []byte) (uint32, Reason, []byte) {
	t.Helper()
	before := trunkCounts(t, trunk)
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: skb{IfIndex: uint32(ifindex)}}
	action, err := program.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	found := endReasons
	for r, n := range trunkCounts(t, trunk) {
		n.Packets, n.Bytes = n.Packets-before[r].Packets, n.Bytes-before[r].Bytes
		if n.Packets == 0 {
			continue
		}
		if found != endReasons || n.Packets != 1 || n.Bytes != uint64(len(frame)) {
			t.Fatalf("%s counted %d packets, %d bytes for one frame of %d", n.Name, n.Packets, n.Bytes, len(frame))
		}
		found = n.Reason
	}
	return action, found, options.DataOut
}

// runs tells whether a test run takes the frame: not with an IP header that is cut (net/bpf/test_run.c). Those are sent
// by TestPortsOnTheWire.
func runs(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		return len(frame) >= 14+20
	case 0x86dd:
		return len(frame) >= 14+40
	}
	return len(frame) > 14
}

// trunkCounts are those of the port and of no port together.
func trunkCounts(t testing.TB, trunk *Trunk) []Counter {
	t.Helper()
	all := countersOf(t, trunk, noPort)
	for i, c := range countersOf(t, trunk, portID) {
		all[i].Packets += c.Packets
		all[i].Bytes += c.Bytes
	}
	return all
}

func countersOf(t testing.TB, trunk *Trunk, id uint32) []Counter {
	t.Helper()
	c, err := trunk.Counters(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// expectFromPort: what goes to userspace has the port's MAC as source and is else as it was, what is dropped is as it
// was.
func expectFromPort(t testing.TB, trunk *Trunk, ifindex int, frame []byte, want Reason) {
	t.Helper()
	action, reason, after := runHook(t, trunk, trunk.fromPort, ifindex, frame)
	wantAction, wantFrame := uint32(tcShot), frame
	if want == FromPort {
		wantAction, wantFrame = tcRedirect, bytes.Clone(frame)
		copy(wantFrame[6:], portMAC)
	}
	if reason != want || action != wantAction {
		t.Errorf("action %d for %s, want %d for %s", action, reason, wantAction, want)
	}
	if !bytes.Equal(after, wantFrame) {
		t.Errorf("frame is\n%x, want\n%x", after, wantFrame)
	}
}

func TestFromPort(t *testing.T) {
	trunk, ifindex := loadedTrunk(t)
	for _, router := range []bool{false, true} {
		p := station(ifindex)
		p.Router = router
		setPort(t, trunk, p)
		for _, g := range portGoldens() {
			if !runs(g.frame) {
				continue
			}
			want := g.want
			if router {
				want = g.router
			}
			t.Run(g.name, func(t *testing.T) { expectFromPort(t, trunk, ifindex, g.frame, want) })
		}
	}
}

// A station without addresses of a family has none, not the zero address; one that has all four, has the last.
func TestStationAddresses(t *testing.T) {
	trunk, ifindex := loadedTrunk(t)
	p := station(ifindex)
	p.Addresses = nil
	setPort(t, trunk, p)
	udp := make([]byte, 8)
	v4 := func(a netip.Addr) []byte { return join(ether(0x0800), from4(a, ip4(ours4, udp))) }
	v6 := func(a netip.Addr) []byte { return join(ether(0x86dd), from6(a, ip6(ours6, 17, 64, udp))) }
	expectFromPort(t, trunk, ifindex, v4(netip.IPv4Unspecified()), IPv4SourceDropped)
	expectFromPort(t, trunk, ifindex, v6(unspecified), IPv6SourceDropped)
	a4, a6 := second4, second6
	for range maxAddresses {
		p.Addresses = append(p.Addresses, a4, a6)
		a4, a6 = a4.Next(), a6.Next()
	}
	setPort(t, trunk, p)
	for _, a := range p.Addresses[:2*maxAddresses] {
		if a.Is4() {
			expectFromPort(t, trunk, ifindex, v4(a), FromPort)
		} else {
			expectFromPort(t, trunk, ifindex, v6(a), FromPort)
		}
	}
	expectFromPort(t, trunk, ifindex, v4(a4), IPv4SourceDropped)
	expectFromPort(t, trunk, ifindex, v6(a6), IPv6SourceDropped)
}

func TestFromUnknownDevice(t *testing.T) {
	trunk, ifindex := loadedTrunk(t)
	frame := portGoldens()[0].frame
	expectFromPort(t, trunk, newVeth(t, vethOptions{}).ifindex, frame, UnknownDeviceDropped)
	alone := loadTrunk(t, TrunkOptions{MaxPorts: 1})
	setPort(t, alone, station(ifindex))
	expectFromPort(t, alone, ifindex, frame, NoTrunkDropped)
	setPort(t, trunk, station(ifindex)) // it takes the device's hook back
}

func TestToPort(t *testing.T) {
	trunk, ifindex := loadedTrunk(t)
	host := station(ifindex)
	host.ID, host.Host, host.HostIfIndex = portID, true, ifindex
	frame := portGoldens()[0].frame
	addressed := func(mac ...byte) []byte { return join(mac, frame[6:]) }
	for range 2 {
		for _, row := range []struct {
			frame []byte
			want  Reason
		}{
			{addressed(portMAC...), ToPort},
			{addressed(0x02, 0x76, 0x64, 1, 2, 4), UnknownPortDropped},
			{addressed(0x02, 0x76, 0x64, 0, 0, 0), UnknownPortDropped},
			{addressed(0x02, 0x76, 0x65, 1, 2, 3), UnknownPortDropped},
			{addressed(0x00, 0x76, 0x64, 1, 2, 3), UnknownPortDropped},
			{addressed(0xff, 0xff, 0xff, 0xff, 0xff, 0xff), UnknownPortDropped},
			{join(addressed(portMAC...)[:12], []byte{0x88, 0xcc, 0}), ToPort},
		} {
			action, reason, after := runHook(t, trunk, trunk.toPort, 0, row.frame)
			wantAction, want := uint32(tcShot), row.frame
			if row.want == ToPort {
				wantAction, want = tcRedirect, join(stationMAC[:], row.frame[6:])
			}
			if action != wantAction || reason != row.want || !bytes.Equal(after, want) {
				t.Errorf("%x: action %d, %s, frame\n%x", row.frame[:6], action, reason, after)
			}
		}
		setPort(t, trunk, host)
	}
}

// Every golden frame, cut at every length and with bytes changed at random: a verdict, and no other than the bytes of
// the source MAC changed.
func TestHostileFromPort(t *testing.T) {
	trunk, ifindex := loadedTrunk(t)
	random := rand.New(rand.NewPCG(3, 4))
	check := func(frame []byte) {
		action, reason, after := runHook(t, trunk, trunk.fromPort, ifindex, frame)
		passed := reason == FromPort
		if passed != (action == tcRedirect) || (!passed && action != tcShot) || reason == endReasons {
			t.Fatalf("action %d for %s: %x", action, reason, frame)
		}
		if !bytes.Equal(join(after[:6], after[12:]), join(frame[:6], frame[12:])) {
			t.Fatalf("frame\n%x became\n%x", frame, after)
		}
	}
	for _, g := range portGoldens() {
		for n := 14; n < min(len(g.frame), 120); n++ {
			if runs(g.frame[:n]) {
				check(g.frame[:n])
			}
		}
		for range 50 {
			b := bytes.Clone(g.frame)
			for range 1 + random.IntN(3) {
				b[6+random.IntN(min(len(b), 90)-6)] = byte(random.Uint32())
			}
			if runs(b) {
				check(b)
			}
		}
	}
}

func TestTrunkLayout(t *testing.T) {
	from, err := loadFromPort()
	if err != nil {
		t.Fatal(err)
	}
	to, err := loadToPort()
	if err != nil {
		t.Fatal(err)
	}
	for _, maps := range []map[string]*ebpf.MapSpec{from.Maps, to.Maps} {
		for name, size := range map[string]int{
			"stations": binary.Size(stationValue{}), "ports": binary.Size(portValue{}),
			"port_counters": binary.Size(trunkCounters{}), "trunk": binary.Size(trunkValue{}),
			"carried_counters": binary.Size(carriedCounters{}), "addresses": 4,
		} {
			if m := maps[name]; m == nil || size != int(m.ValueSize) {
				t.Errorf("%s: %d bytes in Go, %v in C", name, size, m)
			}
		}
	}
	if len(to.Maps) != 6 || len(from.Maps) != 6+len(flowMaps) {
		t.Errorf("the hooks have maps %v, %v", from.Maps, to.Maps)
	}
}

// The mark is the station's own MAC here, so that each repetition meets the same frame.
func BenchmarkFromPort(b *testing.B) {
	trunk, ifindex := loadedTrunk(b)
	p := station(ifindex)
	p.MAC = [6]byte(portMAC)
	setPort(b, trunk, p)
	udp := make([]byte, 18)
	for name, frame := range map[string][]byte{
		"udp4": join(portMAC, portMAC, []byte{8, 0}, ip4(ours4, udp)),
		"udp6": join(portMAC, portMAC, []byte{0x86, 0xdd}, ip6(ours6, 17, 64, udp)),
	} {
		b.Run(name, func(b *testing.B) {
			action, err := trunk.fromPort.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(b.N),
				Context: skb{IfIndex: uint32(ifindex)}})
			if err != nil || action != tcRedirect {
				b.Fatal(action, err)
			}
		})
	}
}
