// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

func TestTrunkFinishesPackets(t *testing.T) {
	for _, queues := range []int{1, 2} {
		alone(t, func(s *Stack, _ *netlab.Namespace) {
			checkWire(t, trunk(t, s, queues, false))
		})
	}
}

// checkWire: what leaves the inner end as one packet of 3000 bytes in segments of 1000, its checksum to be computed, is
// three frames with good checksums behind the outer end.
func checkWire(t *testing.T, tr Trunk) {
	t.Helper()
	out, in := packetSocket(t, tr.Inner.IfIndex), packetSocket(t, tr.Outer.IfIndex)
	ok(t, unix.SetsockoptInt(out, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	ok(t, unix.Sendto(out, append(segmentation(1000), segments(3000)...), 0,
		&unix.SockaddrLinklayer{Ifindex: tr.Inner.IfIndex}))
	for range 3 {
		ok(t, checkSegment(receive(t, in), 1000))
	}
}

// TestTrunkKeepsItsProgram: a program on the outer end outlives everything that is put right, and sees whole packets.
func TestTrunkKeepsItsProgram(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		tr := trunk(t, s, 2, false)
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
		})
		ok(t, err)
		defer program.Close()
		attached, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: tr.Outer.IfIndex})
		ok(t, err)
		defer attached.Close()
		for _, gro := range []bool{true, false, true} {
			run(t, "ip", "link", "set", TrunkOuter, "mtu", "9000")
			again := trunk(t, s, 2, gro)
			checkTrunk(t, s, again, 2, gro)
			xdp := device(t, s, TrunkOuter).Attrs().Xdp
			if again.Outer.IfIndex != tr.Outer.IfIndex || xdp == nil || !xdp.Attached {
				t.Fatalf("with gro %v the program is gone: %+v", gro, xdp)
			}
			checkWire(t, tr)
		}
	})
}

func packetSocket(t *testing.T, ifIndex int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	ok(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	ok(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifIndex}))
	return fd
}

// htons is the number whose bytes in memory are v's in network order.
func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// receive returns the next frame that came from the device.
func receive(t *testing.T, fd int) []byte {
	t.Helper()
	timeout := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	ok(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	frame := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(fd, frame, 0)
	ok(t, err)
	return frame[:n]
}

const (
	ipAt      = 14
	tcpAt     = ipAt + 20
	payloadAt = tcpAt + 20
)

// segmentation is a struct virtio_net_hdr (linux/virtio_net.h) for TCP in IPv4.
func segmentation(size uint16) []byte {
	const needsChecksum, tcpv4 = 1, 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
	header := []byte{needsChecksum, tcpv4}
	for _, v := range []uint16{payloadAt, size, tcpAt, 16} { // hdr_len, gso_size, csum_start, csum_offset
		header = binary.NativeEndian.AppendUint16(header, v)
	}
	return header
}

// segments is an Ethernet frame whose TCP checksum is that of the pseudo-header only.
func segments(payload int) []byte {
	frame := make([]byte, payloadAt+payload)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00})
	ip, tcp := frame[ipAt:tcpAt], frame[tcpAt:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	copy(tcp, []byte{0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, 0x10, 0xff, 0xff})
	binary.BigEndian.PutUint16(tcp[16:], sum(pseudo(ip, len(tcp))))
	for i := payloadAt; i < len(frame); i++ {
		frame[i] = byte(i)
	}
	return frame
}

func checkSegment(frame []byte, payload int) error {
	if len(frame) != payloadAt+payload {
		return fmt.Errorf("a frame of %d bytes", len(frame))
	}
	if is := sum(append(pseudo(frame[ipAt:tcpAt], len(frame)-tcpAt), frame[tcpAt:]...)); is != 0xffff {
		return fmt.Errorf("the TCP checksum is wrong: the sum is %#x", is)
	}
	if is := sum(frame[ipAt:tcpAt]); is != 0xffff {
		return fmt.Errorf("the IPv4 checksum is wrong: the sum is %#x", is)
	}
	return nil
}

func pseudo(ip []byte, length int) []byte {
	return append(append([]byte(nil), ip[12:20]...), 0, unix.IPPROTO_TCP, byte(length>>8), byte(length))
}

// sum is RFC 1071's, of an even number of bytes.
func sum(data []byte) uint16 {
	var total uint32
	for i := 0; i+1 < len(data); i += 2 {
		total += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}
