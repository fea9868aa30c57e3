// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
)

// Node is what is used of a node. Its labels are the Object's.
type Node struct {
	PodCIDRs  []netip.Prefix
	Addresses []netip.Addr // internal ones first; not those that are link-local
}

func nodeOf(c *checker, from *corev1.Node) *Node {
	n := &Node{PodCIDRs: c.podCIDRs("spec.podCIDRs", from.Spec.PodCIDRs)}
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

// DataplaneAddress is the dataplane's own address in a node's pod CIDR, the last that an interface may have:
// "10.244.1.254" of 10.244.1.0/24, "fd00::ffff:ffff:ffff:ffff" of fd00::/64. A CIDR of fewer than eight addresses, of
// IPv6 sixteen, has none to spare: the result is zero then.
func DataplaneAddress(cidr netip.Prefix) netip.Addr {
	last := netipx.PrefixLastIP(cidr)
	switch bits := cidr.Addr().BitLen() - cidr.Bits(); {
	case cidr.Addr().Is4() && bits >= 3:
		return last.Prev()
	case cidr.Addr().Is6() && bits >= 4:
		return last
	}
	return netip.Addr{}
}

// NodeAddress is the node's own address in a pod CIDR, the first that an interface may have: "10.244.1.1" of
// 10.244.1.0/24, "fd00::1" of fd00::/64, of a pair the first (RFC 3021, RFC 6164). A CIDR of one address has none to
// spare: the result is zero then.
func NodeAddress(cidr netip.Prefix) netip.Addr {
	first := cidr.Masked().Addr()
	switch first.BitLen() - cidr.Bits() {
	case 0:
		return netip.Addr{}
	case 1:
		return first
	}
	return first.Next()
}
