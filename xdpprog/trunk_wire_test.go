// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// trunkLab is a node, which is the tests' namespace, with a trunk and a pod.
type trunkLab struct {
	trunk *Trunk
	wire  veth // the trunk: wire.ifindex is the inner device, wire.peer the outer one
	pod   veth
	port  TrunkPort
	ns    *netlab.Namespace // the pod's
}

func newTrunkLab(t *testing.T, queues int, options TrunkOptions) *trunkLab {
	t.Helper()
	l := &trunkLab{wire: newVeth(t, vethOptions{queues: queues}), ns: newPod(t)}
	l.pod = newVeth(t, vethOptions{in: l.ns, peerMAC: stationMAC[:]})
	l.port = station(l.pod.ifindex)
	l.trunk = loadTrunk(t, options)
	attachTrunk(t, l.trunk, l.wire.ifindex, queues)
	setPort(t, l.trunk, l.port)
	return l
}

func newPod(t *testing.T) *netlab.Namespace {
	t.Helper()
	lab := netlab.New()
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := lab.Namespace("pod")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// sender opens a packet socket at the pod's end.
func (l *trunkLab) sender(t *testing.T, options ...int) *packetSocket {
	t.Helper()
	var s *packetSocket
	l.pod.inPeer(t, func() error { s = openPacket(t, l.pod.peer, unix.ETH_P_ALL, options...); return nil })
	return s
}

// judged sends one frame and returns why the hook did with it what it did.
func (l *trunkLab) judged(t *testing.T, from *packetSocket, frame []byte) Reason {
	t.Helper()
	before := trunkCounts(t, l.trunk)
	from.send(t, frame)
	found := endReasons
	await(t, "the hook to count the frame", func() bool {
		for i, c := range trunkCounts(t, l.trunk) {
			if c.Packets != before[i].Packets {
				found = c.Reason
			}
		}
		return found != endReasons
	})
	return found
}

// Every golden frame for real: those that test runs refuse, tags as the kernel strips them, and packets of which only
// the Ethernet header is in the linear part.
func TestPortsOnTheWire(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	plain, scattered := l.sender(t), l.sender(t, unix.PACKET_VNET_HDR)
	out := openPacket(t, l.wire.peer, unix.ETH_P_ALL)
	passes := func(t *testing.T, from *packetSocket, frame []byte, want Reason) {
		if got := l.judged(t, from, frame); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		if want == FromPort {
			got, _ := out.receive(t)
			if expected := join(frame[:6], portMAC, frame[12:]); !bytes.Equal(got, expected) {
				t.Fatalf("userspace got\n%x, want\n%x", got, expected)
			}
		}
	}
	for _, g := range portGoldens() {
		t.Run(g.name, func(t *testing.T) {
			passes(t, plain, g.frame, g.want)
			if g.want != UnreadableDropped { // padding would complete it
				passes(t, scattered, join(g.frame, make([]byte, 5000)), g.want)
			}
		})
	}
	if frame := out.poll(); frame != nil {
		t.Errorf("userspace got what was dropped: %x", frame)
	}
}

// Frames of every size, of every kind: none reaches the host's stack, of which packet sockets of a protocol see what
// the ingress hook let by (net/core/dev.c, __netif_receive_skb_core).
func TestNothingReachesTheHost(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	var stack []*packetSocket
	for _, proto := range []int{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP, 0x88cc, unix.ETH_P_802_2} {
		stack = append(stack, openPacket(t, l.pod.ifindex, proto))
	}
	var sizes []int
	for n := 14; n <= 2000; n++ {
		sizes = append(sizes, n)
	}
	sizes = append(sizes, 4095, 4096, 4097, 9014, 16384, 32768, 60000, 65535)
	plain, scattered := l.sender(t), l.sender(t, unix.PACKET_VNET_HDR)
	goldens, sent := portGoldens(), uint64(0)
	for i, n := range sizes {
		for j := range 3 {
			frame := make([]byte, n)
			g := goldens[(i*3+j)%len(goldens)]
			if copy(frame, g.frame); n < 18 && g.want == TaggedDropped {
				continue // the kernel itself drops a tag that is cut
			}
			from := plain
			if n > 4096 {
				from = scattered
			}
			from.send(t, frame)
			sent++
		}
	}
	total := func() (n uint64) {
		for _, c := range trunkCounts(t, l.trunk) {
			n += c.Packets
		}
		return n
	}
	await(t, "the hook to count all frames", func() bool { return total() >= sent })
	if n := total(); n != sent {
		t.Errorf("%d frames counted, %d sent", n, sent)
	}
	for _, s := range stack {
		if frame := s.poll(); frame != nil {
			t.Errorf("the host's stack got %x", frame)
		}
	}
	if err := l.trunk.takeOff(portID); err != nil { // the sockets would have seen it
		t.Fatal(err)
	}
	plain.send(t, goldens[0].frame)
	if frame, _ := stack[0].receive(t); !bytes.Equal(frame, goldens[0].frame) {
		t.Errorf("without a hook the host's stack got %x", frame)
	}
}

func TestToStation(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	userspace, pod := openPacket(t, l.wire.peer, unix.ETH_P_ALL), l.sender(t)
	host := newVeth(t, vethOptions{peerMAC: []byte{2, 0, 0, 0, 0, 9}})
	setPort(t, l.trunk, TrunkPort{ID: 7, IfIndex: host.ifindex, MAC: [6]byte{2, 0, 0, 0, 0, 9}, Router: true, Host: true,
		HostIfIndex: host.peer})
	stack := openPacket(t, host.peer, unix.ETH_P_IP)
	for _, row := range []struct {
		mac []byte
		to  *packetSocket
		as  []byte
	}{
		{portMAC, pod, stationMAC[:]}, {[]byte{0x02, 0x76, 0x64, 0, 0, 7}, stack, []byte{2, 0, 0, 0, 0, 9}},
	} {
		for _, size := range []int{0, 1000, 9000, 65000} {
			rest := join([]byte{2, 0x76, 0x64, 0, 0, 0, 8, 0}, ip4(peer4, make([]byte, size)))
			userspace.send(t, join(row.mac, rest))
			got, kind := row.to.receive(t)
			if want := join(row.as, rest); !bytes.Equal(got, want) || kind != unix.PACKET_HOST {
				t.Errorf("the station got, as %d,\n%x, want\n%x", kind, got, want)
			}
		}
		userspace.send(t, join([]byte{0x02, 0x76, 0x64, 0, 0, 8}, []byte{2, 0x76, 0x64, 0, 0, 0, 8, 0}, ip4(peer4, nil)))
		await(t, "the hook to drop", func() bool {
			c := countersOf(t, l.trunk, noPort)[UnknownPortDropped-FromPort]
			return c.Packets > 0
		})
		if frame := row.to.poll(); frame != nil {
			t.Errorf("the station got %x", frame)
		}
	}
	if n := countersOf(t, l.trunk, 7)[ToPort-FromPort].Packets; n != 4 {
		t.Errorf("%d packets counted to the host", n)
	}
}

// A trunk made anew is attached to, and the one before is left alone.
func TestTrunkMadeAnew(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{PinDir: bpffs(t) + "/trunk"})
	pod := l.sender(t)
	for _, gone := range []bool{false, true} {
		before := l.wire
		l.wire = newVeth(t, vethOptions{queues: 2})
		if gone {
			link, err := netlink.LinkByIndex(before.ifindex)
			if err != nil || netlink.LinkDel(link) != nil {
				t.Fatal(err)
			}
			if got := l.judged(t, pod, portGoldens()[0].frame); got != FromPort {
				t.Errorf("without a trunk: %s", got)
			}
		}
		for range 2 {
			attachTrunk(t, l.trunk, l.wire.ifindex, 2)
		}
		if n := tcxPrograms(t, l.wire.ifindex); n != 1 {
			t.Errorf("%d programs at the trunk", n)
		}
		if n := tcxPrograms(t, before.ifindex); n != 0 && !gone {
			t.Errorf("%d programs at the trunk before", n)
		}
		userspace := openPacket(t, l.wire.peer, unix.ETH_P_ALL)
		pod.send(t, portGoldens()[0].frame)
		if frame, _ := userspace.receive(t); binary.BigEndian.Uint16(frame[6:]) != 0x0276 {
			t.Errorf("userspace got %x", frame)
		}
	}
	if err := l.trunk.Attach(l.wire.ifindex, 0); err == nil {
		t.Error("a trunk without queues was taken")
	}
}
