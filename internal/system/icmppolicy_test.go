// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// TestErrorsThroughPolicy: ICMP errors about flows that are let pass to pods that nobody may speak to, and others do
// not.
func TestErrorsThroughPolicy(t *testing.T) {
	s := newStage(t)
	s.write("policy-web.yaml", networkPolicy("shop", "web", "{podSelector: {matchLabels: {app: web}}, "+
		"policyTypes: [Ingress]}"))
	s.write("policy-db.yaml", networkPolicy("shop", "db", "{podSelector: {matchLabels: {app: db}}, ingress: "+
		"[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: UDP, port: 9}]}]}"))
	s.hasPolicies(2)
	s.is("policies to be in force", func(w way) bool { return cast[w.to].namespace != "shop" || w.from == "node" })
	for f := range families {
		err := closedPort(s.of("web"), netip.AddrPortFrom(s.address("db", f), 9))
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a closed port by IPv%d: %v", f, err)
		}
		for _, from := range []string{"db", "spy"} {
			s.drops(from, "icmp_without_flow", 1, func() { s.unreachable(from, "web", f) })
		}
		s.drops("world", "icmp_without_flow", 1, func() { s.unreachable("world", "web", f) })
	}
	s.balanced()
}

// closedPort is the error that a datagram to a port is answered with.
func closedPort(from *netlab.Namespace, to netip.AddrPort) error {
	var c net.Conn
	err := from.Do(func() (err error) { c, err = net.Dial("udp", to.String()); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("?"))
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(patient))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 64))
	}
	return err
}

// unreachable sends an error about a datagram that was never sent.
func (s *stage) unreachable(from, to string, family int) {
	a, b := s.address(from, family), s.address(to, family)
	protocol, message, quoted := unix.IPPROTO_ICMP, []byte{3, 3, 0, 0, 0, 0, 0, 0}, udp4
	if family == 6 {
		protocol, message, quoted = unix.IPPROTO_ICMPV6, []byte{1, 4, 0, 0, 0, 0, 0, 0}, udp6
	}
	message = append(message, quoted(b, a)...)
	if family == 4 {
		sum := internetSum(message) // of ICMPv6 the kernel makes it
		message[2], message[3] = byte(sum>>8), byte(sum)
	}
	s.raw(s.of(from), family, protocol).say(b, message)
}

// TestPathMTUThroughPolicy: a pod that may be spoken to by TCP alone learns of a narrow way to who speaks to it.
func TestPathMTUThroughPolicy(t *testing.T) {
	const narrow, size = 1280, 1 << 20
	s := newStage(t)
	far := s.far(narrow)
	s.write("policy.yaml", networkPolicy("shop", "tcp", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: "+
		"[{from: [{ipBlock: {cidr: 198.51.100.0/24}}, {ipBlock: {cidr: 2001:db8:51::/64}}], ports: [{protocol: TCP}]}]}"))
	s.is("the policy to be in force", func(w way) bool {
		return w.from == "node" || w.to == "node" || cast[w.to].namespace != "shop" && cast[w.from].namespace != "shop"
	})
	at, mtus := s.givesIn("web", size)
	for f := range families {
		var c net.Conn
		s.must(far.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", netip.AddrPortFrom(s.address("web", f), at).String(), patient)
			return err
		}))
		s.must(c.SetDeadline(time.Now().Add(within)))
		n, err := io.Copy(io.Discard, c)
		_ = c.Close()
		if mtu := <-mtus; n != size || err != nil || mtu != narrow {
			t.Errorf("by IPv%d %d bytes came, %v; the pod knows an MTU of %d", f, n, err, mtu)
		}
	}
}

// far is who is behind a way from the world that carries packets of so many bytes, and itself knows nothing of it.
func (s *stage) far(mtu int) *netlab.Namespace {
	s.t.Helper()
	far, err := s.lab.Namespace("far")
	s.must(err)
	near := end(s.world, "far", "198.51.100.2/24", "2001:db8:51::2/64")
	near.MTU = mtu
	s.must(s.lab.Veth(near, end(far, "far", "198.51.100.1/24", "2001:db8:51::1/64")))
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		s.must(s.world.Sysctl(key, "1"))
	}
	for _, way := range []struct{ to, farBy, nodeBy string }{
		{"198.51.100.0/24", "198.51.100.2", "192.0.2.2"}, {"2001:db8:51::/64", "2001:db8:51::2", "2001:db8::2"},
	} {
		s.must(s.node.Route(netip.MustParsePrefix(way.to), netip.MustParseAddr(way.nodeBy), "up", 0))
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if !netip.MustParseAddr(way.farBy).Is4() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		s.must(far.Route(all, netip.MustParseAddr(way.farBy), "far", 0))
	}
	return far
}

// givesIn gives so many bytes to whoever connects to a pod, and then says which MTU of the path it knows.
func (s *stage) givesIn(pod string, bytes int) (port uint16, mtus chan uint32) {
	s.t.Helper()
	var l net.Listener
	s.must(s.of(pod).Do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }))
	mtus = make(chan uint32, 2)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(make([]byte, bytes))
			mtu, err := knownMTU(c.(*net.TCPConn))
			_ = c.Close()
			if err != nil {
				s.t.Error(err)
			}
			mtus <- mtu
		}
	})
	s.t.Cleanup(served.Wait)
	s.t.Cleanup(func() { _ = l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port), mtus
}

func knownMTU(c *net.TCPConn) (mtu uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			err = fmt.Errorf("TCP_INFO: %w", err)
			return
		}
		mtu = info.Pmtu
	})
	return mtu, errors.Join(controlErr, err)
}
