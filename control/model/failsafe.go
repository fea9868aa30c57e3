// SPDX-License-Identifier: Apache-2.0

package model

import "slices"

// FailSafe are ports that policy never denies the node itself, so that nobody locks himself out.
type FailSafe struct {
	Ingress []FailSafePort // of the node
	Egress  []FailSafePort // that it reaches elsewhere
}

// FailSafePort is a transport port.
type FailSafePort struct {
	Protocol string // "TCP", "UDP" or "SCTP"
	Port     uint16
}

// What holds for a direction that says nothing: by these a node is reached, gets its address, and finds the control
// plane. They are the ports of Calico's FailsafeInboundHostPorts and FailsafeOutboundHostPorts (Felix configuration)
// without those of programs that only Calico has, and with DHCP of IPv6.
var (
	failSafeIngress = []FailSafePort{
		{"TCP", 22},   // SSH
		{"UDP", 68},   // DHCP, to the client (RFC 2131)
		{"TCP", 179},  // BGP (RFC 4271)
		{"UDP", 546},  // DHCPv6, to the client (RFC 8415)
		{"TCP", 2379}, // etcd, from clients
		{"TCP", 2380}, // etcd, from its peers
		{"TCP", 6443}, // the Kubernetes API server
	}
	failSafeEgress = []FailSafePort{
		{"UDP", 53},   // DNS
		{"UDP", 67},   // DHCP, to the server
		{"TCP", 179},  // BGP
		{"UDP", 547},  // DHCPv6, to the server
		{"TCP", 2379}, // etcd, as its client
		{"TCP", 2380}, // etcd, to its peers
		{"TCP", 6443}, // the Kubernetes API server
	}
)

type failSafeSpec struct {
	Ingress []failSafePortSpec `json:"ingress"`
	Egress  []failSafePortSpec `json:"egress"`
}

type failSafePortSpec struct {
	Protocol string `json:"protocol"`
	Port     int64  `json:"port"`
}

// maxFailSafe bounds each list.
const maxFailSafe = 64

// build reads the lists. One that is not said is the list that holds then; one that is said to be empty is empty.
func (s *failSafeSpec) build(c *checker) FailSafe {
	return FailSafe{
		Ingress: c.failSafe("ingress", s.Ingress, failSafeIngress), Egress: c.failSafe("egress", s.Egress, failSafeEgress),
	}
}

func (c *checker) failSafe(field string, from []failSafePortSpec, unsaid []FailSafePort) (list []FailSafePort) {
	if from == nil {
		return slices.Clone(unsaid)
	}
	c.check(len(from) <= maxFailSafe, field, "at most %d, not %d", maxFailSafe, len(from))
	seen := map[FailSafePort]bool{}
	for i, one := range from {
		c.within(index(field, i), func() {
			p := FailSafePort{Protocol: c.oneOf("protocol", one.Protocol, protocols...),
				Port: uint16(c.between("port", one.Port, 1, maxPort))}
			c.check(!seen[p], "port", "%s %d is named twice", p.Protocol, p.Port)
			seen[p] = true
			list = append(list, p)
		})
	}
	return list
}
