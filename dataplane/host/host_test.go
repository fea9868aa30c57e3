// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/testenv"
)

var (
	gateway  = net.HardwareAddr{2, 0x76, 0x64, 0, 0, 0}
	own4     = netip.MustParseAddr("10.244.1.1")
	own6     = netip.MustParseAddr("fd00:1::1")
	prefixes = []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64")}
)

func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	testenv.Root(t)
	l := netlab.New()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func namespace(t *testing.T, l *netlab.Lab, name string) *netlab.Namespace {
	t.Helper()
	n, err := l.Namespace(name)
	ok(t, err)
	return n
}

// inside runs f in a namespace with its stack.
func inside(t *testing.T, n *netlab.Namespace, f func(s *Stack)) {
	t.Helper()
	ok(t, n.Do(func() error {
		s, err := Open()
		if err != nil {
			return err
		}
		defer s.Close()
		f(s)
		return nil
	}))
}

// alone runs f in a namespace of its own.
func alone(t *testing.T, f func(s *Stack, n *netlab.Namespace)) {
	t.Helper()
	n := namespace(t, newLab(t), "host")
	inside(t, n, func(s *Stack) { f(s, n) })
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program in the calling thread's namespace and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func trunk(t *testing.T, s *Stack, queues int, gro bool) Trunk {
	t.Helper()
	trunk, err := s.EnsureTrunk(queues, gro)
	ok(t, err)
	return trunk
}

func pair(t *testing.T, s *Stack, mtu int, addresses ...netip.Addr) Pair {
	t.Helper()
	pair, notes, err := s.EnsurePair(mtu, addresses, gateway)
	ok(t, err)
	if len(notes) > 0 {
		t.Fatal(notes)
	}
	return pair
}

// apply applies and demands that everything be in force.
func apply(t *testing.T, s *Stack, c Config) {
	t.Helper()
	if notes := applyNoted(t, s, c); len(notes) > 0 {
		t.Fatal(notes)
	}
}

func applyNoted(t *testing.T, s *Stack, c Config) []Note {
	t.Helper()
	notes, err := s.Apply(c)
	ok(t, err)
	return notes
}

func sysctl(t *testing.T, key, want string) {
	t.Helper()
	is, err := readSysctl(key)
	ok(t, err)
	if is != want {
		t.Errorf("%s is %s, want %s", key, is, want)
	}
}

func device(t *testing.T, s *Stack, name string) netlink.Link {
	t.Helper()
	link, err := s.links.LinkByName(name)
	ok(t, err)
	return link
}

// state is what a namespace holds, as the tools print it.
func state(t *testing.T) string {
	t.Helper()
	var all []string
	for _, args := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-br", "address"}, {"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"}, {"nft", "list", "ruleset"},
	} {
		all = append(all, run(t, args...))
	}
	values := readAll([]string{"net/ipv4/ip_forward", "net/ipv4/conf/*/*", "net/ipv6/conf/*/*"})
	for key, value := range values {
		if !strings.HasSuffix(key, "stable_secret") {
			all = append(all, key+"="+value)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func full() Config {
	return Config{
		Routes: []Route{{Prefix: prefixes[0]}, {Prefix: prefixes[1]}},
		Pods:   prefixes, Masquerade: true, Direct: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, Forward: true,
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	alone(t, func(s *Stack, n *netlab.Namespace) {
		before := state(t)
		for range 2 {
			trunk(t, s, 2, true)
			pair(t, s, 0, own4, own6)
			apply(t, s, full())
			ok(t, s.Remove())
			ok(t, s.Remove())
			if after := state(t); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
		}
	})
}

func TestAnotherProcessRemovesWhatOneMade(t *testing.T) {
	alone(t, func(s *Stack, n *netlab.Namespace) {
		trunk(t, s, 1, false)
		pair(t, s, 0, own4, own6)
		apply(t, s, full())
		inside(t, n, func(other *Stack) { ok(t, other.Remove()) })
		if links := run(t, "ip", "-br", "link"); strings.Contains(links, "viaduct") {
			t.Error(links)
		}
		if rules := run(t, "nft", "list", "ruleset"); rules != "" {
			t.Error(rules)
		}
	})
}

func TestHundredCyclesLeakNoDescriptor(t *testing.T) {
	alone(t, func(_ *Stack, n *netlab.Namespace) {
		cycle := func() {
			inside(t, n, func(s *Stack) {
				trunk(t, s, 2, true)
				pair(t, s, 0, own4, own6)
				apply(t, s, full())
				ok(t, s.Remove())
			})
		}
		cycle()
		before := descriptors(t)
		for range 100 {
			cycle()
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	return len(list)
}

func TestDeviceOfSomebodyElse(t *testing.T) {
	alone(t, func(s *Stack, n *netlab.Namespace) {
		for _, name := range []string{TrunkInner, PairStack} {
			run(t, "ip", "link", "add", name, "type", "bridge")
		}
		_, trunkErr := s.EnsureTrunk(1, false)
		_, _, pairErr := s.EnsurePair(0, nil, gateway)
		for _, err := range []error{trunkErr, pairErr, s.Remove()} {
			if err == nil || !strings.Contains(err.Error(), "is a bridge of somebody else's: rename or remove it") {
				t.Errorf("got %v", err)
			}
		}
		if _, err := s.EnsureTrunk(0, false); err == nil {
			t.Error("a trunk without queues")
		}
		for _, name := range []string{TrunkInner, PairStack} {
			if link := device(t, s, name); link.Type() != "bridge" {
				t.Errorf("%s is a %s", name, link.Type())
			}
		}
	})
}

func TestNotesAndErrorsAreOneLine(t *testing.T) {
	joined := errors.Join(errors.New("one"), errors.New("two"))
	if got := (Note{"nftables", tableReason(joined)}).String(); got != "nftables: one; two" {
		t.Error(got)
	}
}
