// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// HostDevice is the host's own end of the pair of devices that is the host port.
const HostDevice = "viaduct0"

// Who claims what is the host's.
var (
	hosts    = claimant{class: byHost}
	defaults = claimant{class: byDefault}
)

// own is an address of the node, and the object that says so.
type own struct {
	address netip.Addr
	object  *model.Object
}

// ownAddresses are those of the node's Node object and the first that may be used of each pod CIDR, in order. What is
// an address of a port is not among them: the dataplane answers for it.
func (c *Compiler) ownAddresses() (list []own) {
	add := func(address netip.Addr, object *model.Object) {
		ours := func(p model.Port) bool { return p.Has(address) }
		if address.IsValid() && !slices.ContainsFunc(c.self.config.Ports, ours) {
			list = append(list, own{address, object})
		}
	}
	if node := c.self.node; node != nil {
		for _, address := range node.Spec.(*model.Node).Addresses {
			add(address, node)
		}
	}
	object, cidrs := c.podCIDRs(&c.self, c.self.name)
	for _, cidr := range cidrs {
		add(model.NodeAddress(cidr), object)
	}
	slices.SortStableFunc(list, func(a, b own) int { return a.address.Compare(b.address) })
	return slices.CompactFunc(list, func(a, b own) bool { return a.address == b.address })
}

// claimHostPort has a node with pods claim the name of the port that leads to its own stack.
func (c *Compiler) claimHostPort() {
	c.ports.withdraw(hosts)
	if !c.self.pods {
		return
	}
	station := &api.Station{Router: true}
	for _, o := range c.ownAddresses() {
		station.Addresses = append(station.Addresses, o.address.AsSlice())
	}
	c.ports.add(model.HostPort, &claim[*api.Snapshot]{claimant: hosts, object: c.self.object, value: &api.Snapshot{
		Ports: []*api.Port{{
			Name: model.HostPort, Device: HostDevice, Attach: api.Port_ATTACH_HOST, Addresses: gateways, Station: station,
		}},
	}})
}

// claimHost has a node with pods claim its own addresses, and, unless the uplink is the dataplane's, whatever nobody
// else has, for the host's stack.
func (c *Compiler) claimHost(w *work) {
	if !w.whole {
		return
	}
	c.routes.withdraw(hosts)
	c.routes.withdraw(defaults)
	c.hostRoutes.withdraw(hosts)
	if !c.self.pods {
		return
	}
	for _, o := range c.ownAddresses() {
		c.routes.add(netip.PrefixFrom(o.address, o.address.BitLen()),
			&claim[*group]{claimant: hosts, object: o.object, value: c.toHost(0)})
		c.hostRoutes.add(netip.PrefixFrom(o.address, o.address.BitLen()),
			&claim[hostWay]{claimant: hosts, object: o.object, value: hostWay{none: true}})
	}
	if u := c.self.config.Uplink; u != nil && u.Mode == "owned" {
		return
	}
	mtu := c.self.config.MTU // where none is said, the host's stack knows its devices' and tells
	for address, least := range map[netip.Addr]uint32{netip.IPv4Unspecified(): 0, netip.IPv6Unspecified(): minMTU6} {
		of := mtu
		if mtu != 0 {
			of = max(mtu, least)
		}
		c.routes.add(netip.PrefixFrom(address, 0),
			&claim[*group]{claimant: defaults, object: c.self.object, value: c.toHost(of)})
	}
}

// minMTU6 is what every link of IPv6 carries (RFC 8200 5), in bytes.
const minMTU6 = 1280

// toHost leads to the host's stack.
func (c *Compiler) toHost(mtu uint32) *group {
	hop := &api.NextHop{Port: c.ports.number(model.HostPort), Weight: 1, Mtu: mtu}
	return &group{kind: api.NextHopGroup_KIND_FORWARD, hops: []*api.NextHop{hop}}
}
