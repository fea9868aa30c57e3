// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// Resume takes over the numbers that a snapshot gives to ports, groups, identities, peer sets and services: one that is
// in force, and that this compiler did not make. What equals something in it gets the number that this has there. The
// next Step is whole. A nil snapshot gives no numbers.
func (c *Compiler) Resume(s *api.Snapshot) {
	c.changed = map[model.Key]*model.Object{}
	for _, held := range c.objects {
		for key := range held {
			c.changed[key] = nil
		}
	}
	c.attached = map[string]struct{}{}
	for port := range c.attachments {
		c.attached[port] = struct{}{}
	}
	c.last, c.self, c.settings = nil, self{}, nil
	c.routes, c.hostRoutes, c.identities, c.origins = newRoutes(), newHostRoutes(), newIdentities(), newOrigins()
	c.policies, c.services, c.egress = newPolicies(), newServices(), map[string]*api.Egress{}
	c.complaints = newComplaints()
	c.resumePorts(s.GetPorts())
	c.resumeRoutes(s.GetGroups(), s.GetRoutes())
	c.resumeIdentities(s.GetIdentities())
	c.policies.sets.resume(s.GetPeerSets())
	c.resumeServices(s.GetServices())
}

func (c *Compiler) resumeServices(list []*api.Service) {
	c.services.pool = takenBy(list)
	for _, s := range list {
		c.services.former[serviceID{s.GetName(), s.GetIpv6()}] = s.GetId()
	}
}

func (c *Compiler) resumePorts(list []*api.Port) {
	c.ports = newPorts(takenBy(list))
	for _, p := range list {
		c.ports.inForce[p.GetName()] = &port{number: p.GetId()}
		c.ports.touched[p.GetName()] = struct{}{}
	}
}

func (c *Compiler) resumeRoutes(groups []*api.NextHopGroup, list []*api.Route) {
	t := &c.routes.table
	byNumber := map[uint32]*thing[*group]{}
	t.things.pool = takenBy(groups)
	for _, g := range groups {
		value := &group{kind: g.GetKind(), hops: g.GetHops()}
		byNumber[g.GetId()] = t.things.resume(value.content(), value, g.GetId())
	}
	for _, r := range list {
		address, _ := netip.AddrFromSlice(r.GetPrefix())
		if to := byNumber[r.GetGroup()]; to != nil {
			t.former[netip.PrefixFrom(address, int(r.GetBits()))] = to
		}
	}
}

func (c *Compiler) resumeIdentities(list []*api.Identity) {
	c.identities.things.pool = takenBy(list)
	for _, id := range list {
		value := &api.Identity{
			Kind: id.GetKind(), Namespace: id.GetNamespace(), Labels: id.GetLabels(), NamespaceLabels: id.GetNamespaceLabels(),
			NamedPorts: id.GetNamedPorts(),
		}
		c.identities.things.resume(identityContent(value), value, id.GetId())
	}
}

// takenBy returns a pool that has given out the numbers of what is in the list.
func takenBy[T interface{ GetId() uint32 }](list []T) pool {
	numbers := make([]uint32, len(list))
	for i, one := range list {
		numbers[i] = one.GetId()
	}
	return taken(numbers)
}
