// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// etherTest is the EtherType of the tests' packets (IEEE 802 local experimental), to tell them from the stack's own.
const etherTest = 0x88b5

// namespace runs the rest of the test in a network namespace of its own.
func namespace(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	// Or the stack's own packets come in between.
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	t.Cleanup(func() {
		_ = inside.Close()
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
		_ = before.Close()
	})
}

// wire is a veth pair: the socket's end, with an XDP program that hands everything to the XSKMAP, and the far end with
// a packet socket.
type wire struct {
	near, far netlink.Link
	xsks      *ebpf.Map
	attached  link.Link
	packets   int // packet socket
}

func newWire(t testing.TB, mtu int) *wire {
	t.Helper()
	name := fmt.Sprintf("xs%08x", rand.Uint32())
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name + "f"}
	pair.Name, pair.MTU = name, mtu
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("add veth: %v", err)
	}
	w := &wire{packets: -1}
	t.Cleanup(func() { w.remove(t) })
	for _, end := range []struct {
		name string
		link *netlink.Link
	}{{name, &w.near}, {name + "f", &w.far}} {
		l, err := netlink.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		must(t, netlink.LinkSetMTU(l, mtu))
		must(t, netlink.LinkSetUp(l))
		*end.link = l
	}
	w.attach(t)
	w.listen(t)
	return w
}

func (w *wire) attach(t testing.TB) {
	t.Helper()
	var err error
	w.xsks, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 4})
	must(t, err)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS, AttachType: ebpf.AttachXDP,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
			asm.LoadMapPtr(asm.R1, w.xsks.FD()),
			asm.Mov.Imm(asm.R3, 2), // XDP_PASS
			asm.FnRedirectMap.Call(),
			asm.Return(),
		},
	})
	must(t, err)
	w.attached, err = link.AttachXDP(link.XDPOptions{
		Program: program, Interface: w.near.Attrs().Index, Flags: link.XDPDriverMode,
	})
	must(t, err)
	must(t, program.Close())
}

func (w *wire) listen(t testing.TB) {
	t.Helper()
	protocol := etherTest<<8&0xff00 | etherTest>>8
	var err error
	w.packets, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	must(t, err)
	must(t, unix.Bind(w.packets, &unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: w.far.Attrs().Index}))
	must(t, unix.SetsockoptInt(w.packets, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	must(t, unix.SetsockoptInt(w.packets, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20))
	must(t, unix.SetsockoptTimeval(w.packets, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
}

// remove deletes the devices, as a pod does that goes away.
func (w *wire) remove(t testing.TB) {
	t.Helper()
	if w.packets >= 0 {
		_ = unix.Close(w.packets)
		w.packets = -1
	}
	if w.attached != nil {
		_ = w.attached.Close()
		_ = w.xsks.Close()
		w.attached = nil
	}
	if w.near != nil {
		must(t, netlink.LinkDel(w.near))
		w.near = nil
	}
}

// open binds a socket to queue 0 of the near end and puts it in the map.
func (w *wire) open(t testing.TB, c SocketConfig) *Socket {
	t.Helper()
	c.Device = w.near.Attrs().Name
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(nil) })
	must(t, w.xsks.Put(uint32(0), uint32(s.FD())))
	return s
}

// send sends a packet from the far end.
func (w *wire) send(t testing.TB, packet []byte) {
	t.Helper()
	if _, err := unix.Write(w.packets, packet); err != nil {
		t.Fatalf("send %d bytes: %v", len(packet), err)
	}
}

// receive waits for a packet at the far end, nil if there is none.
func (w *wire) receive() []byte {
	data := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(w.packets, data, 0)
	if err != nil {
		return nil
	}
	return data[:n]
}

// testPacket is an Ethernet frame with number n and a payload that depends on it.
func testPacket(n uint32, size int) []byte {
	p := make([]byte, size)
	copy(p, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, etherTest >> 8, etherTest & 0xff})
	binary.BigEndian.PutUint32(p[14:], n)
	for i := 18; i < size; i++ {
		p[i] = byte(uint32(i)*7 + n)
	}
	return p
}

// poll receives what is there, waiting at most two seconds, and gives its frames to the caller.
func poll(t testing.TB, q Queue, descs []Desc) []Desc {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		if got := q.Receive(descs); got > 0 {
			return descs[:got]
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.Fatal("no packet")
	return nil
}

// contents joins the bytes of descriptors.
func contents(u *UMEM, descs []Desc) []byte {
	var b bytes.Buffer
	for _, d := range descs {
		start := int(d.Addr) & (u.ChunkSize() - 1)
		b.Write(u.Frame(d.Addr)[start : start+int(d.Len)])
	}
	return b.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
