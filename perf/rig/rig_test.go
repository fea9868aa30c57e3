// SPDX-License-Identifier: Apache-2.0

package rig_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/perf/rig"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// namespaceOf names the network namespace of a thread: "net:[4026531840]".
func namespaceOf(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// openNamespaces counts this process's descriptors of network namespaces.
func openNamespaces(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "net:[") {
			n++
		}
	}
	return n
}

func hostLinks(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func TestRigLeavesNothing(t *testing.T) {
	needRoot(t)
	home, before, links := namespaceOf(t), openNamespaces(t), hostLinks(t)
	r, err := rig.New(rig.Options{Queues: 2, MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	if got := openNamespaces(t); got != before+3 {
		t.Errorf("%d namespaces are open, want %d", got-before, 3)
	}
	for _, c := range []struct {
		in  *rig.Namespace
		dev rig.Device
	}{{r.Generator, r.Gen}, {r.DUT, r.Left}, {r.DUT, r.Right}, {r.Sink, r.Sunk}} {
		checkDevice(t, c.in, c.dev)
	}
	failed := errors.New("failed")
	if err := r.DUT.Do(func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("Do returned %v", err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := namespaceOf(t); got != home {
		t.Errorf("test is in namespace %s, was in %s", got, home)
	}
	if got := openNamespaces(t); got != before {
		t.Errorf("%d namespaces are left open", got-before)
	}
	if got := hostLinks(t); len(got) != len(links) {
		t.Errorf("devices are %v, were %v", got, links)
	}
}

func checkDevice(t *testing.T, n *rig.Namespace, dev rig.Device) {
	t.Helper()
	h, err := n.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(dev.Name)
	if err != nil {
		t.Fatal(err)
	}
	a := link.Attrs()
	if a.Index != dev.Index || a.MTU != 9000 || a.HardwareAddr.String() != dev.MAC.String() || a.NumRxQueues != 2 {
		t.Errorf("device %s is %+v, want %+v", dev.Name, a, dev)
	}
	if a.OperState != netlink.OperUp {
		t.Errorf("device %s is %s", dev.Name, a.OperState)
	}
}

func TestRefusedOptions(t *testing.T) {
	for _, o := range []rig.Options{{0, 1500}, {1, 67}, {1, 65536}, {-1, 1500}} {
		if r, err := rig.New(o); err == nil {
			t.Errorf("%+v: accepted", o)
			_ = r.Close()
		}
	}
}

// TestShortened: both ends reach each other, and know where the other's frames come in.
func TestShortened(t *testing.T) {
	needRoot(t)
	r, err := rig.Bare()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if err := r.Shorten("eth0", rig.Options{Queues: 1, MTU: 9000}); err != nil {
		t.Fatal(err)
	}
	if r.Target() != r.Sunk.Addr4.Addr() || r.NextToGenerator() != r.Sink {
		t.Errorf("the target is %s", r.Target())
	}
	mac, err := r.Generator.NextHop(r.Target())
	if err != nil || mac.String() != r.Left.MAC.String() {
		t.Errorf("the next hop is %s, %v; want %s", mac, err, r.Left.MAC)
	}
	if mac, err := r.Sink.NextHop(r.Gen.Addr4.Addr()); err != nil || mac.String() != r.Right.MAC.String() {
		t.Errorf("the way back is by %s, %v; want %s", mac, err, r.Right.MAC)
	}
	r.Front = netip.MustParseAddr("192.0.2.9")
	if r.Target() != r.Front {
		t.Errorf("the target is %s, not the front", r.Target())
	}
}

func TestPrefixesAreDistinct(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		seen := map[netip.Prefix]bool{}
		for i := range rig.MaxRoutes {
			p := rig.Prefix(i, ipv6)
			if p != p.Masked() || seen[p] || p.Addr().Is6() != ipv6 {
				t.Fatalf("prefix %d is %s", i, p)
			}
			seen[p] = true
		}
	}
	for i, want := range map[int]string{0: "10.128.0.0/24", 257: "10.129.1.0/24"} {
		if got := rig.Prefix(i, false).String(); got != want {
			t.Errorf("prefix %d is %s, want %s", i, got, want)
		}
	}
}
