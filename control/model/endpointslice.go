// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// EndpointSlice is some of those who answer for a service.
type EndpointSlice struct {
	Service   string // in its namespace; empty: of none that has frontends
	Ports     []EndpointPort
	Endpoints []Endpoint // of one family
	Weight    uint16     // of each that says none; 0: not said
}

// EndpointPort is a port at which all of a slice's endpoints answer.
type EndpointPort struct {
	Name     string
	Protocol string
	Port     uint16
}

// Endpoint is one who answers.
type Endpoint struct {
	Address netip.Addr
	Node    string // that it is on; empty: not said
	Pod     string // in the slice's namespace; empty: it is none
	// Ready: it takes flows. Serving: it would, were it not Terminating.
	Ready, Serving, Terminating bool
	// Zones and Nodes are those that it is best for; empty: not said.
	Zones, Nodes []string
}

func endpointSliceOf(c *checker, from *discoveryv1.EndpointSlice) *EndpointSlice {
	s := &EndpointSlice{}
	kind := c.oneOf("addressType", string(from.AddressType), "", "IPv4", "IPv6", "FQDN")
	c.check(kind != "", "addressType", "must be said")
	if !othersService(from.Labels) && kind != string(discoveryv1.AddressTypeFQDN) {
		s.Service = intern(from.Labels[ServiceLabel])
	}
	s.Weight = c.weight(from.Annotations)
	for i := range from.Ports {
		c.within(index("ports", i), func() {
			if p := &from.Ports[i]; p.Port != nil { // without a number it is every port, which no service's is
				s.Ports = append(s.Ports, EndpointPort{
					Name:     intern(stringOf(p.Name)),
					Protocol: intern(c.oneOf("protocol", stringOf(p.Protocol), protocols...)),
					Port:     uint16(c.between("port", int64(*p.Port), 1, maxPort)),
				})
			}
		})
	}
	if kind == string(discoveryv1.AddressTypeFQDN) {
		return &EndpointSlice{}
	}
	for i := range from.Endpoints {
		c.within(index("endpoints", i), func() {
			s.Endpoints = append(s.Endpoints, c.endpoint(&from.Endpoints[i], kind))
		})
	}
	if s.Service == "" {
		return &EndpointSlice{}
	}
	return s
}

// endpoint reads one. Its addresses are those of one and the same: the first counts, as it does for kube-proxy.
func (c *checker) endpoint(from *discoveryv1.Endpoint, kind string) Endpoint {
	e := Endpoint{
		Node:        intern(stringOf(from.NodeName)),
		Ready:       isTrue(from.Conditions.Ready, true),
		Terminating: isTrue(from.Conditions.Terminating, false),
	}
	e.Serving = isTrue(from.Conditions.Serving, e.Ready)
	c.check(len(from.Addresses) > 0, "addresses", "needs one at least")
	for i, text := range from.Addresses {
		a := c.serviceAddress(index("addresses", i), text)
		c.check(!a.IsValid() || a.Is4() == (kind == "IPv4"), index("addresses", i), "%s is not %s", text, kind)
		if i == 0 {
			e.Address = a
		}
	}
	if t := from.TargetRef; t != nil && t.Kind == "Pod" {
		e.Pod = intern(t.Name)
	}
	if h := from.Hints; h != nil {
		for _, z := range h.ForZones {
			e.Zones = append(e.Zones, intern(z.Name))
		}
		for _, n := range h.ForNodes {
			e.Nodes = append(e.Nodes, intern(n.Name))
		}
	}
	return e
}

func isTrue(p *bool, unsaid bool) bool {
	if p == nil {
		return unsaid
	}
	return *p
}

// ZoneLabel is the label of nodes with the zone that they are in.
const ZoneLabel = corev1.LabelTopologyZone
