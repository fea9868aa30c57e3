// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// clients are outside, and the host's routes to them are by its uplink; at are addresses of the host.
var clients, at = []string{"198.51.100.1", "2001:db8:51::1"}, []string{"192.0.2.1", "2001:db8::1"}

// TestAnswersComeBack: what the host's processes answer to a client outside that the dataplane has led to them goes
// back to the dataplane, and what they answer to one that has come by itself does not.
func TestAnswersComeBack(t *testing.T) {
	for _, reversePath := range []string{"0", "1"} {
		pod, host, outside := world(t, full()) // the pod stands for the dataplane
		ok(t, pod.Do(func() error {
			for _, a := range clients {
				run(t, "ip", "address", "add", a, "dev", "lo")
			}
			return nil
		}))
		for _, a := range at {
			serve(t, host, net.JoinHostPort(a, port))
		}
		ok(t, host.Do(func() error { return ensureSysctl("net/ipv4/conf/all/rp_filter", reversePath) }))
		for i := range clients {
			for _, network := range []string{"tcp", "udp"} {
				if err := asks(pod, network, clients[i], at[i]); err == nil {
					t.Errorf("%s from %s by the dataplane is answered there without services", network, clients[i])
				}
			}
		}
		inside(t, host, func(s *Stack) {
			services := full()
			services.Services = true
			ok(t, setReception(true)) // as whoever makes the pair does
			apply(t, s, services)
			if !s.Answers() {
				t.Error("answers are said not to come back")
			}
			apply(t, s, services) // changes nothing
			for i := range clients {
				for _, network := range []string{"tcp", "udp"} {
					ok(t, asks(pod, network, clients[i], at[i]))
					ok(t, asks(outside, network, clients[i], at[i]))
				}
			}
			ok(t, asks(pod, "tcp", "10.244.1.5", at[0]))
			for _, c := range []struct {
				config Config
				rules  int
			}{{services, 1}, {full(), 0}} {
				apply(t, s, c.config)
				if s.Answers() != (c.rules == 1) {
					t.Errorf("answers come back: %t", s.Answers())
				}
				for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
					list, err := netlink.RuleListFiltered(family, &netlink.Rule{Table: AnswerTable}, netlink.RT_FILTER_TABLE)
					ok(t, err)
					if len(list) != c.rules {
						t.Errorf("rules %v, want %d", list, c.rules)
					}
				}
			}
			apply(t, s, services)
			ok(t, s.Remove())
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := netlink.RuleListFiltered(family, &netlink.Rule{Table: AnswerTable}, netlink.RT_FILTER_TABLE)
				ok(t, err)
				if len(list) != 0 {
					t.Errorf("left: %v", list)
				}
			}
		})
	}
}

// asks has a server answer that is one of serve's from an address, and wants to be seen by it.
func asks(n *netlab.Namespace, network, from, server string) error {
	const patience = 700 * time.Millisecond
	return n.Do(func() error {
		local := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
		d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(local)}
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
		conn, err := d.Dial(network, net.JoinHostPort(server, port))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		line := make([]byte, 100)
		size, err := conn.Read(line)
		if err != nil {
			return err
		}
		if saw := string(line[:size]); saw != conn.LocalAddr().String()+"\n" {
			return fmt.Errorf("%s saw %q, not %v", server, saw, conn.LocalAddr())
		}
		return nil
	})
}
