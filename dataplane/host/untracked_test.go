// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// Addresses from which the dataplane answers: the node's own, and one that is no host's.
var answerFrom = [][3]string{ // own, of a load balancer, client
	{"192.0.2.1", "203.0.113.9", "192.0.2.2"},
	{"2001:db8::1", "2001:db8:ff::9", "2001:db8::2"},
}

// dropInvalid is a firewall as distributions have it.
const dropInvalid = `add table inet firewall
add chain inet firewall forward { type filter hook forward priority 0; }
add rule inet firewall forward ct state invalid drop`

// An answer to a client outside whose SYN the host never saw: with services it passes the host's checks of sources and
// its firewall, and has its source still.
func TestServicesAnswerThroughTheHost(t *testing.T) {
	for _, reversePath := range []string{"0", "1"} {
		pod, host, outside := world(t, full())
		ok(t, host.Do(func() error {
			for _, command := range strings.Split(dropInvalid, "\n") {
				run(t, append([]string{"nft"}, strings.Fields(command)...)...)
			}
			return ensureSysctl("net/ipv4/conf/all/rp_filter", reversePath)
		}))
		ok(t, pod.Do(func() error {
			for _, a := range answerFrom {
				for _, from := range a[:2] {
					run(t, "ip", "address", "add", from, "dev", "lo")
				}
			}
			return nil
		}))
		checkAnswers(t, pod, outside, false)
		services := full()
		services.Services = true
		for _, a := range answerFrom {
			from := netip.MustParseAddr(a[1])
			services.Routes = append(services.Routes, Route{Prefix: netip.PrefixFrom(from, from.BitLen())})
		}
		inside(t, host, func(s *Stack) {
			ok(t, setReception(true)) // as whoever makes the pair does
			apply(t, s, services)
		})
		checkAnswers(t, pod, outside, true)
		// Connections of the host's own to the dataplane stay tracked.
		if seen := seenAs(t, pod, "tcp", own4.String()); seen != "10.244.1.5" {
			t.Errorf("the host is asked by %s", seen)
		}
	}
}

func checkAnswers(t *testing.T, pod, outside *netlab.Namespace, pass bool) {
	t.Helper()
	for _, a := range answerFrom {
		for _, from := range a[:2] {
			if got := answered(t, pod, outside, netip.MustParseAddr(from), netip.MustParseAddr(a[2])); got != pass {
				t.Errorf("an answer from %s arrives: %v, want %v", from, got, pass)
			}
		}
	}
}

// answered sends a SYN and ACK and says whether it came.
func answered(t *testing.T, pod, outside *netlab.Namespace, from, to netip.Addr) bool {
	t.Helper()
	in, out := -1, -1
	ok(t, outside.Do(func() error { in = rawTCP(t, to); return nil }))
	ok(t, pod.Do(func() error { out = rawTCP(t, from); return nil }))
	defer unix.Close(in)
	defer unix.Close(out)
	wait := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
	ok(t, unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	ok(t, unix.Sendto(out, synAck(from, to), 0, rawAddress(to)))
	b := make([]byte, 256)
	for {
		_, source, err := unix.Recvfrom(in, b, 0)
		if err != nil {
			return false
		}
		switch s := source.(type) {
		case *unix.SockaddrInet4:
			if netip.AddrFrom4(s.Addr) == from {
				return true
			}
		case *unix.SockaddrInet6:
			if netip.AddrFrom16(s.Addr) == from {
				return true
			}
		}
	}
}

func rawTCP(t *testing.T, at netip.Addr) int {
	t.Helper()
	family := unix.AF_INET6
	if at.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	ok(t, err)
	ok(t, unix.Bind(fd, rawAddress(at)))
	return fd
}

func rawAddress(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

func synAck(from, to netip.Addr) []byte {
	tcp := []byte{0x75, 0x80, 0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, 0x12, 0xff, 0xff, 0, 0, 0, 0}
	all := append(from.AsSlice(), to.AsSlice()...)
	all = append(all, 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^sum(append(all, tcp...)))
	return tcp
}

// The rules are there for as long as there are services.
func TestUntrackedRules(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		pair(t, s, 0, own4, own6)
		c := full()
		for _, want := range []int{0, 2, 0} {
			c.Services = want > 0
			apply(t, s, c)
			if rules := run(t, "nft", "list", "chain", "inet", Table, "prerouting"); strings.Count(rules, "notrack") != want {
				t.Errorf("want %d:\n%s", want, rules)
			}
		}
	})
}
