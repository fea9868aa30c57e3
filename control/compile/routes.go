// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

var groupKinds = map[string]api.NextHopGroup_Kind{
	"forward":     api.NextHopGroup_KIND_FORWARD,
	"blackhole":   api.NextHopGroup_KIND_BLACKHOLE,
	"unreachable": api.NextHopGroup_KIND_UNREACHABLE,
	"prohibit":    api.NextHopGroup_KIND_PROHIBIT,
}

// claimRoutes has Route objects that are for this node claim their destinations.
func (c *Compiler) claimRoutes(w *work) {
	if w.whole {
		c.routes.labels = c.self.labels()
	}
	for _, key := range c.keys(w, "Route") {
		who := claimant{byObject, key}
		c.routes.withdraw(who)
		w.look(key)
		o := c.Object(key)
		if o == nil {
			continue
		}
		if r := o.Spec.(*model.Route); c.selects(r) {
			made := &claim[*group]{claimant: who, object: o}
			made.value, made.err = c.resolve(o, r)
			c.routes.add(r.Destination, made)
		}
	}
}

func (c *Compiler) selects(r *model.Route) bool {
	if r.Node != "" && r.Node != c.self.name {
		return false
	}
	for k, v := range r.NodeSelector {
		if have, ok := c.routes.labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// resolve finds the ports of a route's next hops. Hops that are equal become one with the sum of their weights; one
// cannot have two MTUs.
func (c *Compiler) resolve(o *model.Object, r *model.Route) (*group, *model.Error) {
	g := &group{kind: groupKinds[r.Type]}
	for i, h := range r.NextHops {
		port, reason := c.portOf(h)
		if reason != "" {
			return nil, refuse(o, fmt.Sprintf("spec.nextHops[%d]", i), "%s", reason)
		}
		hop := &api.NextHop{Port: c.ports.number(port.Name), Weight: h.Weight, Mtu: h.MTU}
		if h.Via.IsValid() {
			hop.Via = h.Via.AsSlice()
		}
		at, there := slices.BinarySearchFunc(g.hops, hop, compareHops)
		if there && g.hops[at].Mtu != hop.Mtu {
			return nil, refuse(o, fmt.Sprintf("spec.nextHops[%d].mtu", i), "the same next hop twice with different MTUs")
		}
		if there {
			g.hops[at].Weight = min(g.hops[at].Weight+hop.Weight, 65535)
			continue
		}
		g.hops = slices.Insert(g.hops, at, hop)
	}
	return g, nil
}

func compareHops(a, b *api.NextHop) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(len(a.Via), len(b.Via)), slices.Compare(a.Via, b.Via))
}

// portOf finds a next hop's port: the one it names, or the one in whose smallest subnet it lies.
func (c *Compiler) portOf(h model.NextHop) (port *model.Port, reason string) {
	if h.Port == "" {
		port = c.portWith(h.Via)
		if port == nil {
			return nil, fmt.Sprintf("%s is in no port's subnet", h.Via)
		}
		return port, port.NotNeighbor(h.Via)
	}
	list := c.self.config.Ports
	i := slices.IndexFunc(list, func(p model.Port) bool { return p.Name == h.Port })
	if i < 0 {
		return nil, fmt.Sprintf("there is no port %q", h.Port)
	}
	if h.Via.IsValid() {
		reason = list[i].NotNeighbor(h.Via)
	}
	return &list[i], reason
}

// portWith finds the port in whose smallest subnet the address lies, nil when there is none.
func (c *Compiler) portWith(address netip.Addr) (port *model.Port) {
	bits := -1
	for i := range c.self.config.Ports {
		p := &c.self.config.Ports[i]
		for _, a := range p.Addresses {
			if a.Contains(address) && a.Bits() > bits {
				port, bits = p, a.Bits()
			}
		}
	}
	return port
}
