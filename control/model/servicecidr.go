// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
)

// ServiceCIDR is prefixes that services have their addresses of.
type ServiceCIDR struct {
	Prefixes []netip.Prefix
}

func serviceCIDROf(c *checker, from *networkingv1.ServiceCIDR) *ServiceCIDR {
	s := &ServiceCIDR{}
	for i, text := range from.Spec.CIDRs {
		s.Prefixes = append(s.Prefixes, c.serviceCIDR(index("spec.cidrs", i), text))
	}
	return s
}

// serviceCIDR reads a prefix that services have their addresses of.
func (c *checker) serviceCIDR(field, text string) netip.Prefix {
	p := c.podCIDR(field, text) // what is said of pods' goes for services'
	c.check(p.Bits() != 0, field, "%s is everything", p)
	return p
}
