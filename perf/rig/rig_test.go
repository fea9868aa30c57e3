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
