// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"
)

// payload is size bytes that depend on the seed only.
func payload(size int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed+1)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// dial opens a UDP socket at the one end, connected to a port of the other. options may be nil.
func (n *network) dial(to netip.Addr, port uint16, options func(fd int) error) (*net.UDPConn, error) {
	dialer := net.Dialer{Control: control(options)}
	var c net.Conn
	err := n.from.Do(func() (err error) {
		c, err = dialer.Dial("udp"+network4(to), netip.AddrPortFrom(to, port).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return own(n, c.(*net.UDPConn), nil)
}

// listen opens a UDP socket at the other end, with room for bursts. Port 0 takes a free one.
func (n *network) listen(at netip.Addr, port uint16) (*net.UDPConn, error) {
	var c *net.UDPConn
	err := n.to.Do(func() (err error) {
		c, err = net.ListenUDP("udp"+network4(at), net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err := own(n, c, nil); err != nil {
		return nil, err
	}
	return c, onSocket(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
}

func control(options func(fd int) error) func(string, string, syscall.RawConn) error {
	if options == nil {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if controlErr := c.Control(func(fd uintptr) { err = options(int(fd)) }); controlErr != nil {
			return controlErr
		}
		return err
	}
}

// onSocket runs f with the descriptor of c.
func onSocket(c syscall.Conn, f func(fd int) error) error {
	rawConn, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return control(f)("", "", rawConn)
}

func setTTL(fd int, to netip.Addr, ttl int) error {
	if to.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
}

// forbidFragments sets DF, and has the kernel refuse what the path is known not to carry.
func forbidFragments(fd int, to netip.Addr) error {
	if to.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
}

// allowFragments clears DF and has the kernel not split by what it knows of the path, only by its own device.
func allowFragments(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_INTERFACE)
}

// learnedMTU is the path MTU that the kernel has for a connected socket.
func learnedMTU(c *net.UDPConn, to netip.Addr) (mtu int, err error) {
	err = onSocket(c, func(fd int) error {
		if to.Is4() {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
		}
		return err
	})
	return mtu, err
}

// awaitMTU waits until the kernel has learned the path MTU and told the socket of it, and takes that error off it. The
// raw socket hears of the message a moment earlier.
func awaitMTU(c *net.UDPConn, to netip.Addr, want int) error {
	for deadline := time.Now().Add(answerWithin); ; time.Sleep(time.Millisecond) {
		mtu, err := learnedMTU(c, to)
		if err != nil {
			return err
		}
		if mtu == want {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the kernel has a path MTU of %d, want %d", mtu, want)
		}
	}
	return onSocket(c, func(fd int) error {
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 && syscall.Errno(errno) != unix.EMSGSIZE {
			err = syscall.Errno(errno)
		}
		return err
	})
}

// forgetPathMTU drops what the left host learned about the path before (its next-hop exceptions), by setting its
// route anew.
func forgetPathMTU(n *network, to netip.Addr) error {
	family := netlink.FAMILY_V4
	if to.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := n.left.Links().RouteList(nil, family)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Gw == nil {
			continue
		}
		if err := n.left.Links().RouteDel(&r); err != nil {
			return fmt.Errorf("remove route: %w", err)
		}
		if err := n.left.Links().RouteAdd(&r); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
	}
	return nil
}

// headers is the length of IP and UDP headers.
func headers(to netip.Addr) int {
	if to.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// fitting is the largest UDP payload in one packet of the MTU.
func fitting(to netip.Addr, mtu int) int { return mtu - headers(to) }

// arrives sends size bytes and compares what the receiver gets.
func arrives(c, receiver *net.UDPConn, size int) error {
	data := payload(size, uint64(size))
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("send %d bytes: %w", size, err)
	}
	if err := receiver.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	b := make([]byte, 1<<16)
	got, err := receiver.Read(b)
	if err != nil {
		return fmt.Errorf("receive %d bytes: %w", size, err)
	}
	if !bytes.Equal(b[:got], data) {
		return fmt.Errorf("sent %d bytes, got %d others", size, got)
	}
	return nil
}

func portOf(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.UDPAddr:
		return uint16(a.Port)
	case *net.TCPAddr:
		return uint16(a.Port)
	}
	return 0
}
