// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

func forwarding(pairs ...string) Config {
	c := routes(pairs...)
	c.Forward = true
	return c
}

func TestForwardingIsOfTheFamiliesWithRoutes(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		pair(t, s, 0, own4, own6)
		for _, c := range []struct {
			config     Config
			ipv4, ipv6 string
		}{
			{routes("10.244.1.0/24", "fd00:1::/64"), "0", "0"},
			{forwarding("10.244.1.0/24"), "1", "0"},
			{forwarding("fd00:1::/64"), "0", "1"},
			{forwarding("10.244.1.0/24", "fd00:1::/64"), "1", "1"},
			{routes("10.244.1.0/24", "fd00:1::/64"), "0", "0"},
		} {
			apply(t, s, c.config)
			sysctl(t, "net/ipv4/ip_forward", c.ipv4)
			sysctl(t, "net/ipv4/conf/"+PairStack+"/forwarding", c.ipv4)
			sysctl(t, "net/ipv6/conf/all/forwarding", c.ipv6)
			sysctl(t, "net/ipv6/conf/"+PairStack+"/forwarding", c.ipv6)
		}
	})
}

func TestForwardingIsPutRightAndGivenBack(t *testing.T) {
	_, n, _ := node(t)
	inside(t, n, func(s *Stack) {
		pair(t, s, 0, own4, own6)
		ok(t, ensureSysctl("net/ipv4/conf/up0/forwarding", "1")) // the administrator's own
		ok(t, ensureSysctl("net/ipv6/conf/up0/forwarding", "0"))
		c := forwarding("10.244.1.0/24", "fd00:1::/64")
		apply(t, s, c)
		ok(t, ensureSysctl("net/ipv4/conf/"+PairStack+"/forwarding", "0"))
		ok(t, ensureSysctl("net/ipv6/conf/all/forwarding", "0"))
		apply(t, s, c)
		sysctl(t, "net/ipv4/conf/"+PairStack+"/forwarding", "1")
		sysctl(t, "net/ipv6/conf/up0/forwarding", "1")
		ok(t, s.Remove())
		for key, want := range map[string]string{
			"net/ipv4/ip_forward": "0", "net/ipv4/conf/up0/forwarding": "1", "net/ipv4/conf/lo/forwarding": "0",
			"net/ipv4/conf/all/accept_redirects": "1", "net/ipv6/conf/all/forwarding": "0",
			"net/ipv6/conf/up0/forwarding": "0", "net/ipv6/conf/up0/accept_ra": "1",
		} {
			sysctl(t, key, want)
		}
	})
}

func TestForwardingThatWasOnStays(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		ok(t, ensureSysctl("net/ipv4/ip_forward", "1"))
		pair(t, s, 0, own4)
		apply(t, s, forwarding("10.244.1.0/24"))
		ok(t, s.Remove())
		sysctl(t, "net/ipv4/ip_forward", "1")
	})
}

func TestUplinkGoesOnTakingRouterAdvertisements(t *testing.T) {
	_, n, _ := node(t)
	inside(t, n, func(s *Stack) {
		run(t, "ip", "link", "add", "up1", "type", "bridge")
		run(t, "ip", "link", "add", "up2", "type", "bridge")
		ok(t, ensureSysctl("net/ipv6/conf/up1/accept_ra", "0"))
		ok(t, ensureSysctl("net/ipv6/conf/up2/forwarding", "1")) // a router already, which takes none
		pair(t, s, 0, own4, own6)
		trunk(t, s, 1, false)
		apply(t, s, forwarding("fd00:1::/64"))
		check := func(values map[string]string) {
			t.Helper()
			for device, want := range values {
				sysctl(t, "net/ipv6/conf/"+device+"/accept_ra", want)
			}
		}
		check(map[string]string{"up0": "2", "up1": "0", "up2": "1", "lo": "1", "default": "1", PairStack: "0"})
		apply(t, s, Config{})
		check(map[string]string{"up0": "1", "up1": "0", "up2": "1", "lo": "1", "default": "1", PairStack: "0"})
	})
}

func TestSettingsOfSomebodyElseSince(t *testing.T) {
	alone(t, func(_ *Stack, _ *netlab.Namespace) {
		var l settings
		const key = "net/ipv4/ip_default_ttl"
		ok(t, l.set(key, "33"))
		ok(t, os.WriteFile(sysctls()+key, []byte("44"), 0))
		ok(t, l.restore())
		sysctl(t, key, "44")
		ok(t, l.set("net/ipv4/no_such_thing", "1"))
	})
}
