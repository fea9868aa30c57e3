// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/viaduct-net/viaduct/control/model"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		crashChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// sameAddr compares what cmp cannot look into.
var sameAddr = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

var epoch = time.Date(2024, 5, 1, 12, 0, 0, 123456789, time.UTC)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, WithClock(func() time.Time { return epoch }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// opened returns a store with pools.
func opened(t testing.TB, pools ...string) *Store {
	t.Helper()
	s := open(t, filepath.Join(t.TempDir(), "leases.db"))
	s.Configure(prefixes(pools...), nil)
	return s
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func addresses(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func key(n int) Key { return Key{"viaduct", fmt.Sprintf("%064d", n), "eth0"} }

func pod(n int) Attachment {
	return Attachment{
		Key: key(n), Netns: fmt.Sprintf("/run/netns/cni-%d", n), NetnsDevice: 4, NetnsInode: uint64(n),
		PodNamespace: "default", PodName: fmt.Sprintf("web-%d", n), PodUID: fmt.Sprintf("uid-%d", n),
		Device: fmt.Sprintf("vd%013x", n), MAC: net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)},
		Bandwidth: Bandwidth{EgressRate: 1e9, EgressBurst: math.MaxUint64},
	}
}

func add(t testing.TB, s *Store, n int, asked ...string) Attachment {
	t.Helper()
	a, _, err := s.Add(pod(n), addresses(asked...))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func remove(t testing.TB, s *Store, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if removed, err := s.Remove(key(n)); err != nil || len(removed) != 1 {
			t.Fatalf("remove %d: %d removed, %v", n, len(removed), err)
		}
	}
}

func wantAddresses(t testing.TB, got []netip.Addr, want ...string) {
	t.Helper()
	if diff := cmp.Diff(addresses(want...), got, sameAddr); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestOneOfEachFamily(t *testing.T) {
	s := opened(t, "fd00:1::/64", "10.244.1.0/24")
	a := add(t, s, 1)
	wantAddresses(t, a.Addresses, "10.244.1.2", "fd00:1::2")
	if a.Port != "default/web-1" || !a.Created.Equal(epoch) {
		t.Errorf("added %+v", a)
	}
	if got, ok := s.Get(key(1)); !ok || cmp.Diff(a, got, sameAddr) != "" {
		t.Errorf("get %+v", got)
	}
	wantAddresses(t, add(t, s, 2).Addresses, "10.244.1.3", "fd00:1::3")
	wantAddresses(t, add(t, s, 3, "10.244.1.77").Addresses, "10.244.1.77", "fd00:1::4")
	wantAddresses(t, add(t, s, 4, "fd00:1::ff", "fd00:1::fe", "fd00:1::ff", "::ffff:10.244.1.9").Addresses,
		"10.244.1.9", "fd00:1::ff", "fd00:1::fe")
}

func TestOneFamily(t *testing.T) {
	s := opened(t, "10.244.1.0/24")
	wantAddresses(t, add(t, s, 1).Addresses, "10.244.1.2")
}

func TestSameWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	s.Configure(prefixes("10.244.1.0/24"), nil)
	a := add(t, s, 1, "10.244.1.9")
	s.Configure(prefixes("10.9.0.0/24"), nil)
	s.Close()
	s = open(t, path)
	again, created, err := s.Add(pod(1), addresses("10.244.1.9"))
	if err != nil || created || cmp.Diff(a, again, sameAddr) != "" {
		t.Errorf("in the same words: %+v, created %t, %v", again, created, err)
	}
	bare := Attachment{Key: key(2), MAC: net.HardwareAddr{}}
	s.Configure(prefixes("10.9.0.0/24"), nil)
	for i, want := range []bool{true, false} {
		if _, created, err := s.Add(bare, nil); err != nil || created != want {
			t.Errorf("bare, time %d: created %t, %v", i, created, err)
		}
	}
}

func TestOtherWords(t *testing.T) {
	s := opened(t, "10.244.1.0/30", "fd00::/64")
	first := add(t, s, 1)
	other := pod(1)
	other.Direct = true
	a, created, err := s.Add(other, nil)
	if err != nil || !created || !a.Direct || a.Port != first.Port || s.Len() != 1 {
		t.Fatalf("%+v, created %t, %v", a, created, err)
	}
	wantAddresses(t, a.Addresses, "10.244.1.2", "fd00::2") // the only one there is, and the one it had

	a, _, err = s.Add(other, addresses("fd00::9"))
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, a.Addresses, "10.244.1.2", "fd00::9")

	if _, _, err := s.Add(other, addresses("10.244.1.1")); !errors.As(err, new(*OutsideError)) {
		t.Errorf("the node's own: %v", err)
	}
	if got, _ := s.Get(key(1)); cmp.Diff(a, got, sameAddr) != "" {
		t.Errorf("after what failed: %+v", got)
	}
	s.Configure(prefixes("10.7.0.0/24"), nil) // it may ask for what it has
	a, _, err = s.Add(pod(1), addresses("10.244.1.2"))
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, a.Addresses, "10.244.1.2")
	a, _, err = s.Add(other, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, a.Addresses, "10.7.0.2")
}

func TestNever(t *testing.T) {
	tests := []struct {
		pool, excluded string
		node           string
		leased         []string // all of them
	}{
		{"10.0.0.0/29", "", "10.0.0.1", []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}},
		{"10.0.0.5/29", "10.0.0.3/31", "10.0.0.1", []string{"10.0.0.4", "10.0.0.5"}},
		{"10.0.0.0/29", "10.0.0.4/30", "10.0.0.1", []string{"10.0.0.2", "10.0.0.3"}},
		{"10.0.0.0/29", "10.0.0.0/8", "10.0.0.1", nil},
		{"10.0.0.0/30", "", "10.0.0.1", []string{"10.0.0.2"}},
		{"10.0.0.0/31", "", "10.0.0.0", []string{"10.0.0.1"}},
		{"10.0.0.7/32", "", "", []string{"10.0.0.7"}},
		{"255.255.255.252/30", "", "255.255.255.253", []string{"255.255.255.254"}},
		{"fd00::/126", "", "fd00::1", []string{"fd00::2", "fd00::3"}},
		{"fd00::/125", "fd00::4/127", "fd00::1", []string{"fd00::2", "fd00::3", "fd00::6", "fd00::7"}},
		{"fd00::/127", "", "fd00::", []string{"fd00::1"}},
		{"fd00::7/128", "", "", []string{"fd00::7"}},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", "", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
			[]string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
	}
	for _, test := range tests {
		t.Run(test.pool+" but "+test.excluded, func(t *testing.T) {
			pool := netip.MustParsePrefix(test.pool)
			s := opened(t)
			var excluded []netip.Prefix
			if test.excluded != "" {
				excluded = prefixes(test.excluded)
			}
			s.Configure([]netip.Prefix{pool}, excluded)
			node := model.NodeAddress(pool)
			if node.IsValid() != (test.node != "") || node.IsValid() && node.String() != test.node {
				t.Errorf("the node's is %s, want %s", node, test.node)
			}
			for i, want := range test.leased {
				wantAddresses(t, add(t, s, i).Addresses, want)
			}
			var exhausted *ExhaustedError
			if _, _, err := s.Add(pod(99), nil); !errors.As(err, &exhausted) || len(exhausted.Pools) != 1 ||
				exhausted.Family != map[bool]int{true: 4, false: 6}[pool.Addr().Is4()] {
				t.Errorf("after the last: %v", err)
			}
			want := uint64(len(test.leased))
			if u := s.Usage(); len(u) != 1 || u[0] != (Usage{Prefix: pool.Masked(), Size: want, Leased: want}) {
				t.Errorf("usage %+v", u)
			}
			for a := pool.Masked().Addr(); pool.Contains(a); a = a.Next() {
				if _, _, err := s.Add(pod(99), []netip.Addr{a}); err == nil {
					t.Errorf("%s is leased", a)
				}
			}
		})
	}
}

func TestAsked(t *testing.T) {
	s := opened(t, "10.244.1.0/24", "fd00::/64")
	add(t, s, 1, "10.244.1.7")
	var taken *TakenError
	if _, _, err := s.Add(pod(2), addresses("10.244.1.7")); !errors.As(err, &taken) || taken.By != key(1) {
		t.Errorf("taken: %v", err)
	}
	for _, asked := range []string{
		"10.244.2.1", "10.244.1.0", "10.244.1.1", "10.244.1.255", "fd00::", "fd00::1", "fe80::1%eth0",
	} {
		var outside *OutsideError
		if _, _, err := s.Add(pod(2), addresses(asked)); !errors.As(err, &outside) || outside.Address.String() != asked {
			t.Errorf("%s: %v", asked, err)
		}
	}
	if _, _, err := s.Add(pod(2), []netip.Addr{{}}); !errors.As(err, new(*OutsideError)) {
		t.Errorf("no address: %v", err)
	}
	if s.Len() != 1 {
		t.Errorf("%d attachments", s.Len())
	}
	for n := range 7 { // the order of leasing passes by what is taken
		if a := add(t, s, 10+n); a.Addresses[0] == taken.Address {
			t.Errorf("%s again", taken.Address)
		}
	}
}

func TestDelegated(t *testing.T) {
	s := opened(t, "10.244.1.0/24")
	a := pod(1)
	a.Delegated = true
	a, _, err := s.Add(a, addresses("fd00::5", "10.244.1.2", "192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, a.Addresses, "10.244.1.2", "192.0.2.1", "fd00::5")
	wantAddresses(t, add(t, s, 2).Addresses, "10.244.1.3") // it is in use
	b := pod(3)
	b.Delegated = true
	if _, _, err := s.Add(b, addresses("192.0.2.1")); !errors.As(err, new(*TakenError)) {
		t.Errorf("twice: %v", err)
	}
	if u := s.Usage(); len(u) != 1 || u[0].Leased != 2 { // one of them takes its place alone
		t.Errorf("usage %+v", u)
	}
	remove(t, s, 1)
	if _, _, err := s.Add(b, addresses("192.0.2.1")); err != nil {
		t.Error(err)
	}
	add(t, s, 4, "10.244.1.2")
}

func TestNoPools(t *testing.T) {
	s := opened(t)
	if _, _, err := s.Add(pod(1), nil); !errors.Is(err, ErrNoPools) {
		t.Error(err)
	}
	if _, _, err := s.Add(pod(1), addresses("10.0.0.1")); !errors.As(err, new(*OutsideError)) {
		t.Error(err)
	}
}

func TestBadKeys(t *testing.T) {
	s := opened(t, "10.0.0.0/24")
	long := strings.Repeat("c", 5000)
	for _, k := range []Key{{}, {"n", "c", ""}, {"n", "c\x00", "i"}, {"n", "\xff", "i"}, {"n", long, "i"}} {
		if _, _, err := s.Add(Attachment{Key: k}, nil); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", k, err)
		}
		if removed, err := s.Remove(k); err != nil || len(removed) != 0 {
			t.Errorf("remove %q: %v, %v", k, removed, err)
		}
	}
}

func TestPortNames(t *testing.T) {
	s := opened(t, "10.0.0.0/24")
	web := func(network, container, device string) Attachment {
		return Attachment{Key: Key{network, container, device}, PodNamespace: "default", PodName: "web"}
	}
	tests := []struct {
		add  Attachment
		want string
	}{
		{web("a", "0123456789abcdef", "eth0"), "default/web"},
		{web("a", "0123456789abcdef", "net1"), "default/web:net1"},
		{web("a", "fedcba9876543210", "eth0"), "default/web@fedcba98"},
		{web("b", "fedcba9876543210", "eth0"), "default/web@fedcba98-2"},
		{web("c", "fedcba9876543210", "eth0"), "default/web@fedcba98-3"},
		{Attachment{Key: Key{"a", "aaaabbbbccccdddd", "eth0"}}, "aaaabbbbcccc"},
		{Attachment{Key: Key{"a", "aaaabbbbccccdddd", "net1"}}, "aaaabbbbcccc:net1"},
		{Attachment{Key: Key{"a", "aaaabbbbcccceeee", "eth0"}}, "aaaabbbbcccc@aaaabbbb"},
		{Attachment{Key: Key{"a", "short", "eth0"}, PodName: "web"}, "short"},
	}
	var names []string
	for _, test := range tests {
		a, _, err := s.Add(test.add, nil)
		if err != nil || a.Port != test.want {
			t.Errorf("%s: %s, want %s, %v", test.add.Key, a.Port, test.want, err)
		}
	}
	s.Remove(tests[0].add.Key)
	moved := tests[2].add
	moved.Direct = true // a replaced one is named anew
	if a, _, _ := s.Add(moved, nil); a.Port != "default/web" {
		t.Errorf("named %s", a.Port)
	}
	for _, a := range s.All() {
		names = append(names, a.Port)
	}
	want := []string{"aaaabbbbcccc", "aaaabbbbcccc:net1", "aaaabbbbcccc@aaaabbbb", "default/web", "default/web:net1",
		"default/web@fedcba98-2", "default/web@fedcba98-3", "short"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestClosed(t *testing.T) {
	s := opened(t, "10.0.0.0/24")
	add(t, s, 1)
	s.Close()
	s.Configure(nil, nil)
	if _, _, err := s.Add(pod(2), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Remove(key(1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); err != nil || s.Len() != 1 {
		t.Errorf("%d, %v", s.Len(), err)
	}
}
