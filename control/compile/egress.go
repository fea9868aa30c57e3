// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// compileEgress enters the addresses of namespaces towards what is outside the cluster, of those that changed, or where
// it may have become another node's to answer for them.
func (c *Compiler) compileEgress(w *work) {
	keys := w.changed["Namespace"]
	if w.whole || len(w.changed["Node"])+len(w.changed["NodeConfig"]) > 0 {
		c.wasAlone = c.alone()
		keys = slices.AppendSeq(slices.Clip(keys), maps.Keys(c.objects["Namespace"]))
	}
	keys = slices.SortedFunc(slices.Values(keys), model.Key.Compare) // origins are numbered so
	for _, key := range slices.Compact(keys) {
		was := c.egress[key.Name]
		delete(c.egress, key.Name)
		if o := c.Object(key); o != nil && c.hasEgress(o.Spec.(*model.Namespace)) {
			is := &api.Egress{Namespace: key.Name, Origin: c.origins.refer(o),
				Announced: c.announcesEgress(o.Spec.(*model.Namespace))}
			for _, a := range o.Spec.(*model.Namespace).Egress {
				is.Addresses = append(is.Addresses, a.AsSlice())
			}
			c.egress[key.Name] = is
			if was == nil || !proto.Equal(was, is) {
				w.delta.Set.Egress = append(w.delta.Set.Egress, is)
			}
		}
		if was == nil {
			continue
		}
		c.origins.forget(key)
		if c.egress[key.Name] == nil {
			w.delta.RemovedEgress = append(w.delta.RemovedEgress, key.Name)
		}
	}
}

// hasEgress says whether a namespace has addresses at this node.
func (c *Compiler) hasEgress(n *model.Namespace) bool {
	return len(n.Egress) > 0 && (n.EgressNode == "" || n.EgressNode == c.self.name)
}

// announcesEgress says whether the node says on its link that it has the addresses of a namespace that has some here:
// no other node would, and none is a node's own.
func (c *Compiler) announcesEgress(n *model.Namespace) bool {
	return c.announces() && (c.wasAlone || n.EgressNode != "") && !slices.ContainsFunc(n.Egress, c.services.guard.isNode)
}

// announces says whether the node may say on its uplink's link which addresses it has: in the other mode the host's
// stack does.
func (c *Compiler) announces() bool {
	u := c.self.config.Uplink
	return u != nil && u.Mode != "kernel"
}

// alone says whether no other node is known that could answer for an address of every node's.
func (c *Compiler) alone() bool {
	for key := range c.objects["Node"] {
		if key.Name != c.self.name {
			return false
		}
	}
	for key := range c.objects["NodeConfig"] {
		if key.Name != c.self.name && key.Name != everyone {
			return false
		}
	}
	return c.self.object.Key.Name == c.self.name || c.self.node != nil // everyone's NodeConfig may be many nodes'
}

// announce has the frontends of a service that its node is to announce say so: those of the kinds that the NodeConfig
// names, where a backend answers what comes here.
func (c *Compiler) announce(said *api.Service) {
	if !c.announces() {
		return
	}
	kinds := map[api.Frontend_Kind]string{
		api.Frontend_KIND_LOAD_BALANCER: model.AnnounceLoadBalancer, api.Frontend_KIND_EXTERNAL_IP: model.AnnounceExternalIP,
	}
	for i, f := range said.Frontends {
		a, is := netip.AddrFromSlice(f.Address)
		if !is || !slices.Contains(c.self.config.Uplink.Announce, kinds[f.Kind]) || c.services.guard.isNode(a) {
			continue
		}
		answers := (*api.Backend).GetCluster
		if f.LocalOnly {
			answers = (*api.Backend).GetLocal
		}
		if slices.ContainsFunc(said.Backends, answers) {
			said.Frontends[i] = proto.CloneOf(f) // that of the claim is what others see
			said.Frontends[i].Announced = true
		}
	}
}
