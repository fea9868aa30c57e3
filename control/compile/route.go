// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"encoding/binary"
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

// resolved is a route whose next hops are known.
type resolved struct {
	destination netip.Prefix
	object      *model.Object
	group       *api.NextHopGroup // without an id yet
	content     string            // equal for equal groups
}

// routes resolves the node's routes, ordered by destination. Of two with one destination the first by name stays.
func (c *compiler) routes() []resolved {
	ports := make(map[string]*model.Port, len(c.config.Ports))
	for i := range c.config.Ports {
		ports[c.config.Ports[i].Name] = &c.config.Ports[i]
	}
	labels := c.labels()
	taken := map[netip.Prefix]*model.Object{}
	var list []resolved
	for _, o := range c.state.of("Route") {
		r := o.Spec.(*model.Route)
		if !c.selects(r, labels) {
			continue
		}
		if first := taken[r.Destination]; first != nil {
			c.refuse(o, "spec.destination", "%s is %s's already", r.Destination, first.Origin())
			continue
		}
		group, ok := c.resolve(o, r, ports)
		if !ok {
			continue
		}
		taken[r.Destination] = o
		list = append(list, resolved{r.Destination, o, group, content(group)})
	}
	slices.SortFunc(list, func(a, b resolved) int {
		return cmp.Or(a.destination.Addr().Compare(b.destination.Addr()),
			cmp.Compare(a.destination.Bits(), b.destination.Bits()))
	})
	return list
}

// labels are the node's: its Node object's, and over them its NodeConfig's.
func (c *compiler) labels() map[string]string {
	labels := map[string]string{}
	if node := c.state.get(model.Key{Kind: "Node", Name: c.object.Key.Name}); node != nil {
		for k, v := range node.Labels {
			labels[k] = v
		}
	}
	for k, v := range c.object.Labels {
		labels[k] = v
	}
	return labels
}

func (c *compiler) selects(r *model.Route, labels map[string]string) bool {
	if r.Node != "" && r.Node != c.object.Key.Name {
		return false
	}
	for k, v := range r.NodeSelector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// resolve finds the ports of a route's next hops. Hops that are equal become one with the sum of their weights.
func (c *compiler) resolve(o *model.Object, r *model.Route, ports map[string]*model.Port) (*api.NextHopGroup, bool) {
	group := &api.NextHopGroup{Kind: groupKinds[r.Type]}
	for i, h := range r.NextHops {
		port, reason := c.portOf(h, ports)
		if reason != "" {
			c.refuse(o, fmt.Sprintf("spec.nextHops[%d]", i), "%s", reason)
			return nil, false
		}
		hop := &api.NextHop{Port: c.out.ports[port.Name], Weight: h.Weight, Mtu: h.MTU}
		if h.Via.IsValid() {
			hop.Via = h.Via.AsSlice()
		}
		at, there := slices.BinarySearchFunc(group.Hops, hop, compareHops)
		if there {
			group.Hops[at].Weight = min(group.Hops[at].Weight+hop.Weight, 65535)
			continue
		}
		group.Hops = slices.Insert(group.Hops, at, hop)
	}
	return group, true
}

func compareHops(a, b *api.NextHop) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(len(a.Via), len(b.Via)), slices.Compare(a.Via, b.Via))
}

// portOf finds a next hop's port: the one it names, or the one in whose smallest subnet it lies.
func (c *compiler) portOf(h model.NextHop, ports map[string]*model.Port) (port *model.Port, reason string) {
	if h.Port != "" {
		if port = ports[h.Port]; port == nil {
			return nil, fmt.Sprintf("there is no port %q", h.Port)
		}
	} else {
		bits := -1
		for i := range c.config.Ports {
			for _, a := range c.config.Ports[i].Addresses {
				if a.Contains(h.Via) && a.Bits() > bits {
					port, bits = &c.config.Ports[i], a.Bits()
				}
			}
		}
		if port == nil {
			return nil, fmt.Sprintf("%s is in no port's subnet", h.Via)
		}
	}
	if h.Via.IsValid() {
		return port, port.NotNeighbor(h.Via)
	}
	return port, ""
}

// content is a group's key for equality; the hops are in order.
func content(g *api.NextHopGroup) string {
	key := []byte{byte(g.Kind)}
	for _, h := range g.Hops {
		key = binary.BigEndian.AppendUint32(key, h.Port)
		key = binary.BigEndian.AppendUint32(key, h.Weight)
		key = binary.BigEndian.AppendUint32(key, h.Mtu)
		key = append(append(key, byte(len(h.Via))), h.Via...)
	}
	return string(key)
}

// groups numbers the routes' groups and enters both.
func (c *compiler) groups(previous numbers, routes []resolved) {
	c.out.number(previous, routes)
	entered := make(map[uint32]bool, len(c.out.groups))
	c.snap.Routes = make([]*api.Route, 0, len(routes))
	for _, r := range routes {
		id := c.out.groups[r.content]
		origin := c.origin(r.object)
		if !entered[id] {
			entered[id] = true
			r.group.Id, r.group.Origin = id, origin
			c.snap.Groups = append(c.snap.Groups, r.group)
		}
		c.snap.Routes = append(c.snap.Routes, &api.Route{
			Prefix: r.destination.Addr().AsSlice(), Bits: uint32(r.destination.Bits()), Group: id, Origin: origin,
		})
	}
	slices.SortFunc(c.snap.Groups, func(a, b *api.NextHopGroup) int { return cmp.Compare(a.Id, b.Id) })
}
