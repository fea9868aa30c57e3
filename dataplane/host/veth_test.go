// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// checkTrunk holds a trunk to everything that is promised of it.
func checkTrunk(t *testing.T, s *Stack, tr Trunk, queues int, gro bool) {
	t.Helper()
	for _, want := range []Link{tr.Inner, tr.Outer} {
		link := device(t, s, want.Name)
		a := link.Attrs()
		if a.Index != want.IfIndex || a.HardwareAddr.String() != want.MAC.String() || want.Queues != queues ||
			queuesOf(link) != queues || a.MTU != 65535 || a.RawFlags&unix.IFF_NOARP == 0 ||
			a.OperState != netlink.OperUp {
			t.Errorf("%+v\nis %+v", want, a)
		}
		if addresses := run(t, "ip", "-o", "address", "show", "dev", want.Name); addresses != "" {
			t.Error(addresses)
		}
		sysctl(t, "net/ipv6/conf/"+want.Name+"/disable_ipv6", "1")
		sysctl(t, "net/ipv6/conf/"+want.Name+"/addr_gen_mode", "1")
	}
	inner := features(t, TrunkInner)
	for name, on := range inner {
		if on && leavesWork(name) {
			t.Errorf("%s of %s is on", name, TrunkInner)
		}
	}
	if inner["generic-receive-offload"] != gro {
		t.Errorf("gro is %v", !gro)
	}
	if outer := features(t, TrunkOuter); outer["tx-tcp-segmentation"] || !outer["tx-checksum-ip-generic"] {
		t.Errorf("offloads of %s: %v", TrunkOuter, outer)
	}
	checkQdiscs(t, queues)
}

// features are as ethtool prints them; it has old names for some.
func features(t *testing.T, device string) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	line := regexp.MustCompile(`(?m)^\s*(\S+): (on|off)`)
	for _, m := range line.FindAllStringSubmatch(run(t, "ethtool", "-k", device), -1) {
		found[m[1]] = m[2] == "on"
	}
	return found
}

func checkQdiscs(t *testing.T, queues int) {
	t.Helper()
	text := run(t, "tc", "qdisc", "show", "dev", TrunkInner)
	if got := strings.Count(text, "qdisc pfifo "); got != queues || strings.Count(text, "limit 1000p") != queues {
		t.Errorf("%d pfifo: %s", got, text)
	}
	if strings.Contains(text, "qdisc mq") != (queues > 1) {
		t.Error(text)
	}
	if outer := run(t, "tc", "qdisc", "show", "dev", TrunkOuter); !strings.Contains(outer, "noqueue") {
		t.Error(outer)
	}
}

func TestTrunkIsAsAskedFor(t *testing.T) {
	for _, queues := range []int{1, 2, 5} {
		for _, gro := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d queues, gro %v", queues, gro), func(t *testing.T) {
				alone(t, func(s *Stack, _ *netlab.Namespace) {
					checkTrunk(t, s, trunk(t, s, queues, gro), queues, gro)
				})
			})
		}
	}
}

func TestTrunkStaysAsLongAsItFits(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		first := trunk(t, s, 2, false)
		for _, meddle := range [][]string{
			{"true"},
			{"ip", "link", "set", TrunkInner, "mtu", "1500"},
			{"ip", "link", "set", TrunkOuter, "down"},
			{"ip", "link", "set", TrunkInner, "arp", "on"},
			{"ip", "address", "add", "192.0.2.9/24", "dev", TrunkInner},
			{"sysctl", "-w", "net.ipv6.conf." + TrunkOuter + ".disable_ipv6=0"},
			{"ethtool", "-K", TrunkInner, "tx", "on", "tso", "on", "rx-gro-list", "on", "gro", "on"},
			{"ethtool", "-K", TrunkOuter, "tso", "on"},
			{"tc", "qdisc", "del", "dev", TrunkInner, "root"},
			{"tc", "qdisc", "replace", "dev", TrunkInner, "root", "handle", "3:", "pfifo"},
			{"tc", "qdisc", "replace", "dev", TrunkInner, "root", "handle", "7:", "mq"},
			{"tc", "qdisc", "replace", "dev", TrunkInner, "parent", "1:2", "pfifo_fast"},
			{"tc", "qdisc", "add", "dev", TrunkInner, "clsact"},
		} {
			run(t, meddle...)
			again := trunk(t, s, 2, false)
			checkTrunk(t, s, again, 2, false)
			if again.Inner.IfIndex != first.Inner.IfIndex || again.Outer.IfIndex != first.Outer.IfIndex {
				t.Fatalf("made anew after %v", meddle)
			}
		}
		if text := run(t, "tc", "qdisc", "show", "dev", TrunkInner); !strings.Contains(text, "clsact") {
			t.Errorf("the hooks' qdisc is gone: %s", text)
		}
	})
}

func TestTrunkIsMadeAnew(t *testing.T) {
	for name, meddle := range map[string]func(t *testing.T){
		"queues":         func(*testing.T) {},
		"half renamed":   func(t *testing.T) { renameDown(t, TrunkOuter) },
		"other half":     func(t *testing.T) { renameDown(t, TrunkInner) },
		"not each other": func(t *testing.T) { swapHalves(t) },
		"removed":        func(t *testing.T) { run(t, "ip", "link", "del", TrunkOuter) },
	} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(s *Stack, _ *netlab.Namespace) {
				first := trunk(t, s, 2, true)
				meddle(t)
				again := trunk(t, s, 3, true)
				checkTrunk(t, s, again, 3, true)
				if again.Inner.IfIndex == first.Inner.IfIndex {
					t.Error("it is the first")
				}
			})
		})
	}
}

func renameDown(t *testing.T, name string) {
	run(t, "ip", "link", "set", name, "down")
	run(t, "ip", "link", "set", name, "name", "stray")
}

func swapHalves(t *testing.T) {
	renameDown(t, TrunkOuter)
	run(t, "ip", "link", "add", TrunkOuter, "numrxqueues", "3", "numtxqueues", "3",
		"type", "veth", "peer", "name", "stray1")
}

func checkPair(t *testing.T, s *Stack, p Pair, mtu int, addresses ...netip.Addr) {
	t.Helper()
	for _, want := range []Link{p.Stack, p.Hook} {
		a := device(t, s, want.Name).Attrs()
		if a.Index != want.IfIndex || a.MTU != mtu || a.OperState != netlink.OperUp {
			t.Errorf("%+v\nis %+v", want, a)
		}
	}
	text := run(t, "ip", "-o", "address", "show", "dev", PairStack)
	for _, a := range addresses {
		if !strings.Contains(text, fmt.Sprintf(" %s/%d ", a, a.BitLen())) {
			t.Errorf("%s is missing: %s", a, text)
		}
	}
	if strings.Count(text, "\n") != len(addresses) || strings.Contains(text, "tentative") {
		t.Error(text)
	}
	if text := run(t, "ip", "-o", "address", "show", "dev", PairHook); text != "" {
		t.Error(text)
	}
	neighbours := run(t, "ip", "neigh", "show", "dev", PairStack)
	for _, want := range []string{
		"169.254.1.1 lladdr 02:76:64:00:00:00 PERMANENT", "fe80::1 lladdr 02:76:64:00:00:00 PERMANENT"} {
		if !strings.Contains(neighbours, want) {
			t.Errorf("no %s in %s", want, neighbours)
		}
	}
	sysctl(t, "net/ipv4/conf/"+PairStack+"/accept_local", "1")
	sysctl(t, "net/ipv6/conf/"+PairStack+"/accept_ra", "0")
	sysctl(t, "net/ipv6/conf/"+PairHook+"/disable_ipv6", "1")
}

func TestPairStaysAndIsPutRight(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		first := pair(t, s, 9000, own4, own6)
		checkPair(t, s, first, 9000, own4, own6)
		for _, meddle := range [][]string{
			{"true"},
			{"ip", "address", "flush", "dev", PairStack},
			{"ip", "address", "add", "192.0.2.9/24", "dev", PairStack},
			{"ip", "address", "add", "192.0.2.9/24", "dev", PairHook},
			{"ip", "neigh", "flush", "dev", PairStack, "nud", "permanent"},
			{"ip", "neigh", "replace", "169.254.1.1", "lladdr", "02:00:00:00:00:09", "dev", PairStack},
			{"ip", "link", "set", PairStack, "down"},
			{"ip", "link", "set", PairHook, "mtu", "1500"},
			{"sysctl", "-w", "net.ipv6.conf." + PairStack + ".disable_ipv6=1"},
		} {
			run(t, meddle...)
			again := pair(t, s, 9000, own4, own6)
			checkPair(t, s, again, 9000, own4, own6)
			if again.Stack.IfIndex != first.Stack.IfIndex {
				t.Fatalf("made anew after %v", meddle)
			}
		}
		other := netip.MustParseAddr("10.244.9.1")
		checkPair(t, s, pair(t, s, 0, other, own6), 65535, other, own6)
		renameDown(t, PairHook)
		checkPair(t, s, pair(t, s, 0, own4), 65535, own4)
	})
}

func TestReversePathOfThePair(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		for everywhere, want := range map[string]string{"0": "0", "1": "2", "2": "2"} {
			ok(t, ensureSysctl("net/ipv4/conf/all/rp_filter", everywhere))
			pair(t, s, 0, own4)
			sysctl(t, "net/ipv4/conf/"+PairStack+"/rp_filter", want)
		}
	})
}
