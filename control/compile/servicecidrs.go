// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// serviceCIDRs are where services have their addresses, and the objects that say so, in order.
type serviceCIDRs []serviceCIDR

type serviceCIDR struct {
	prefix netip.Prefix
	object *model.Object
}

func (s serviceCIDRs) contain(a netip.Addr) bool {
	return slices.ContainsFunc(s, func(one serviceCIDR) bool { return one.prefix.Contains(a) })
}

// serviceCIDRs are those that the node's NodeConfig says, or else all ServiceCIDR objects.
func (c *Compiler) serviceCIDRs() (list serviceCIDRs) {
	for _, p := range c.self.config.ServiceCIDRs {
		list = append(list, serviceCIDR{p, c.self.object})
	}
	if len(list) > 0 {
		return list
	}
	for _, key := range slices.SortedFunc(maps.Keys(c.objects["ServiceCIDR"]), model.Key.Compare) {
		o := c.Object(key)
		for _, p := range o.Spec.(*model.ServiceCIDR).Prefixes {
			list = append(list, serviceCIDR{p, o})
		}
	}
	return list
}

// claimServiceCIDRs has the host's stack lead to them by the dataplane, and says whether they changed.
func (c *Compiler) claimServiceCIDRs(w *work) (changed bool) {
	if !w.whole && len(w.changed["ServiceCIDR"]) == 0 {
		return false
	}
	s := &c.services
	for _, one := range s.cidrs {
		c.hostRoutes.withdraw(claimant{byService, one.object.Key})
	}
	is := c.serviceCIDRs()
	changed = !slices.EqualFunc(s.cidrs, is, func(a, b serviceCIDR) bool { return a.prefix == b.prefix })
	s.cidrs = is
	for _, one := range s.cidrs {
		if c.self.pods {
			c.hostRoutes.add(one.prefix, &claim[hostWay]{
				claimant: claimant{byService, one.object.Key}, object: one.object, value: hostWay{service: true}})
		}
	}
	return changed
}

// cluster is the addresses and the pod CIDRs of all nodes, in no order.
func (c *Compiler) cluster() (nodes []netip.Addr, pods []netip.Prefix) {
	names := map[string]bool{c.self.name: true}
	for key, o := range c.objects["Node"] {
		names[key.Name] = true
		nodes = append(nodes, o.Spec.(*model.Node).Addresses...)
	}
	for name := range names {
		_, cidrs := c.podCIDRs(&c.self, name)
		pods = append(pods, cidrs...)
	}
	return nodes, pods
}

// unmasqueraded are the destinations to which pods keep their addresses: what is of the cluster, its nodes, pods and
// services, and what the NodeConfig says. Prefixes that are one, or inside another, are one.
func (c *Compiler) unmasqueraded() (list []*api.Prefix) {
	var b netipx.IPSetBuilder
	nodes, pods := c.cluster()
	for _, a := range nodes {
		b.Add(a)
	}
	for _, p := range pods {
		b.AddPrefix(p)
	}
	for _, one := range c.serviceCIDRs() {
		b.AddPrefix(one.prefix)
	}
	for _, p := range c.self.config.NoMasquerade {
		b.AddPrefix(p)
	}
	set, err := b.IPSet()
	if err != nil { // of prefixes and addresses that are not valid, of which there are none
		return nil
	}
	for _, p := range set.Prefixes() {
		list = append(list, prefixOf(p))
	}
	return list
}
