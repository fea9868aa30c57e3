// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/route"
)

// fewRoutes is as many as it is never worth while to make the FIB anew for.
const fewRoutes = 1000

// Updatable says whether Update can follow the delta. Where it cannot, or where it would cost more, Build is to be
// called with the snapshot that results: what depends on devices is everywhere in the tables.
func Updatable(prev *Tables, d *api.Delta) bool {
	set := d.GetSet()
	routes := len(set.GetRoutes()) + len(d.GetRemovedRoutes())
	return set.GetNode() == nil && prev.updatablePorts(d) &&
		len(set.GetNeighbors())+len(d.GetRemovedNeighbors()) == 0 &&
		(routes <= fewRoutes || routes <= prev.FIB.Size()/4)
}

// Update makes the tables of next, which is prev's snapshot with the delta applied, at the cost of what the delta
// touches: all of it, or none and an *InvalidError. Only what the delta names is looked at, and links is asked for the
// devices of ports in it alone. The delta is Updatable.
func Update(prev *Tables, next *api.Snapshot, d *api.Delta, links Links) (*Tables, error) {
	t := *prev
	t.Epoch, t.Origins, t.snap = next.GetEpoch(), next.GetOrigins(), next
	b := &build{snap: next, prev: prev, links: links, t: &t, groups: prev.groups.Edit()}
	defer b.abandon()
	if err := cmp.Or(b.contract(d.GetSet()), b.updatePorts(d), b.updateLimits(d)); err != nil {
		return nil, err
	}
	with, err := b.updateGroups(d.GetSet().GetGroups())
	if err != nil {
		return nil, err
	}
	if err := b.updateRoutes(d, with); err != nil {
		return nil, err
	}
	if err := cmp.Or(b.removeGroups(d.GetRemovedGroups()), b.leftPorts(d)); err != nil {
		return nil, err
	}
	if t.Identities, err = prev.Identities.Update(d); err != nil {
		return nil, b.invalidIdentity(err)
	}
	if err := cmp.Or(b.updatePolicies(d), b.updateServices(d)); err != nil {
		return nil, err
	}
	return b.commit(), nil
}

// updateGroups makes the groups that are set, and returns those that take the place of others.
func (b *build) updateGroups(configs []*api.NextHopGroup) (with map[*route.Group]*route.Group, err error) {
	with = make(map[*route.Group]*route.Group)
	for i, cfg := range configs {
		was, there := b.groups.Get(cfg.GetId())
		is, err := b.buildGroup(fmt.Sprintf("groups[%d]", i), cfg)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		if is.routes = was.routes; is.group != was.group {
			with[was.group] = is.group
		}
	}
	return with, nil
}

// updateRoutes makes the FIB: the same one where neither groups nor routes changed.
func (b *build) updateRoutes(d *api.Delta, with map[*route.Group]*route.Group) error {
	set, removed := d.GetSet().GetRoutes(), d.GetRemovedRoutes()
	if len(with)+len(set)+len(removed) == 0 {
		return nil
	}
	edit := b.prev.FIB.Edit()
	edit.Replace(with)
	for i, p := range removed {
		was, there := b.was(&api.Route{Prefix: p.GetAddress(), Bits: p.GetBits()})
		if !there {
			return b.invalid(0, fmt.Sprintf("removed_routes[%d]", i), "there is no such route")
		}
		b.leave(was)
		b.unset(edit, was)
	}
	for i, r := range set {
		w, part, reason := b.wish(r)
		if reason != "" {
			return b.invalid(r.GetOrigin(), fmt.Sprintf("routes[%d].%s", i, part), "%s", reason)
		}
		if was, there := b.was(r); there {
			b.leave(was)
		}
		b.count(r.GetGroup(), 1)
		if o, ours := b.t.owns[w.prefix]; !ours || o.connected {
			edit.Set(w.prefix, w.group, w.origin)
		}
	}
	b.t.FIB = edit.Build()
	return nil
}

// was returns the route with r's prefix in the snapshot before.
func (b *build) was(r *api.Route) (*api.Route, bool) {
	routes := b.prev.snap.GetRoutes()
	if i, found := slices.BinarySearchFunc(routes, r, compareRoutes); found {
		return routes[i], true
	}
	return nil, false
}

// unset takes a route out of the FIB. What it hid takes its place; what hid it stays.
func (b *build) unset(edit *route.Builder, was *api.Route) {
	p := prefixOf(was)
	switch o, ours := b.t.owns[p]; {
	case !ours:
		edit.Delete(p)
	case o.connected:
		edit.Set(p, o.group, o.origin)
	}
}

func (b *build) leave(r *api.Route) { b.count(r.GetGroup(), -1) }

// count counts the routes that lead to a group.
func (b *build) count(id uint32, by int) {
	was, there := b.groups.Get(id)
	if !there {
		return
	}
	is := *was
	is.routes += by
	b.groups.Set(id, &is)
}

func (b *build) removeGroups(ids []uint32) error {
	for i, id := range ids {
		field := fmt.Sprintf("removed_groups[%d]", i)
		switch g, there := b.groups.Get(id); {
		case !there:
			return b.invalid(0, field, "there is no group %d", id)
		case g.routes > 0:
			return b.invalid(g.config.GetOrigin(), field, "%d routes lead to group %d", g.routes, id)
		}
		b.groups.Delete(id)
	}
	return nil
}
