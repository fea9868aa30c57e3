// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// nodeClaimant is who claims a node's pod CIDRs. The node's name decides between two, wherever the CIDRs are written.
func nodeClaimant(name string) claimant {
	return claimant{byNode, model.Key{Kind: "Node", Name: name}}
}

// claimNodes has nodes claim their pod CIDRs. This node claims its own too, so that all nodes come to the same answer
// when two nodes have one CIDR.
func (c *Compiler) claimNodes(w *work) {
	for name := range c.nodesToLookAt(w) {
		c.claimNode(name)
	}
}

// nodesToLookAt are the names of those nodes of which something changed.
func (c *Compiler) nodesToLookAt(w *work) map[string]bool {
	names := map[string]bool{}
	for _, kind := range []string{"Node", "NodeConfig"} {
		for _, key := range c.keys(w, kind) {
			names[key.Name] = true
		}
	}
	if w.whole {
		names[c.self.name], names[w.former.name] = true, true
	}
	return names
}

func (c *Compiler) claimNode(name string) {
	who := nodeClaimant(name)
	c.routes.withdraw(who)
	c.hostRoutes.withdraw(who)
	node := c.Object(who.key)
	if node == nil && name != c.self.name {
		return // it is not a node, or it is not known where it is
	}
	if node != nil {
		for _, a := range node.Spec.(*model.Node).Addresses { // whatever service says that it has them
			c.hostRoutes.add(netip.PrefixFrom(a, a.BitLen()),
				&claim[hostWay]{claimant: who, object: node, value: hostWay{none: true}})
		}
	}
	object, cidrs := c.podCIDRs(&c.self, name)
	for _, cidr := range cidrs {
		made := &claim[*group]{claimant: who, object: object}
		var via netip.Addr // of the host's stack; zero: by the dataplane
		reached := true
		if name == c.self.name {
			made.value = c.nobody(cidr)
		} else if made.value, made.err = c.towards(node, cidr); made.value == nil {
			via = c.beside(node, cidr)
			reached = via.IsValid()
		}
		c.routes.add(cidr, made)
		if c.self.pods && reached {
			c.hostRoutes.add(cidr, &claim[hostWay]{claimant: who, object: object, value: hostWay{via: via}})
		}
	}
}

// nobody is what becomes of packets to an address of the node's own pods that no pod has. There is no group where a
// port's subnet is that prefix: what is on a link goes there.
func (c *Compiler) nobody(cidr netip.Prefix) *group {
	for i := range c.self.config.Ports {
		for _, a := range c.self.config.Ports[i].Addresses {
			if a.Masked() == cidr {
				return nil
			}
		}
	}
	return &group{kind: api.NextHopGroup_KIND_UNREACHABLE}
}

// beside is the address by which the host's stack leads to a node's pods, past the dataplane; zero when it does not.
func (c *Compiler) beside(node *model.Object, cidr netip.Prefix) (via netip.Addr) {
	if u := c.self.config.Uplink; u != nil && u.Mode != "kernel" {
		return netip.Addr{}
	}
	for _, address := range node.Spec.(*model.Node).Addresses {
		if address.Is4() == cidr.Addr().Is4() {
			return address
		}
	}
	return netip.Addr{}
}

// towards finds the way to a node's pods: by the first of its addresses that is on a port's subnet. There is no group
// and no error where the host's stack leads there, and while the node has no address of the CIDR's family.
func (c *Compiler) towards(node *model.Object, cidr netip.Prefix) (*group, *model.Error) {
	const field = "status.addresses"
	var elsewhere netip.Addr
	for _, address := range node.Spec.(*model.Node).Addresses {
		if address.Is4() != cidr.Addr().Is4() {
			continue
		}
		port := c.portWith(address)
		if port == nil {
			elsewhere = address
			continue
		}
		if reason := port.NotNeighbor(address); reason != "" {
			return nil, refuse(node, field, "%s", reason)
		}
		hop := &api.NextHop{Port: c.ports.number(port.Name), Via: address.AsSlice(), Weight: 1}
		return &group{kind: api.NextHopGroup_KIND_FORWARD, hops: []*api.NextHop{hop}}, nil
	}
	config := c.self.config
	if !elsewhere.IsValid() || len(config.Ports) == 0 || config.Uplink != nil && config.Uplink.Mode == "kernel" {
		return nil, nil
	}
	return nil, refuse(node, field, "%s is in no port's subnet, to lead to %s", elsewhere, cidr)
}
