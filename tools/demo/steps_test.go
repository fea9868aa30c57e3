// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// kernelNetwork is the demo's topology with the kernel's own forwarding in the middle: what it does is right by
// definition, so steps that judge only the hosts' side must pass.
func kernelNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	n := &network{lab: netlab.New(), log: &tail{}}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []func() error{n.makeNamespaces, n.makeLinks, n.makeRoutes} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for device, addresses := range map[string][]string{
		"left": {"10.1.0.1/24", "fd00:1::1/64"}, "wide": {"10.2.0.1/24", "fd00:2::1/64"},
		"narrow": {"10.3.0.1/24", "fd00:3::1/64"},
	} {
		for _, a := range addresses {
			if err := n.middle.Address(device, netip.MustParsePrefix(a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.middle.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestStepsPassOverTheKernel(t *testing.T) {
	n := kernelNetwork(t)
	for _, s := range steps() {
		if strings.Contains(s.name, "pod") || strings.Contains(s.name, "service") || s.name == "forged sources" {
			continue // these need the plugin
		}
		switch s.name {
		case "ports", "traceroute IPv4", "traceroute IPv6", "routes under load", "ledger", "stop":
			continue // these ask the dataplane
		}
		r := n.perform(t.Context(), s)
		t.Log(fmt.Sprintf("%-24s", r.Name), r.Detail)
		if !r.OK {
			t.Errorf("%s failed", r.Name)
		}
	}
}

// A step that finds nothing wrong with a broken network would show nothing.
func TestStepsFailWithoutForwarding(t *testing.T) {
	for _, s := range []step{
		{"echo", echo(wide4)}, {"UDP", datagrams(wide6)}, {"TCP", stream(wide4, 1<<20, 1, 1<<16)},
		{"jumbo", jumbo(wide4)}, {"fragments", fragments}, {"path MTU", pathMTU(narrow6)},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			n := kernelNetwork(t)
			for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
				if err := n.middle.Sysctl(key, "0"); err != nil {
					t.Fatal(err)
				}
			}
			if r := n.perform(t.Context(), s); r.OK {
				t.Errorf("passed: %s", r.Detail)
			}
		})
	}
}

// What the policy step takes for a sign that policy denies must not be seen where nothing does, and be seen where
// nothing gets through.
func TestQuietIsToldFromAnswers(t *testing.T) {
	n := kernelNetwork(t)
	n.from, n.to = n.left, n.right
	var talks []talk
	for _, to := range []netip.Addr{wide4, wide6} {
		spoken, err := n.talk(to)
		if err != nil {
			t.Fatal(err)
		}
		talks = append(talks, spoken)
		if err := n.oneDatagram(to); err != nil {
			t.Error(err)
		}
		if err := n.quiet(spoken); err == nil || !strings.Contains(err.Error(), "was not cut: it was answered") {
			t.Errorf("%s is quiet: %v", to, err)
		}
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.middle.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	for _, spoken := range talks {
		if err := n.quiet(spoken); err != nil {
			t.Errorf("%s: %v", spoken.at, err)
		}
	}
}

func TestReportLine(t *testing.T) {
	var b strings.Builder
	writeLine(&b, Result{Name: "echo IPv4", OK: true, Detail: "fine"})
	writeLine(&b, Result{Name: "TCP IPv6", Detail: "lost"})
	want := "ok    echo IPv4               fine\nFAIL  TCP IPv6                lost\n"
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}
