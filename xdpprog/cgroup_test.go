// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/testenv"
)

var (
	dataplane4 = netip.MustParseAddr("10.244.1.254")
	dataplane6 = netip.MustParseAddr("fd00:244:1::ffff")
	loopback4  = netip.MustParseAddr("127.0.0.1")
	loopback6  = netip.IPv6Loopback()
)

// inCgroup makes a cgroup below the mounted ones and puts this process in it for the length of the test.
func inCgroup(t *testing.T) string {
	t.Helper()
	testenv.Root(t)
	root := cgroupMount(t)
	dir := filepath.Join(root, fmt.Sprintf("xdpprog-%08x", rand.Uint32()))
	must(t, os.Mkdir(dir, 0o755))
	before := currentCgroup(t)
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	t.Cleanup(func() {
		err := move(filepath.Join(root, before))
		for range 50 { // sockets may be closed a little later
			if err = errors.Join(err, os.Remove(dir)); !errors.Is(err, unix.EBUSY) {
				break
			}
			err = nil
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	})
	must(t, move(dir))
	return dir
}

func cgroupMount(t *testing.T) string {
	t.Helper()
	file, err := os.Open("/proc/self/mounts")
	must(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Fatal("no cgroup of version 2 is mounted")
	return ""
}

func currentCgroup(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if path, is := strings.CutPrefix(line, "0::"); is {
			return strings.TrimSpace(path)
		}
	}
	return "/"
}

// addressesOf gives the tests' loopback device the addresses of a node and of its dataplane.
func withAddresses(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	for _, a := range []netip.Addr{kernels4, kernels6, dataplane4, dataplane6} {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
			Flags: unix.IFA_F_NODAD}
		must(t, netlink.AddrAdd(lo, addr))
		t.Cleanup(func() { must(t, netlink.AddrDel(lo, addr)) })
	}
}

// nodeSockets are services with node ports, whose hooks are at the cgroup.
func nodeSockets(t *testing.T, dir, pins string) *Services {
	t.Helper()
	s := loadServices(t, loadTrunk(t, TrunkOptions{MaxPorts: 1}), pins)
	must(t, s.SetNode(Node{HostPort: 1, Dataplane: []netip.Addr{dataplane4, dataplane6}}))
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		must(t, s.SetFrontend(Frontend{a, unix.IPPROTO_TCP, nodePort}))
		must(t, s.SetFrontend(Frontend{a, unix.IPPROTO_UDP, nodePort}))
	}
	for _, a := range []netip.Addr{kernels4, kernels6} {
		must(t, s.SetAddress(a, AtNodePorts|AtHost))
	}
	for _, a := range []netip.Addr{loopback4, loopback6} {
		must(t, s.SetAddress(a, AtLoopback))
	}
	must(t, s.AttachCgroup(dir))
	return s
}

// serve answers at the dataplane's addresses with what it gets and where that was.
func serve(t *testing.T) {
	t.Helper()
	for _, a := range []netip.Addr{dataplane4, dataplane6} {
		at := netip.AddrPortFrom(a, nodePort)
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		must(t, err)
		t.Cleanup(func() { tcp.Close() })
		go func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, at)
				c.Close()
			}
		}()
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		must(t, err)
		t.Cleanup(func() { udp.Close() })
		go func() {
			for {
				_, from, err := udp.ReadFromUDPAddrPort(make([]byte, 64))
				if err != nil {
					return
				}
				_, _ = udp.WriteToUDPAddrPort([]byte(at.String()), from)
			}
		}()
	}
}

// askedFor are the addresses at which node ports are reached, with the dataplane's that answers.
func askedFor() map[netip.Addr]netip.Addr {
	return map[netip.Addr]netip.Addr{
		kernels4: dataplane4, loopback4: dataplane4, netip.MustParseAddr("127.9.9.9"): dataplane4,
		netip.IPv4Unspecified(): dataplane4, kernels6: dataplane6, loopback6: dataplane6,
	}
}

func TestConnectToNodePort(t *testing.T) {
	dir := inCgroup(t)
	withAddresses(t)
	nodeSockets(t, dir, "")
	serve(t)
	for a, dataplane := range askedFor() {
		at, want := netip.AddrPortFrom(a, nodePort), netip.AddrPortFrom(dataplane, nodePort)
		checkConnected(t, unix.SOCK_STREAM, at, at, want)
		checkConnected(t, unix.SOCK_DGRAM, at, at, want)
		if a.Is4() {
			as6 := netip.AddrPortFrom(netip.AddrFrom16(a.As16()), nodePort)
			checkConnected(t, unix.SOCK_STREAM, as6, as6, want)
			checkConnected(t, unix.SOCK_DGRAM, as6, as6, want)
		}
	}
}

// checkConnected connects a socket, which hears an answer of the dataplane and of a peer that is the one it asked for.
func checkConnected(t *testing.T, kind int, to, peer, want netip.AddrPort) {
	t.Helper()
	fd := openSocket(t, kind, to)
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		t.Errorf("connect %d to %s: %v", kind, to, err)
		return
	}
	if kind == unix.SOCK_DGRAM {
		must(t, unix.Send(fd, []byte("hello"), 0))
	}
	b := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil || string(b[:n]) != want.String() {
		t.Errorf("%d to %s: %q, %v", kind, to, b[:max(n, 0)], err)
		return
	}
	if kind == unix.SOCK_DGRAM && addrPort(from) != peer {
		t.Errorf("datagram to %s is answered by %s", to, addrPort(from))
	}
	is, err := unix.Getpeername(fd)
	if err != nil && kind == unix.SOCK_STREAM && errors.Is(err, unix.ENOTCONN) {
		return // the server was quicker
	}
	must(t, err)
	if addrPort(is) != peer {
		t.Errorf("the peer of %d to %s is %s", kind, to, addrPort(is))
	}
}

func openSocket(t *testing.T, kind int, to netip.AddrPort) int {
	t.Helper()
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	second := unix.NsecToTimeval(time.Second.Nanoseconds())
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second))
	return fd
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// A socket that is not connected hears from whom it asked, and from others as they are.
func TestSendToNodePort(t *testing.T) {
	dir := inCgroup(t)
	withAddresses(t)
	nodeSockets(t, dir, "")
	serve(t)
	for a, dataplane := range askedFor() {
		to := netip.AddrPortFrom(a, nodePort)
		checkSent(t, to, to, netip.AddrPortFrom(dataplane, nodePort))
		if a.Is4() {
			as6 := netip.AddrPortFrom(netip.AddrFrom16(a.As16()), nodePort)
			checkSent(t, as6, as6, netip.AddrPortFrom(dataplane, nodePort))
		}
		direct := netip.AddrPortFrom(dataplane, nodePort)
		checkSent(t, direct, direct, direct)
	}
}

func checkSent(t *testing.T, to, peer, want netip.AddrPort) {
	t.Helper()
	fd := openSocket(t, unix.SOCK_DGRAM, to)
	defer unix.Close(fd)
	must(t, unix.Sendto(fd, []byte("hello"), 0, sockaddr(to)))
	b := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil || string(b[:n]) != want.String() || addrPort(from) != peer {
		t.Errorf("sent to %s: %q, %v, from %v, want %q from %s", to, b[:max(n, 0)], err, addrPort(from), want, peer)
	}
}

// What is no node port of the node stays as it is, and so do the sockets of other namespaces.
func TestOtherSockets(t *testing.T) {
	dir := inCgroup(t)
	withAddresses(t)
	s := nodeSockets(t, dir, "")
	serve(t)
	refused := func(to netip.AddrPort) error {
		fd := openSocket(t, unix.SOCK_STREAM, to)
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(to)); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
		return nil
	}
	must(t, refused(netip.AddrPortFrom(loopback4, nodePort+1)))
	must(t, refused(netip.AddrPortFrom(dataplane4, nodePort+1)))
	lab := netlab.New()
	defer lab.Close()
	other, err := lab.Namespace("other")
	must(t, err)
	must(t, other.Do(func() error { return refused(netip.AddrPortFrom(loopback4, nodePort)) }))
	must(t, s.SetAddress(loopback4, 0))
	must(t, refused(netip.AddrPortFrom(loopback4, nodePort)))
	must(t, s.RemoveFrontend(Frontend{netip.IPv6Unspecified(), unix.IPPROTO_TCP, nodePort}))
	must(t, refused(netip.AddrPortFrom(kernels6, nodePort)))
	checkConnected(t, unix.SOCK_STREAM, netip.AddrPortFrom(kernels4, nodePort), netip.AddrPortFrom(kernels4, nodePort),
		netip.AddrPortFrom(dataplane4, nodePort))
	must(t, s.leaveCgroup())
	must(t, refused(netip.AddrPortFrom(kernels4, nodePort)))
}

// The hooks of two dataplanes at one cgroup, each for its own namespace.
func TestTwoAtOneCgroup(t *testing.T) {
	dir := inCgroup(t)
	withAddresses(t)
	lab := netlab.New()
	defer lab.Close()
	other, err := lab.Namespace("other")
	must(t, err)
	serve(t)
	at, want := netip.AddrPortFrom(kernels4, nodePort), netip.AddrPortFrom(dataplane4, nodePort)
	check := func() { checkConnected(t, unix.SOCK_STREAM, at, at, want) }
	nodeSockets(t, dir, "")
	check()
	var second *Services
	must(t, other.Do(func() error { second = nodeSockets(t, dir, ""); return nil }))
	check()
	must(t, second.Detach())
	check()
}

func TestCgroupTakenOver(t *testing.T) {
	dir := inCgroup(t)
	withAddresses(t)
	serve(t)
	pins := filepath.Join(bpffs(t), "services")
	at, want := netip.AddrPortFrom(kernels4, nodePort), netip.AddrPortFrom(dataplane4, nodePort)
	must(t, nodeSockets(t, dir, pins).Close())
	checkConnected(t, unix.SOCK_STREAM, at, at, want)
	again := nodeSockets(t, dir, pins)
	checkConnected(t, unix.SOCK_DGRAM, at, at, want)
	if n := len(again.atCgroup); n != len(socketHooks) {
		t.Errorf("%d hooks", n)
	}
	must(t, again.Close())
	last := loadServices(t, loadTrunk(t, TrunkOptions{MaxPorts: 1}), pins)
	must(t, last.Detach()) // without having looked at the cgroup
	fd := openSocket(t, unix.SOCK_STREAM, at)
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(at)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("with the hooks taken off: %v", err)
	}
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	if err := last.AttachCgroup(t.TempDir()); err == nil {
		t.Error("a directory that is no cgroup is taken")
	}
}
