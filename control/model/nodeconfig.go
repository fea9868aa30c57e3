// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// NodeConfig is how one node is set up.
type NodeConfig struct {
	PodCIDRs []netip.Prefix
	// ExcludedAddresses are given to no pod.
	ExcludedAddresses []netip.Prefix
	MTU               uint32 // bytes; 0: found from the uplink
	Workers           uint32 // 0: half of the cores, at least one
	Offload           bool   // true when not said
	OnAbsence         string // "drop" (when not said) or "pass"
	Masquerade        bool   // true when not said
	Uplink            *Uplink
	Ports             []Port
	// NamespaceIsolation: where no policy says otherwise, pods accept from pods of their own namespace alone.
	NamespaceIsolation bool
	FailSafe           FailSafe
	Flows              uint32 // that are tracked at most; 0: 262144
	FlowsPerPort       uint32 // that one port may have opened at most; 0: a quarter of all

	Algorithm         string         // of Algorithms, for services that say none: "random" when not said
	RemovedBackends   string         // of Removals, for services that say none: "drain" when not said
	NodePortAddresses []netip.Prefix // addresses of the node at which node ports are; empty: all
	// ServiceCIDRs are where services have their addresses; empty: as ServiceCIDR objects say.
	ServiceCIDRs []netip.Prefix
	NoMasquerade []netip.Prefix // destinations beside the cluster to which pods keep their addresses
}

// Uplink is the device that leads to the other nodes.
type Uplink struct {
	Device string
	Mode   string // "kernel" (when not said), "shared" or "owned"
	// Announce are kinds of services' addresses, of Announceable, that the node says on the link that it has. None in
	// mode kernel.
	Announce []string
}

// Port is a device, or a VLAN of one, that the dataplane owns.
type Port struct {
	Name      string
	Device    string
	Queues    []uint32       // empty: all
	OuterVLAN uint16         // 1..4094, 0: untagged
	InnerVLAN uint16         // 1..4094, 0: no second tag
	Addresses []netip.Prefix // with host bits: our own addresses
	MTU       uint32         // bytes; 0: the device's
	Neighbors []Neighbor
}

// HostPort is the name of the port that leads to the host's own stack.
const HostPort = "host"

// Neighbor is a neighbour with a configured link-layer address.
type Neighbor struct {
	Address netip.Addr
	MAC     net.HardwareAddr // 6 bytes
}

// Limits of fields.
const (
	maxWorkers = 256
	minMTU     = 68    // RFC 791: every link carries that much
	minMTU6    = 1280  // RFC 8200 5: the same for IPv6
	maxMTU     = 65535 // the largest IP packet
	maxVLAN    = 4094
	maxQueue   = 4095
	maxWeight  = 65535
	maxPort    = 65535
	maxName    = 63
	minFlows   = 1024
	maxFlows   = 1 << 24
	someFlows  = 1 << 18 // when not said
)

// The wire forms: what YAML is decoded into before it is understood.
type nodeConfigSpec struct {
	PodCIDRs          []string    `json:"podCIDRs"`
	ExcludedAddresses []string    `json:"excludedAddresses"`
	MTU               int64       `json:"mtu"`
	Workers           int64       `json:"workers"`
	Offload           *bool       `json:"offload"`
	OnAbsence         string      `json:"onAbsence"`
	Masquerade        *bool       `json:"masquerade"`
	Uplink            *uplinkSpec `json:"uplink"`
	Ports             []portSpec  `json:"ports"`

	NamespaceIsolation bool         `json:"namespaceIsolation"`
	FailSafe           failSafeSpec `json:"failSafe"`
	Flows              int64        `json:"flows"`
	FlowsPerPort       int64        `json:"flowsPerPort"`

	Algorithm         string   `json:"algorithm"`
	RemovedBackends   string   `json:"removedBackends"`
	NodePortAddresses []string `json:"nodePortAddresses"`
	ServiceCIDRs      []string `json:"serviceCIDRs"`
	NoMasquerade      []string `json:"noMasquerade"`
}

type uplinkSpec struct {
	Device   string   `json:"device"`
	Mode     string   `json:"mode"`
	Announce []string `json:"announce"`
}

type portSpec struct {
	Name      string         `json:"name"`
	Device    string         `json:"device"`
	Queues    []int64        `json:"queues"`
	VLAN      *int64         `json:"vlan"`
	VLANs     []int64        `json:"vlans"`
	Addresses []string       `json:"addresses"`
	MTU       int64          `json:"mtu"`
	Neighbors []neighborSpec `json:"neighbors"`
}

type neighborSpec struct {
	Address string `json:"address"`
	MAC     string `json:"mac"`
}

func (s *nodeConfigSpec) build(c *checker) *NodeConfig {
	n := &NodeConfig{
		MTU:        c.mtu("mtu", s.MTU),
		Workers:    uint32(c.between("workers", s.Workers, 0, maxWorkers)),
		Offload:    s.Offload == nil || *s.Offload,
		OnAbsence:  c.oneOf("onAbsence", s.OnAbsence, "drop", "pass"),
		Masquerade: s.Masquerade == nil || *s.Masquerade,

		NamespaceIsolation: s.NamespaceIsolation,
	}
	c.within("failSafe", func() { n.FailSafe = s.FailSafe.build(c) })
	n.Flows, n.FlowsPerPort = s.flows(c)
	n.PodCIDRs = c.podCIDRs("podCIDRs", s.PodCIDRs)
	for i, text := range s.ExcludedAddresses {
		n.ExcludedAddresses = append(n.ExcludedAddresses, c.addresses(index("excludedAddresses", i), text))
	}
	if s.Uplink != nil {
		c.within("uplink", func() { n.Uplink = s.Uplink.build(c) })
	}
	for i := range s.Ports {
		c.within(index("ports", i), func() { n.Ports = append(n.Ports, s.Ports[i].build(c)) })
	}
	n.checkPorts(c)
	s.services(c, n)
	return n
}

// services reads what is said of services and of translation.
func (s *nodeConfigSpec) services(c *checker, n *NodeConfig) {
	n.Algorithm = c.oneOf("algorithm", s.Algorithm, Algorithms...)
	n.RemovedBackends = c.oneOf("removedBackends", s.RemovedBackends, Removals...)
	for i, text := range s.NodePortAddresses {
		n.NodePortAddresses = append(n.NodePortAddresses, c.prefix(index("nodePortAddresses", i), text))
	}
	for i, text := range s.ServiceCIDRs {
		n.ServiceCIDRs = append(n.ServiceCIDRs, c.serviceCIDR(index("serviceCIDRs", i), text))
	}
	for i, text := range s.NoMasquerade {
		n.NoMasquerade = append(n.NoMasquerade, c.prefix(index("noMasquerade", i), text))
	}
}

// flows reads the bounds of what is tracked; 0 is for what holds when nothing is said.
func (s *nodeConfigSpec) flows(c *checker) (all, perPort uint32) {
	most := int64(someFlows)
	if s.Flows != 0 {
		most = c.between("flows", s.Flows, minFlows, maxFlows)
	}
	return uint32(s.Flows), uint32(c.between("flowsPerPort", s.FlowsPerPort, 0, most))
}

// Kinds of services' addresses that an uplink may announce.
const (
	AnnounceLoadBalancer = "load-balancer" // those that load balancers gave
	AnnounceExternalIP   = "external-ip"   // spec.externalIPs
)

func (s *uplinkSpec) build(c *checker) *Uplink {
	u := &Uplink{Device: c.device("device", s.Device), Mode: c.oneOf("mode", s.Mode, "kernel", "shared", "owned")}
	c.check(len(s.Announce) == 0 || u.Mode != "kernel", "announce",
		"in mode kernel the host's stack answers on the link: have the addresses on a device of its own")
	for i, kind := range s.Announce {
		is := c.oneOf(index("announce", i), kind, AnnounceLoadBalancer, AnnounceExternalIP)
		c.check(!slices.Contains(u.Announce, is), index("announce", i), "%q is named twice", is)
		u.Announce = append(u.Announce, is)
	}
	return u
}

func (s *portSpec) build(c *checker) Port {
	p := Port{
		Name:   c.name("name", s.Name),
		Device: c.device("device", s.Device),
		MTU:    c.mtu("mtu", s.MTU),
	}
	for i, q := range s.Queues {
		queue := uint32(c.between(index("queues", i), q, 0, maxQueue))
		c.check(!slices.Contains(p.Queues, queue), index("queues", i), "queue %d is named twice", q)
		p.Queues = append(p.Queues, queue)
	}
	p.OuterVLAN, p.InnerVLAN = s.vlans(c)
	for i, text := range s.Addresses {
		a := c.interfaceAddress(index("addresses", i), text)
		c.check(!p.Has(a.Addr()), index("addresses", i), "%s is named twice", a.Addr())
		c.check(p.MTU == 0 || p.MTU >= minMTU6 || a.Addr().Is4(), "mtu",
			"%d is less than the %d that IPv6 needs", p.MTU, minMTU6)
		p.Addresses = append(p.Addresses, a)
	}
	seen := map[netip.Addr]bool{}
	for i, n := range s.Neighbors {
		c.within(index("neighbors", i), func() {
			address := c.unicast("address", n.Address)
			c.check(!seen[address], "address", "%s is named twice", address)
			seen[address] = true
			reason := p.NotNeighbor(address)
			c.check(reason == "", "address", "%s", reason)
			p.Neighbors = append(p.Neighbors, Neighbor{Address: address, MAC: c.mac("mac", n.MAC)})
		})
	}
	return p
}

// Has says whether a is one of the port's own addresses.
func (p *Port) Has(a netip.Addr) bool {
	return slices.ContainsFunc(p.Addresses, func(own netip.Prefix) bool { return own.Addr() == a })
}

// NotNeighbor says why a cannot be a neighbour on the port, empty when it can.
func (p *Port) NotNeighbor(a netip.Addr) (reason string) {
	onLink := a.Is6() && a.IsLinkLocalUnicast() // on every link, whatever its addresses
	for _, own := range p.Addresses {
		switch {
		case own.Addr() == a:
			return fmt.Sprintf("%s is our own address on port %s", a, p.Name)
		case hasBroadcast(own) && (a == own.Masked().Addr() || a == netipx.PrefixLastIP(own)):
			return fmt.Sprintf("%s is a broadcast address of port %s", a, p.Name)
		}
		onLink = onLink || own.Contains(a)
	}
	if !onLink {
		return fmt.Sprintf("%s is in none of the subnets of port %s", a, p.Name)
	}
	return ""
}

// vlans reads `vlan: 100` or `vlans: [outer, inner]`.
func (s *portSpec) vlans(c *checker) (outer, inner uint16) {
	c.check(s.VLAN == nil || s.VLANs == nil, "vlans", "vlan and vlans exclude each other")
	c.check(len(s.VLANs) <= 2, "vlans", "at most two tags are carried, not %d", len(s.VLANs))
	if s.VLAN != nil {
		return uint16(c.between("vlan", *s.VLAN, 1, maxVLAN)), 0
	}
	var tags [2]uint16
	for i := range min(len(s.VLANs), 2) {
		tags[i] = uint16(c.between(index("vlans", i), s.VLANs[i], 1, maxVLAN))
	}
	return tags[0], tags[1]
}

// checkPorts refuses ports that could not be told apart.
func (n *NodeConfig) checkPorts(c *checker) {
	type wire struct {
		device       string
		outer, inner uint16
	}
	names, wires := map[string]bool{}, map[wire]string{}
	for i, p := range n.Ports {
		field := index("ports", i)
		c.check(!names[p.Name], field+".name", "two ports are named %q", p.Name)
		c.check(p.Name != HostPort, field+".name", "%q is the name of the port to the node's own stack", p.Name)
		names[p.Name] = true
		w := wire{p.Device, p.OuterVLAN, p.InnerVLAN}
		other, taken := wires[w]
		c.check(!taken, field+".device", "port %q has the same device and VLAN tags", other)
		wires[w] = p.Name
		for j, a := range p.Addresses {
			if a.Addr().IsLinkLocalUnicast() {
				continue // each is of its own link
			}
			for _, q := range n.Ports[:i] {
				c.check(!q.Has(a.Addr()), index(field+".addresses", j), "%s is port %q's too", a.Addr(), q.Name)
				c.check(!q.hasSubnet(a), index(field+".addresses", j), "%s is port %q's too", a.Masked(), q.Name)
			}
		}
	}
	if n.Uplink != nil && n.Uplink.Mode == "kernel" {
		for i, p := range n.Ports {
			c.check(p.Device != n.Uplink.Device, index("ports", i)+".device",
				"%s is the uplink, which the kernel keeps (uplink mode kernel)", p.Device)
		}
	}
}

func (p *Port) hasSubnet(a netip.Prefix) bool {
	return !a.IsSingleIP() &&
		slices.ContainsFunc(p.Addresses, func(own netip.Prefix) bool { return own.Masked() == a.Masked() })
}

// DefaultNodeConfig is what holds for a node that none is written for: what an empty spec says.
func DefaultNodeConfig() *NodeConfig { return (&nodeConfigSpec{}).build(&checker{}) }
