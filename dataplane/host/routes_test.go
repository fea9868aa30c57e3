// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// node is a host with an uplink to a neighbour on 192.0.2.0/24 and 2001:db8::/64.
func node(t *testing.T) (l *netlab.Lab, host, neighbour *netlab.Namespace) {
	t.Helper()
	l = newLab(t)
	host, neighbour = namespace(t, l, "host"), namespace(t, l, "neighbour")
	ok(t, l.Veth(
		netlab.End{In: host, Device: "up0", Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		netlab.End{In: neighbour, Device: "up0", Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
	))
	return l, host, neighbour
}

func routes(pairs ...string) Config {
	var c Config
	for _, p := range pairs {
		prefix, via, _ := strings.Cut(p, " ")
		r := Route{Prefix: netip.MustParsePrefix(prefix)}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		c.Routes = append(c.Routes, r)
	}
	return c
}

// checkRoutes compares our routes with lines of `ip route show proto 118`, less what is the same in all.
func checkRoutes(t *testing.T, want ...string) {
	t.Helper()
	text := run(t, "ip", "-4", "route", "show", "proto", "118") + run(t, "ip", "-6", "route", "show", "proto", "118")
	for _, line := range want {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	if strings.Count(text, "\n") != len(want) {
		t.Errorf("want %d routes, have\n%s", len(want), text)
	}
}

const (
	byPair4 = " via 169.254.1.1 dev viaduct0 metric 118 onlink"
	byPair6 = " via fe80::1 dev viaduct0 metric 118 onlink"
	byUp4   = " via 192.0.2.2 dev up0 metric 118"
	byUp6   = " via 2001:db8::2 dev up0 metric 118"
)

func TestRoutesFollowTheConfig(t *testing.T) {
	_, n, _ := node(t)
	inside(t, n, func(s *Stack) {
		pair(t, s, 0, own4, own6)
		apply(t, s, routes("10.244.1.0/24", "fd00:1::/64", "10.244.2.0/24 192.0.2.2", "fd00:2::/64 2001:db8::2"))
		all := []string{"10.244.1.0/24" + byPair4, "fd00:1::/64" + byPair6,
			"10.244.2.0/24" + byUp4, "fd00:2::/64" + byUp6}
		checkRoutes(t, all...)
		swapped := routes("10.244.1.0/24 192.0.2.2", "fd00:1::/64 2001:db8::2", "10.244.2.0/24", "fd00:2::/64")
		apply(t, s, swapped)
		there := []string{"10.244.1.0/24" + byUp4, "fd00:1::/64" + byUp6, "10.244.2.0/24" + byPair4, "fd00:2::/64" + byPair6}
		checkRoutes(t, there...)
		for _, meddle := range [][]string{
			{"ip", "route", "del", "10.244.1.0/24"},
			{"ip", "-6", "route", "del", "fd00:2::/64"},
			{"ip", "route", "add", "10.9.0.0/16", "dev", "up0", "proto", "118"},
			{"ip", "-6", "route", "add", "unreachable", "fd09::/48", "proto", "118"},
			{"ip", "route", "append", "10.244.1.0/24", "dev", "up0", "metric", "118", "proto", "118"},
			{"ip", "-6", "route", "append", "fd00:1::/64", "via", "2001:db8::3", "metric", "118", "proto", "118"},
			{"ip", "route", "add", "10.244.1.0/24", "dev", "up0", "metric", "5", "proto", "118"},
			{"ip", "route", "replace", "10.244.1.0/24", "dev", "up0", "metric", "118", "proto", "118"},
			{"ip", "-6", "route", "replace", "unreachable", "fd00:1::/64", "metric", "118", "proto", "118"},
			{"sh", "-c", "ip route del 10.244.1.0/24; ip route add 10.244.1.0/24 dev up0 metric 5 proto 118"},
			{"sh", "-c", "ip -6 route del fd00:1::/64; ip -6 route add fd00:1::/64 dev up0 metric 5 proto 118"},
			{"sh", "-c", "ip route del 10.244.1.0/24; ip route add 10.244.1.0/24 dev up0 metric 118 proto 118; " +
				"ip route append 10.244.1.0/24 via 192.0.2.7 metric 118 proto 118"},
			{"ip", "link", "set", "up0", "down"},
			{"ip", "link", "set", PairStack, "down"},
			{"ip", "link", "del", PairStack},
		} {
			run(t, meddle...)
			run(t, "ip", "link", "set", "up0", "up")
			run(t, "ip", "address", "replace", "2001:db8::1/64", "dev", "up0", "nodad") // it goes with the device
			pair(t, s, 0, own4, own6)
			apply(t, s, swapped)
			checkRoutes(t, there...)
			if t.Failed() {
				t.Fatal(meddle)
			}
		}
		apply(t, s, routes("10.244.1.0/24"))
		checkRoutes(t, "10.244.1.0/24"+byPair4)
		apply(t, s, Config{})
		checkRoutes(t)
	})
}

func TestForeignRoutesStay(t *testing.T) {
	_, n, _ := node(t)
	inside(t, n, func(s *Stack) {
		pair(t, s, 0, own4, own6)
		foreign := [][]string{
			{"route", "add", "10.244.1.0/24", "via", "192.0.2.9", "dev", "up0", "proto", "static"},
			{"-6", "route", "add", "fd00:1::/64", "via", "2001:db8::9", "dev", "up0", "proto", "static", "metric", "5"},
			{"route", "add", "10.8.0.0/16", "via", "192.0.2.9", "dev", "up0"},
		}
		for _, f := range foreign {
			run(t, append([]string{"ip"}, f...)...)
		}
		before := run(t, "ip", "route") + run(t, "ip", "-6", "route")
		c := routes("10.244.1.0/24", "fd00:1::/64", "10.244.2.0/24 192.0.2.2", "10.244.3.0/24 203.0.113.1")
		for range 2 {
			notes := applyNoted(t, s, c)
			if len(notes) != 3 || notes[0].Subject != "route 10.244.1.0/24" || notes[1].Subject != "route fd00:1::/64" ||
				!strings.Contains(notes[0].Reason, "one already, of protocol static: remove it") ||
				!strings.Contains(notes[2].Reason, "203.0.113.1 is on no subnet of the host's") {
				t.Error(notes)
			}
			checkRoutes(t, "10.244.2.0/24"+byUp4)
		}
		apply(t, s, Config{})
		if after := run(t, "ip", "route") + run(t, "ip", "-6", "route"); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		run(t, "ip", "route", "del", "10.244.1.0/24")
		apply(t, s, routes("10.244.1.0/24"))
		checkRoutes(t, "10.244.1.0/24"+byPair4)
	})
}

func TestRoutesWithoutThePair(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		notes := applyNoted(t, s, routes("10.244.1.0/24"))
		if len(notes) != 1 || notes[0].String() != "route 10.244.1.0/24: device viaduct0 is missing" {
			t.Error(notes)
		}
	})
}

func TestIPv6IsOff(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		pair(t, s, 0, own4)
		ok(t, ensureSysctl("net/ipv6/conf/"+PairStack+"/disable_ipv6", "1"))
		if _, notes, err := s.EnsurePair(0, []netip.Addr{own4}, gateway); err != nil || len(notes) > 0 {
			t.Error(notes, err)
		}
		notes := applyNoted(t, s, routes("10.244.1.0/24", "fd00:1::/64"))
		if len(notes) != 1 || !strings.Contains(notes[0].String(), "route fd00:1::/64: IPv6 is off") {
			t.Error(notes)
		}
		checkRoutes(t, "10.244.1.0/24"+byPair4)
	})
}

func BenchmarkApplyUnchanged(b *testing.B) {
	l := netlab.New()
	defer l.Close()
	n, err := l.Namespace("host")
	if err != nil {
		b.Fatal(err)
	}
	err = n.Do(func() error {
		s, err := Open()
		if err != nil {
			return err
		}
		defer s.Close()
		if _, _, err := s.EnsurePair(0, []netip.Addr{own4, own6}, gateway); err != nil {
			return err
		}
		for b.Loop() {
			if notes, err := s.Apply(full()); err != nil || len(notes) > 0 {
				b.Fatal(notes, err)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
