// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// packetSocket sends and receives frames at one device.
type packetSocket struct {
	fd     int
	header []byte // before each frame
}

// openPacket opens one for the packets of a protocol; with PACKET_VNET_HDR among the options, of what it sends only the
// Ethernet header is in the linear part, if it is larger than a page (net/packet/af_packet.c, packet_alloc_skb).
func openPacket(t testing.TB, ifindex, proto int, options ...int) *packetSocket {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	s := &packetSocket{fd: fd}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1); err != nil {
			t.Fatal(err)
		}
		s.header = []byte{0, 0, 14, 0, 0, 0, 0, 0, 0, 0} // struct virtio_net_hdr: hdr_len
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	address := unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: uint16(proto>>8 | proto&0xff<<8)}
	if err := unix.Bind(fd, &address); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *packetSocket) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(s.fd, join(s.header, frame)); err != nil {
		t.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// receive waits for the next frame that came in, and says how it was addressed: unix.PACKET_HOST and so on.
func (s *packetSocket) receive(t testing.TB) ([]byte, uint8) {
	t.Helper()
	for {
		frame, kind, err := s.next(0)
		if err != nil {
			t.Fatal("receive:", err)
		}
		if kind != unix.PACKET_OUTGOING {
			return frame, kind
		}
	}
}

// poll returns the next frame that came in, if there is one.
func (s *packetSocket) poll() []byte {
	for {
		frame, kind, err := s.next(unix.MSG_DONTWAIT)
		if err != nil {
			return nil
		}
		if kind != unix.PACKET_OUTGOING {
			return frame
		}
	}
}

func (s *packetSocket) next(flags int) ([]byte, uint8, error) {
	b := make([]byte, 1<<17)
	n, from, err := unix.Recvfrom(s.fd, b, flags)
	if err != nil {
		return nil, 0, err
	}
	return b[:n], from.(*unix.SockaddrLinklayer).Pkttype, nil
}

// await polls for what the kernel does in its own time.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// tcxPrograms counts the programs at a device's tcx ingress.
func tcxPrograms(t testing.TB, ifindex int) int {
	t.Helper()
	result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return 0
	}
	return len(result.Programs)
}
