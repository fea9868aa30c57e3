// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// wire is a veth from the tests' namespace to a peer's.
type wire struct {
	name    string
	ifindex int
	mac     net.HardwareAddr
	peer    netns.NsHandle
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	w := &wire{name: fmt.Sprintf("x%08x", rand.Uint32())}
	onThread(t, func() (err error) {
		w.peer, err = netns.New() // the thread ends with it
		return err
	})
	t.Cleanup(func() { w.peer.Close() })
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: w.name}, PeerName: w.name + "p",
		PeerNamespace: netlink.NsFd(w.peer)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	w.ifindex = up(t, w.name, kernels4, kernels6, ours4)
	w.inPeer(t, func() error { up(t, w.name+"p", peer4, peer6); return nil })
	device, err := netlink.LinkByIndex(w.ifindex)
	if err != nil {
		t.Fatal(err)
	}
	w.mac = device.Attrs().HardwareAddr
	return w
}

// onThread runs f on a thread of its own, which ends after it.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (w *wire) inPeer(t *testing.T, f func() error) {
	t.Helper()
	onThread(t, func() error { return errors.Join(netns.Set(w.peer), f()) })
}

// knowOurs tells the peer, in whose namespace it runs, our address's MAC, as our ARP is taken and nobody answers.
func (w *wire) knowOurs() error {
	l, err := netlink.LinkByName(w.name + "p")
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: ours4.AsSlice(), HardwareAddr: w.mac})
}

// up gives a device addresses and sets it up, and returns its index.
func up(t *testing.T, name string, addresses ...fmt.Stringer) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return 0
	}
	for _, a := range addresses {
		bits := "/24"
		if strings.Contains(a.String(), ":") {
			bits = "/64"
		}
		parsed, _ := netlink.ParseAddr(a.String() + bits)
		parsed.Flags = unix.IFA_F_NODAD
		err = errors.Join(err, netlink.AddrAdd(l, parsed))
	}
	if err := errors.Join(err, netlink.LinkSetUp(l)); err != nil {
		t.Error(err)
	}
	return l.Attrs().Index
}

// has fails unless the device runs a hook in this mode, or none.
func (w *wire) has(t *testing.T, mode DriverMode) device {
	t.Helper()
	d, err := attached(w.ifindex)
	if err != nil {
		t.Fatal(err)
	}
	if d.mode != mode || (d.program == 0) != (mode == NotAttached) {
		t.Fatalf("device has program %d, %s; want %s", d.program, d.mode, mode)
	}
	return d
}

func listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(address, "7000"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	udp := c.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { // SO_RCVBUF stops at net.core.rmem_max
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return udp
}
