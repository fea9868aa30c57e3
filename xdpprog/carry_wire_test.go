// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// carriedPods is two pods between which a flow is carried, and what judges the packets of it that are not.
type carriedPods struct {
	*carryLab
	wire      veth
	client    veth
	server    veth
	flow      *testFlow
	record    *testRecord
	segmented bool // packets leave their stack in segments
	stop      atomic.Bool
}

func newCarriedPods(t *testing.T, six bool, proto uint8) *carriedPods {
	t.Helper()
	l := &carriedPods{carryLab: &carryLab{flows: loadFlows(t, FlowTableOptions{Records: 64})}}
	l.control = controlOf(l.flows)
	l.control.carry = 1
	l.wire = newVeth(t, vethOptions{})
	l.client = newVeth(t, vethOptions{in: newPod(t), peerMAC: stationMAC[:]})
	l.server = newVeth(t, vethOptions{in: newPod(t), peerMAC: otherMAC[:]})
	l.trunk = loadTrunk(t, TrunkOptions{MaxPorts: 16, Flows: l.flows})
	attachTrunk(t, l.trunk, l.wire.ifindex, 1)

	ends := translations(six)["with both"]
	l.flow = plain(ends[0], ends[1], proto)
	l.flow.far, l.flow.flags = [2]netip.AddrPort{ends[2], ends[3]}, testTranslated
	l.record = l.enter(t, l.flow)
	setPort(t, l.trunk, station(l.client.ifindex))
	setPort(t, l.trunk, TrunkPort{ID: otherPort, IfIndex: l.server.ifindex, MAC: otherMAC,
		Addresses: []netip.Addr{ends[3].Addr()}})
	*egressOf(l.flows, otherNear) = testEgress{ifindex: uint32(l.server.ifindex), port: otherPort, mac: gatewayMAC,
		kind: egressPod}
	*egressOf(l.flows, ownEgress) = testEgress{ifindex: uint32(l.client.ifindex), port: portID, mac: gatewayMAC,
		kind: egressPod}
	l.client.reaches(t, ends[0].Addr(), ends[1].Addr())
	l.server.reaches(t, ends[3].Addr(), ends[2].Addr())
	return l
}

// reaches gives the pod an address, and has it send to another one by the dataplane.
func (v veth) reaches(t *testing.T, own, other netip.Addr) {
	t.Helper()
	v.inPeer(t, func() error {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+v.name+"p/disable_ipv6", []byte("0"), 0)
		l, e := netlink.LinkByIndex(v.peer)
		if err = errors.Join(err, e); err != nil {
			return err
		}
		return errors.Join(
			netlink.LinkSetMTU(l, 1500),
			netlink.AddrAdd(l, &netlink.Addr{IPNet: wholeNet(own), Flags: unix.IFA_F_NODAD}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: v.peer, Dst: wholeNet(other), Scope: netlink.SCOPE_LINK}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: v.peer, State: netlink.NUD_PERMANENT, IP: other.AsSlice(),
				HardwareAddr: routerMAC()}))
	})
	await(t, "the address to be the pod's", func() (is bool) {
		v.inPeer(t, func() error {
			routes, err := netlink.RouteGet(own.AsSlice())
			is = err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
			return nil // until then there may be no route at all
		})
		return is
	})
}

func wholeNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// userspace takes what is not carried of the flow, until the test ends: it translates the packet, computes its
// checksums anew, and sends it on.
func (l *carriedPods) userspace(t *testing.T) {
	t.Helper()
	s := openPacket(t, l.wire.peer, unix.ETH_P_ALL)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !l.stop.Load() {
			frame := s.poll()
			if frame == nil {
				time.Sleep(time.Millisecond)
				continue
			}
			if next := l.judge(frame); next != nil {
				s.send(t, next)
			}
		}
	}()
	t.Cleanup(func() { l.stop.Store(true); <-done })
}

// judge returns what becomes of a frame; nil: it is not the flow's.
func (l *carriedPods) judge(frame []byte) []byte {
	f := l.flow
	if p := binary.BigEndian.Uint16(frame[12:]); p != 0x0800 && p != 0x86dd || protoOf(frame) != f.proto {
		return nil
	}
	size, _ := headerOf(frame)
	toMAC := func(port uint32) [6]byte {
		return [6]byte{2, 0x76, 0x64, byte(port >> 16), byte(port >> 8), byte(port)}
	}
	switch [2]byte(frame[14+size+2:]) {
	case be(f.near[1].Port()):
		return leaving(frame, f.far[0], f.far[1], toMAC(otherPort), gatewayMAC)
	case be(f.far[0].Port()):
		return leaving(frame, f.near[1], f.near[0], toMAC(portID), gatewayMAC)
	}
	return nil
}

// Ways in which checksums and segments are left to somebody else, or not.
var carriedWays = map[string]func(*testing.T, *carriedPods){
	"pod": func(*testing.T, *carriedPods) {},
	"checksums are complete": func(t *testing.T, l *carriedPods) {
		l.segmented = true // a device that does not complete checksums cannot be left segments to cut
		for _, v := range []veth{l.client, l.server} {
			v.inPeer(t, func() error { return setEthtool(v.name+"p", ethtoolTxChecksums, 0) })
		}
	},
	"checksums and segments are completed behind the hook": func(t *testing.T, l *carriedPods) {
		for n, v := range map[int]veth{otherNear: l.server, ownEgress: l.client} {
			must(t, setEthtool(v.name, ethtoolTxChecksums, 0))
			egressOf(l.flows, n).kind = egressWire
		}
	},
}

// Commands of linux/ethtool.h.
const ethtoolTxChecksums = 0x17 // ETHTOOL_STXCSUM

func setEthtool(device string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	data := [2]uint32{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&data)}
	copy(request.name[:], device)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
		return fmt.Errorf("ethtool %#x of %s: %w", command, device, e)
	}
	return nil
}

func forCarriedWays(t *testing.T, proto uint8, f func(*testing.T, *carriedPods)) {
	for name, set := range carriedWays {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/six %v", name, six), func(t *testing.T) {
				l := newCarriedPods(t, six, proto)
				set(t, l)
				f(t, l)
			})
		}
	}
}

// A connection through a translated flow: its data arrive as they were sent, both ways, in packets as large as the
// stack makes them, and userspace sees its first packets and its last ones alone.
func TestCarriedTCP(t *testing.T) {
	forCarriedWays(t, tcpProto, func(t *testing.T, l *carriedPods) {
		l.userspace(t)
		var listener net.Listener
		l.server.inPeer(t, func() (err error) { listener, err = net.Listen("tcp", l.flow.far[1].String()); return err })
		defer listener.Close()
		got := make(chan [sha256.Size]byte, 1)
		go func() {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			h := sha256.New()
			if _, err := io.Copy(io.MultiWriter(h, c), c); err == nil {
				got <- [sha256.Size]byte(h.Sum(nil))
			}
		}()
		var c net.Conn
		l.client.inPeer(t, func() (err error) {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(l.flow.near[0]), Timeout: 10 * time.Second}
			c, err = d.Dial("tcp", l.flow.near[1].String())
			return err
		})
		defer c.Close()
		data := make([]byte, 8<<20)
		random := rand.NewChaCha8([32]byte{1})
		_, _ = random.Read(data)
		go func() {
			_, _ = c.Write(data)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
		back, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%d bytes came back of %d: %v", len(back), len(data), err)
		}
		if sum := <-got; sum != sha256.Sum256(data) {
			t.Error("the server got other data than were sent")
		}
		l.expectCounts(t, uint64(len(data)))
	})
}

// expectCounts: of each direction all but what opens and ends the connection is carried, in large packets.
func (l *carriedPods) expectCounts(t *testing.T, data uint64) {
	t.Helper()
	for d, ports := range [2][2]uint32{{portID, otherPort}, {otherPort, portID}} {
		w, from, to := &l.record.way[d], countersOf(t, l.trunk, ports[0]), countersOf(t, l.trunk, ports[1])
		if w.bytes+from[0].Bytes < data || from[0].Bytes > data/10 || w.bytes/w.packets > 1500 == l.segmented ||
			w.used == 0 || w.ack == [4]byte{} {
			t.Errorf("direction %d: %d packets, %d bytes, used %d, ack %x", d, w.packets, w.bytes, w.used, w.ack)
		}
		if n := from[Carried-FromPort].Packets; n != w.packets {
			t.Errorf("%d packets carried from port %d, of the flow %d", n, ports[0], w.packets)
		}
		if n := to[CarriedTo-FromPort].Packets; n != w.packets {
			t.Errorf("%d packets carried to port %d, of the flow %d", n, ports[1], w.packets)
		}
		if n := from[0].Packets; n < 1 || n > 40 { // IPv6 speaks of neighbours and groups, too
			t.Errorf("%d packets of port %d went to userspace", n, ports[0])
		}
	}
}

// Datagrams of all sizes, and such as the kernel cuts, arrive as they were sent, and are answered.
func TestCarriedUDP(t *testing.T) {
	forCarriedWays(t, udpProto, func(t *testing.T, l *carriedPods) {
		var server, client *net.UDPConn
		l.server.inPeer(t, func() (err error) {
			server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.flow.far[1]))
			return err
		})
		defer server.Close()
		l.client.inPeer(t, func() (err error) {
			client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(l.flow.near[0]),
				net.UDPAddrFromAddrPort(l.flow.near[1]))
			return err
		})
		defer client.Close()
		random := rand.NewChaCha8([32]byte{2})
		for size := 0; size <= 1440; size += 15 {
			data := make([]byte, size)
			_, _ = random.Read(data)
			_, err := client.Write(data)
			must(t, err)
			back := receiveFrom(t, server, l.flow.far[0], data)
			_, err = server.WriteToUDPAddrPort(data, back)
			must(t, err)
			receiveFrom(t, client, l.flow.near[1], data)
		}
		l.segments(t, client, server)
		burst := uint64(1)
		if l.segmented {
			burst = 10
		}
		if n := countersOf(t, l.trunk, portID)[Carried-FromPort].Packets; n != 97+burst {
			t.Errorf("%d packets carried", n)
		}
	})
}

// segments sends ten datagrams as one packet.
func (l *carriedPods) segments(t *testing.T, client, server *net.UDPConn) {
	const size = 1000
	raw, err := client.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}))
	must(t, err)
	data := make([]byte, 10*size)
	random := rand.NewChaCha8([32]byte{3})
	_, _ = random.Read(data)
	_, err = client.Write(data)
	must(t, err)
	for at := 0; at < len(data); at += size {
		receiveFrom(t, server, l.flow.far[0], data[at:at+size])
	}
}

func receiveFrom(t *testing.T, c *net.UDPConn, from netip.AddrPort, want []byte) netip.AddrPort {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1<<16)
	n, who, err := c.ReadFromUDPAddrPort(b)
	who = netip.AddrPortFrom(who.Addr().Unmap(), who.Port())
	if err != nil || who != from || !bytes.Equal(b[:n], want) {
		t.Fatalf("%d bytes from %s, want %d from %s: %v", n, who, len(want), from, err)
	}
	return who
}

// What leaves by a wire has the wire's tags. The outer one stands beside the packet.
func TestCarriedTags(t *testing.T) {
	l := newCarryLab(t)
	client := newVeth(t, vethOptions{in: newPod(t), peerMAC: stationMAC[:]})
	setPort(t, l.trunk, station(client.ifindex))
	wire := newVeth(t, vethOptions{})
	var from *packetSocket
	client.inPeer(t, func() error { from = openPacket(t, client.peer, unix.ETH_P_ALL); return nil })
	out := openPacket(t, wire.peer, unix.ETH_P_ALL)
	must(t, unix.SetsockoptInt(out.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	e := egressOf(l.flows, otherNear)
	*e = testEgress{ifindex: uint32(wire.ifindex), port: otherPort, mac: gatewayMAC, kind: egressWire,
		inner: [2][2]byte{{0x81, 0}, {0, 8}}}
	for _, six := range []bool{false, true} {
		ends := translations(six)["not translated"]
		l.enter(t, plain(ends[0], ends[1], udpProto))
		frame := segment(ends[0], ends[1], udpProto, []byte("something"))
		for tags, outer := range [][2]uint16{{}, {0x8100, 7}, {0x88a8, 100}} {
			e.tags, e.outer = uint8(tags), [2][2]byte{be(outer[0]), be(outer[1])}
			want := leaving(frame, ends[0], ends[1], otherMAC, gatewayMAC)
			if tags == 2 {
				want = join(want[:12], []byte{0x81, 0, 0, 8}, want[12:])
			}
			from.send(t, frame)
			got, beside := out.receiveTagged(t)
			if !bytes.Equal(got, want) || beside != outer {
				t.Errorf("%d tags: %x, and the frame\n%x, want %x,\n%x", tags, beside, got, outer, want)
			}
		}
	}
}

// receiveTagged waits for a frame, and returns it with the TPID and the identifier of the tag that stands beside it.
func (s *packetSocket) receiveTagged(t *testing.T) (frame []byte, tag [2]uint16) {
	t.Helper()
	b, control := make([]byte, 1<<16), make([]byte, 128)
	n, size, _, _, err := unix.Recvmsg(s.fd, b, control, 0)
	must(t, err)
	messages, err := unix.ParseSocketControlMessage(control[:size])
	must(t, err)
	for _, m := range messages { // struct tpacket_auxdata of linux/if_packet.h
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA &&
			binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
			tag = [2]uint16{binary.NativeEndian.Uint16(m.Data[18:]), binary.NativeEndian.Uint16(m.Data[16:]) & 0xfff}
		}
	}
	return b[:n], tag
}
