// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// routes are destinations, which lead to groups of next hops.
//
// A group keeps its number for as long as a route leads to it. When its last route has gone elsewhere, the group that
// the first such route (by destination) went to inherits the number, unless it has one: it is the same group with
// other hops, and flows whose hop stays, stay on it.
type routes struct {
	table[netip.Prefix, *group]
	labels map[string]string // this node's
}

// group is what routes lead to.
type group struct {
	kind api.NextHopGroup_Kind
	hops []*api.NextHop // ordered
	// first is the first destination that leads here: the group's origin is its. When stale it has left, and the first
	// of the others has to be looked for.
	first netip.Prefix
	stale bool
	said  uint32 // the origin that the snapshot has
}

func newRoutes() routes {
	return routes{table: newTable(newClaims(comparePrefixes, routeLost))}
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// routeLost: a Route goes before a pod and before a node's pod CIDR, as is its purpose.
func routeLost(destination netip.Prefix, loser, winner *claim[*group]) *model.Error {
	field := ""
	switch first := winner.claimant.class; loser.claimant.class {
	case byObject:
		field = "spec.destination"
	case byPort:
		if first != byObject {
			field = "addresses"
		}
	case byNode:
		if first == byNode {
			field = "spec.podCIDRs"
		}
	}
	if field == "" {
		return nil
	}
	return refuse(loser.object, field, "%s is %s's already", destination, winner.object.Origin())
}

// compileRoutes enters the routes that changed, and their groups.
func (c *Compiler) compileRoutes(w *work) {
	r := &c.routes
	moves := r.decide(c, w, func(won *claim[*group]) (string, *group, bool) {
		if won.value == nil {
			return "", nil, false
		}
		return won.value.content(), &group{kind: won.value.kind, hops: won.value.hops}, true
	})
	r.inherit(moves)
	r.enter(moves, func(destination netip.Prefix, e entry[*group]) {
		w.delta.Set.Routes = append(w.delta.Set.Routes, &api.Route{
			Prefix: destination.Addr().AsSlice(), Bits: uint32(destination.Bits()), Group: e.number, Origin: e.origin,
		})
	}, func(destination netip.Prefix) {
		w.delta.RemovedRoutes = append(w.delta.RemovedRoutes, prefixOf(destination))
	})
	r.first(moves)
	r.things.settle(func(t *thing[*group]) {
		if origin := r.inForce[t.value.first].origin; !t.said || t.value.said != origin {
			t.said, t.value.said = true, origin
			w.delta.Set.Groups = append(w.delta.Set.Groups, &api.NextHopGroup{
				Id: t.number, Kind: t.value.kind, Hops: t.value.hops, Origin: origin,
			})
		}
	}, func(number uint32) { w.delta.RemovedGroups = append(w.delta.RemovedGroups, number) })
}

// first finds the first destination of groups that routes came to or left.
func (r *routes) first(moves []move[netip.Prefix, *group]) {
	stale := false
	for _, m := range moves {
		if m.from.thing == m.to.thing {
			continue
		}
		if from := m.from.thing; from != nil && from.value.first == m.key {
			from.value.stale = true
			stale = stale || from.refs > 0
		}
		if to := m.to.thing; to != nil && (!to.value.first.IsValid() || comparePrefixes(m.key, to.value.first) < 0) {
			to.value.first, to.value.stale = m.key, false
		}
	}
	if !stale {
		return
	}
	for destination, e := range r.inForce {
		g := e.thing.value
		if g.stale && (!r.leads(g.first, e.thing) || comparePrefixes(destination, g.first) < 0) {
			g.first = destination
		}
	}
	for _, m := range moves {
		if m.from.thing != nil {
			m.from.thing.value.stale = false
		}
	}
}

func (r *routes) leads(destination netip.Prefix, to *thing[*group]) bool {
	return r.inForce[destination].thing == to
}

// content is equal for equal groups.
func (g *group) content() string {
	key := []byte{byte(g.kind)}
	for _, h := range g.hops {
		key = binary.BigEndian.AppendUint32(key, h.Port)
		key = binary.BigEndian.AppendUint32(key, h.Weight)
		key = binary.BigEndian.AppendUint32(key, h.Mtu)
		key = append(append(key, byte(len(h.Via))), h.Via...)
	}
	return string(key)
}
