// SPDX-License-Identifier: Apache-2.0

package host

import (
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

func TestKubeProxy(t *testing.T) {
	alone(t, func(s *Stack, _ *netlab.Namespace) {
		check := func(want ...string) {
			t.Helper()
			found, err := s.KubeProxy()
			ok(t, err)
			for _, w := range want {
				if !strings.Contains(found, w) {
					t.Errorf("found %q, want %q in it", found, w)
				}
			}
			if len(want) == 0 && found != "" {
				t.Errorf("found %q", found)
			}
		}
		check()
		for _, row := range []struct{ add, remove, want string }{
			{"nft add table ip6 kube-proxy", "nft delete table ip6 kube-proxy", "nftables table ip6 kube-proxy"},
			{"nft add table ip nat", "nft delete table ip nat", ""},
			{"nft add table ip nat ; add chain ip nat KUBE-SERVICES", "nft delete table ip nat",
				"chain KUBE-SERVICES of table ip nat"},
			{"iptables-legacy -t nat -N OTHER", "iptables-legacy -t nat -X OTHER", ""},
			{"iptables-legacy -t nat -N MY-KUBE-SERVICES", "iptables-legacy -t nat -X MY-KUBE-SERVICES", ""},
			{"iptables-legacy -t nat -N KUBE-SERVICES-2", "iptables-legacy -t nat -X KUBE-SERVICES-2", ""},
			{"iptables-legacy -t nat -N KUBE-SERVICES", "iptables-legacy -t nat -X KUBE-SERVICES",
				"chain KUBE-SERVICES of legacy table ip nat"},
			{"ip6tables-legacy -t nat -N KUBE-SERVICES", "ip6tables-legacy -t nat -X KUBE-SERVICES",
				"chain KUBE-SERVICES of legacy table ip6 nat"},
			{"ip link add kube-ipvs0 type veth peer name other", "ip link delete kube-ipvs0", "device kube-ipvs0"},
		} {
			run(t, strings.Fields(row.add)...)
			if row.want == "" {
				check()
			} else {
				check(row.want)
			}
			run(t, strings.Fields(row.remove)...)
			check()
		}
	})
}
