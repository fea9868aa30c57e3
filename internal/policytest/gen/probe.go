// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// Probe is a connection to try.
type Probe struct {
	From, To netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

func (p Probe) String() string {
	return fmt.Sprintf("%s to %s, %s %d", p.From, p.To, p.Protocol, p.Port)
}

var protocols = []string{"TCP", "UDP", "SCTP"}

// The ports that policies and pods speak of, and that are tried, with one on either side.
const firstPort, lastPort = 80, 83

var outside = []string{"203.0.113.7", "203.0.113.77", "198.51.100.7", "2001:db8::7", "2001:db8:f::7"}

// Probes are all pairs of addresses that a cluster's pods and nodes have, and some outside, of one family, with all
// protocols and ports. Between two that are outside nothing is tried.
func Probes(c *oracle.Cluster) (list []Probe) {
	inside := Addresses(c)
	all := slices.Clone(inside)
	for _, text := range outside {
		all = append(all, netip.MustParseAddr(text))
	}
	for i, from := range all {
		for j, to := range all {
			if from.Is4() != to.Is4() || i >= len(inside) && j >= len(inside) {
				continue
			}
			for _, protocol := range protocols {
				for port := uint16(firstPort - 1); port <= lastPort+1; port++ {
					list = append(list, Probe{from, to, corev1.Protocol(protocol), port})
				}
			}
		}
	}
	return list
}

// Addresses are those of a cluster's pods and nodes, in order and each once.
func Addresses(c *oracle.Cluster) (list []netip.Addr) {
	for _, pod := range c.Pods {
		for _, own := range pod.Status.PodIPs {
			list = append(list, netip.MustParseAddr(own.IP))
		}
	}
	for _, node := range c.Nodes {
		for _, own := range node.Status.Addresses {
			if address, err := netip.ParseAddr(own.Address); err == nil {
				list = append(list, address)
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// Nobody says whether an address is in a node's pod CIDRs and no pod's: packets to it go nowhere.
func Nobody(c *oracle.Cluster, address netip.Addr) bool {
	for _, pod := range c.Pods {
		running := pod.Status.Phase == corev1.PodRunning
		if running && slices.Contains(pod.Status.PodIPs, corev1.PodIP{IP: address.String()}) {
			return false
		}
	}
	return slices.ContainsFunc(c.Nodes, func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Spec.PodCIDRs, func(cidr string) bool {
			return netip.MustParsePrefix(cidr).Contains(address)
		})
	})
}
