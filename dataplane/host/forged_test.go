// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestForgedSources: what claims a pod's address and is not from the dataplane reaches neither pods nor the host; what
// else comes from outside does.
func TestForgedSources(t *testing.T) {
	pod, host, outside := world(t, full())
	const port = 4712
	hears := func(in interface{ Do(func() error) error }, address string) net.PacketConn {
		t.Helper()
		var c net.PacketConn
		ok(t, in.Do(func() (err error) {
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), port)))
			return err
		}))
		t.Cleanup(func() { c.Close() })
		return c
	}
	says := func(from string, to net.PacketConn) {
		t.Helper()
		ok(t, outside.Do(func() error {
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)),
				to.LocalAddr().(*net.UDPAddr))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(from))
			return err
		}))
	}
	ok(t, outside.Do(func() error {
		run(t, "ip", "address", "add", "10.244.1.9/32", "dev", "lo")
		run(t, "ip", "address", "add", "fd00:1::9/128", "dev", "lo", "nodad")
		return nil
	}))
	all := []struct{ forged, honest, pod, host string }{
		{"10.244.1.9", "192.0.2.2", "10.244.1.5", "192.0.2.1"},
		{"fd00:1::9", "2001:db8::2", "fd00:1::5", "2001:db8::1"},
	}
	for _, of := range all {
		for _, c := range []net.PacketConn{hears(pod, of.pod), hears(host, of.host)} {
			says(of.forged, c)
			says(of.honest, c)
			heard := make([]byte, 64)
			ok(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
			n, _, err := c.ReadFrom(heard)
			if err != nil || string(heard[:n]) != of.honest {
				t.Errorf("at %s: %q, %v", c.LocalAddr(), heard[:n], err)
			}
		}
	}
	inside(t, host, func(s *Stack) {
		rules := run(t, "nft", "list", "chain", "inet", Table, "prerouting")
		if strings.Count(rules, "counter packets 2 ") != len(all) {
			t.Error(rules)
		}
		c := full()
		c.Masquerade = false
		apply(t, s, c)
		if rules := run(t, "nft", "list", "chain", "inet", Table, "prerouting"); strings.Count(rules, " drop") != len(all) {
			t.Error(rules)
		}
	})
}
