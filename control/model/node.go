// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Node is what is used of a node. Its labels are the Object's.
type Node struct {
	PodCIDRs  []netip.Prefix
	Addresses []netip.Addr // internal ones first; not those that are link-local
}

func nodeOf(c *checker, from *corev1.Node) *Node {
	n := &Node{}
	for i, text := range from.Spec.PodCIDRs {
		n.PodCIDRs = append(n.PodCIDRs, c.podCIDR(index("spec.podCIDRs", i), text))
	}
	if from.Spec.PodCIDR != "" && len(n.PodCIDRs) == 0 {
		n.PodCIDRs = []netip.Prefix{c.podCIDR("spec.podCIDR", from.Spec.PodCIDR)}
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i, a := range from.Status.Addresses {
			if a.Type != kind {
				continue // the others are names
			}
			address := c.unicast(index("status.addresses", i)+".address", a.Address)
			if !address.IsLinkLocalUnicast() && !slices.Contains(n.Addresses, address) {
				n.Addresses = append(n.Addresses, address)
			}
		}
	}
	return n
}
