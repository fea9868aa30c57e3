// SPDX-License-Identifier: Apache-2.0

// Package veth gives tests a network namespace and veth pairs whose near end hands everything to an XSKMAP.
package veth

import (
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

// Namespace runs the rest of the test in a network namespace of its own.
func Namespace(t testing.TB) {
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

// Wire is a veth pair: the socket's end, with an XDP program that hands everything to the XSKMAP, and the far end with
// a packet socket.
type Wire struct {
	Near, Far netlink.Link
	XSKs      *ebpf.Map
	program   link.Link
	packets   int // packet socket
}

// New makes a veth pair with this MTU. It is removed at the end of the test.
func New(t testing.TB, mtu int) *Wire {
	t.Helper()
	name := fmt.Sprintf("xs%08x", rand.Uint32())
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name + "f"}
	pair.Name, pair.MTU = name, mtu
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("add veth: %v", err)
	}
	w := &Wire{packets: -1}
	t.Cleanup(func() { w.Remove(t) })
	for _, end := range []struct {
		name string
		link *netlink.Link
	}{{name, &w.Near}, {name + "f", &w.Far}} {
		l, err := netlink.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		must(t, netlink.LinkSetMTU(l, mtu))
		must(t, netlink.LinkSetUp(l))
		*end.link = l
	}
	w.attach(t)
	w.WaitUp(t)
	w.listen(t)
	return w
}

func (w *Wire) attach(t testing.TB) {
	t.Helper()
	var err error
	w.XSKs, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 4})
	must(t, err)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS, AttachType: ebpf.AttachXDP,
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
			asm.LoadMapPtr(asm.R1, w.XSKs.FD()),
			asm.Mov.Imm(asm.R3, 2), // XDP_PASS
			asm.FnRedirectMap.Call(),
			asm.Return(),
		},
	})
	must(t, err)
	w.program, err = link.AttachXDP(link.XDPOptions{
		Program: program, Interface: w.Near.Attrs().Index, Flags: link.XDPDriverMode,
	})
	must(t, err)
	must(t, program.Close())
}

func (w *Wire) listen(t testing.TB) {
	t.Helper()
	protocol := etherTest<<8&0xff00 | etherTest>>8
	var err error
	w.packets, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	must(t, err)
	must(t, unix.Bind(w.packets, &unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: w.Far.Attrs().Index}))
	must(t, unix.SetsockoptInt(w.packets, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	must(t, unix.SetsockoptInt(w.packets, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20))
	must(t, unix.SetsockoptTimeval(w.packets, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}))
}

// Remove deletes the devices, as a pod does that goes away.
func (w *Wire) Remove(t testing.TB) {
	t.Helper()
	if w.packets >= 0 {
		_ = unix.Close(w.packets)
		w.packets = -1
	}
	if w.program != nil {
		_ = w.program.Close()
		_ = w.XSKs.Close()
		w.program = nil
	}
	if w.Near != nil {
		must(t, netlink.LinkDel(w.Near))
		w.Near = nil
	}
}

// Send sends a packet from the far end.
func (w *Wire) Send(t testing.TB, packet []byte) {
	t.Helper()
	if _, err := unix.Write(w.packets, packet); err != nil {
		t.Fatalf("send %d bytes: %v", len(packet), err)
	}
}

// Receive waits for a packet at the far end, nil if there is none.
func (w *Wire) Receive() []byte {
	data := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(w.packets, data, 0)
	if err != nil {
		return nil
	}
	return data[:n]
}

// Packet is an Ethernet frame with number n and a payload that depends on it.
func Packet(n uint32, size int) []byte {
	p := make([]byte, size)
	copy(p, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, etherTest >> 8, etherTest & 0xff})
	binary.BigEndian.PutUint32(p[14:], n)
	for i := 18; i < size; i++ {
		p[i] = byte(uint32(i)*7 + n)
	}
	return p
}

// WaitUp waits until both ends transmit: a device whose carrier has come drops packets until a work item of the kernel
// has attached its queueing (net/core/link_watch.c).
func (w *Wire) WaitUp(t testing.TB) {
	t.Helper()
	for _, end := range []netlink.Link{w.Near, w.Far} {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			l, err := netlink.LinkByIndex(end.Attrs().Index)
			must(t, err)
			if l.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is %v", l.Attrs().Name, l.Attrs().OperState)
			}
		}
	}
}

// Mute closes the packet socket, so that nobody takes what the far end receives.
func (w *Wire) Mute() {
	if w.packets >= 0 {
		_ = unix.Close(w.packets)
		w.packets = -1
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
