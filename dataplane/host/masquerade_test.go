// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

const port = "4711"

// world is a node whose dataplane is replaced by a pod: the hook's end of the host's pair is the pod's own device.
func world(t *testing.T, c Config) (pod, host, outside *netlab.Namespace) {
	t.Helper()
	l, host, outside := node(t)
	pod = namespace(t, l, "pod")
	var mac net.HardwareAddr
	inside(t, host, func(s *Stack) {
		p := pair(t, s, 0, own4, own6)
		mac = p.Stack.MAC
		ok(t, s.links.LinkSetNsFd(device(t, s, PairHook), pod.FD()))
		apply(t, s, c)
		// Direct destinations are on the neighbour, which knows the way back.
		run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
		run(t, "ip", "-6", "route", "add", "2001:db8:51::/64", "via", "2001:db8::2")
	})
	ok(t, pod.Do(func() error { becomePod(t, pod, mac); return nil }))
	ok(t, outside.Do(func() error {
		run(t, "ip", "route", "add", "10.244.0.0/16", "via", "192.0.2.1")
		run(t, "ip", "-6", "route", "add", "fd00::/16", "via", "2001:db8::1")
		run(t, "ip", "address", "add", "198.51.100.1/32", "dev", "lo")
		run(t, "ip", "address", "add", "2001:db8:51::1/128", "dev", "lo", "nodad")
		return nil
	}))
	for _, a := range []string{"192.0.2.2", "198.51.100.1", "2001:db8::2", "2001:db8:51::1"} {
		serve(t, outside, net.JoinHostPort(a, port))
	}
	serve(t, host, net.JoinHostPort(own4.String(), port))
	serve(t, host, net.JoinHostPort(own6.String(), port))
	return pod, host, outside
}

func becomePod(t *testing.T, pod *netlab.Namespace, router net.HardwareAddr) {
	t.Helper()
	ok(t, ensureSysctl("net/ipv6/conf/"+PairHook+"/disable_ipv6", "0"))
	run(t, "ip", "link", "set", PairHook, "address", gateway.String(), "arp", "on")
	run(t, "ip", "link", "set", PairHook, "up")
	run(t, "ip", "address", "add", "10.244.1.5/32", "dev", PairHook)
	run(t, "ip", "address", "add", "fd00:1::5/128", "dev", PairHook, "nodad")
	link, err := pod.Links().LinkByName(PairHook)
	ok(t, err)
	for i, g := range gateways {
		ok(t, pod.Links().NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: g.AsSlice(), HardwareAddr: router}))
		family := []string{"-4", "-6"}[i]
		run(t, "ip", family, "route", "add", "default", "via", g.String(), "dev", PairHook, "onlink")
	}
}

// serve answers on TCP and UDP with the address that it sees.
func serve(t *testing.T, n *netlab.Namespace, address string) {
	t.Helper()
	var listener net.Listener
	var datagrams net.PacketConn
	ok(t, n.Do(func() (err error) {
		if listener, err = net.Listen("tcp", address); err != nil {
			return err
		}
		datagrams, err = net.ListenPacket("udp", address)
		return err
	}))
	t.Cleanup(func() { listener.Close(); datagrams.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := datagrams.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo([]byte(from.String()+"\n"), from)
		}
	}()
}

// seenAs is the address by which a server sees the namespace.
func seenAs(t *testing.T, n *netlab.Namespace, network, server string) string {
	t.Helper()
	var seen string
	ok(t, n.Do(func() error {
		conn, err := net.DialTimeout(network, net.JoinHostPort(server, port), 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return fmt.Errorf("%s to %s: %w", network, server, err)
		}
		seen, _, err = net.SplitHostPort(strings.TrimSpace(line))
		return err
	}))
	return seen
}

func direct(c Config) Config {
	c.Direct = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/64")}
	return c
}

func TestMasquerade(t *testing.T) {
	pod, host, _ := world(t, direct(full()))
	check := func(cases map[string]string) {
		t.Helper()
		for server, want := range cases {
			for _, network := range []string{"tcp", "udp"} {
				if got := seenAs(t, pod, network, server); got != want {
					t.Errorf("%s to %s: seen as %s, want %s", network, server, got, want)
				}
			}
		}
	}
	check(map[string]string{
		"192.0.2.2": "192.0.2.1", "2001:db8::2": "2001:db8::1", // the host's address
		"198.51.100.1": "10.244.1.5", "2001:db8:51::1": "fd00:1::5", // direct
		"10.244.1.1": "10.244.1.5", "fd00:1::1": "fd00:1::5", // the host itself
	})
	serve(t, pod, net.JoinHostPort("10.244.1.5", port))
	serve(t, pod, net.JoinHostPort("fd00:1::5", port))
	for server, want := range map[string]string{"10.244.1.5": "10.244.1.1", "fd00:1::5": "fd00:1::1"} {
		for _, network := range []string{"tcp", "udp"} {
			if got := seenAs(t, host, network, server); got != want {
				t.Errorf("the host is seen as %s by a pod, want %s", got, want)
			}
		}
	}
	inside(t, host, func(s *Stack) {
		c := full()
		c.Masquerade = false
		apply(t, s, c)
		if rules := run(t, "nft", "list", "ruleset"); strings.Contains(rules, "masquerade") {
			t.Error(rules)
		}
	})
	check(map[string]string{"192.0.2.2": "10.244.1.5", "2001:db8::2": "fd00:1::5"})
}

func TestTableIsPutRightAndOthersStay(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		pair(t, s, 0, own4, own6)
		run(t, "nft", "add table inet other; add chain inet other viaduct")
		apply(t, s, direct(full()))
		want := run(t, "nft", "list", "ruleset")
		for _, part := range []string{
			`oifname "viaduct0" accept`, "type filter hook prerouting priority raw; policy accept;",
			`iifname != "viaduct0" iifname != "lo" ip saddr @pods4 counter packets 0 bytes 0 drop`,
			`iifname != "viaduct0" iifname != "lo" ip6 saddr @pods6 counter packets 0 bytes 0 drop`,
			"ip saddr @pods4 ip daddr != @untouched4 masquerade fully-random",
			"ip6 saddr @pods6 ip6 daddr != @untouched6 masquerade fully-random",
			"elements = { 10.244.1.0/24, 198.51.100.0/24 }", "elements = { 2001:db8:51::/64,", "elements = { fd00:1::/64 }",
			"type nat hook postrouting priority srcnat; policy accept;", "table inet other",
		} {
			if !strings.Contains(want, part) {
				t.Errorf("no %q in\n%s", part, want)
			}
		}
		for _, meddle := range []string{
			"delete table inet viaduct", "flush ruleset; add table inet other; add chain inet other viaduct",
			"flush chain inet viaduct postrouting", "flush chain inet viaduct prerouting",
			"add element inet viaduct pods4 { 192.0.2.0/24 }",
			"add chain inet viaduct mine",
		} {
			run(t, "nft", meddle)
			apply(t, s, direct(full()))
			if got := tables(t); got != want {
				t.Errorf("after %s:\n%s\nwant\n%s", meddle, got, want)
			}
		}
		ok(t, s.Remove())
		if rules := run(t, "nft", "list", "tables"); rules != "table inet other\n" {
			t.Error(rules)
		}
	})
}

// tables are the rules, the other's table first.
func tables(t *testing.T) string {
	return run(t, "nft", "list", "table", "inet", "other") + run(t, "nft", "list", "table", "inet", Table)
}

func TestUnchangedTableIsLeft(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		pair(t, s, 0, own4, own6)
		apply(t, s, full())
		before, err := generation()
		ok(t, err)
		apply(t, s, full())
		if after, err := generation(); err != nil || after != before {
			t.Errorf("generation %d, then %d, %v", before, after, err)
		}
	})
}

func TestManyPrefixes(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		c := Config{Masquerade: true}
		for i := range 5000 {
			c.Pods = append(c.Pods,
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 25),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 7: byte(i >> 8), 8: byte(i)}), 73))
		}
		c.Direct = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		apply(t, s, c)
		if got := strings.Count(run(t, "nft", "list", "set", "inet", Table, "pods4"), "/25"); got != 5000 {
			t.Errorf("%d prefixes", got)
		}
	})
}

// TestIntervals compares with a search of all prefixes, on a small space: 240.0.0.0/4's last 8 bits, to its very end.
func TestIntervals(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	base := netip.MustParseAddr("255.255.255.0").As4()
	at := func(i int) netip.Addr { a := base; a[3] = byte(i); return netip.AddrFrom4(a) }
	for range 2000 {
		prefixes := []netip.Prefix{netip.MustParsePrefix("fd00::/8")}
		for range random.IntN(8) {
			prefixes = append(prefixes, netip.PrefixFrom(at(random.IntN(256)), 24+random.IntN(9)).Masked())
		}
		got := intervals(prefixes, netip.Addr.Is4)
		for i, interval := range got {
			if i > 0 && (!got[i-1].behind.IsValid() || got[i-1].behind.Compare(interval.first) >= 0) {
				t.Fatalf("%v: %v touch", prefixes, got)
			}
		}
		for i := range 256 {
			a := at(i)
			want, is := false, false
			for _, p := range prefixes {
				want = want || p.Contains(a)
			}
			for _, v := range got {
				is = is || v.first.Compare(a) <= 0 && (!v.behind.IsValid() || a.Less(v.behind))
			}
			if is != want {
				t.Fatalf("%v: %v has %s: %v", prefixes, got, a, is)
			}
		}
	}
}

func TestKernelWithoutTables(t *testing.T) {
	for _, err := range []error{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT} {
		if reason := tableReason(err); !strings.Contains(reason, "CONFIG_NFT_MASQ") || strings.Contains(reason, "\n") {
			t.Error(reason)
		}
	}
}
