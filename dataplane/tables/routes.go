// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
)

// wish is a route that the tables are to have.
type wish struct {
	prefix netip.Prefix
	group  *route.Group
	origin uint32
	to     *group // that the route names; nil for what follows from the ports
}

// own is a route that follows from the ports' addresses. Connected subnets give way to a route of the snapshot with
// the same prefix; our addresses and the broadcast addresses do not.
type own struct {
	wish
	connected bool
}

func (b *build) buildRoutes() error {
	wishes, err := b.wishes()
	if err != nil {
		return err
	}
	owns, err := b.ownRoutes()
	if err != nil {
		return err
	}
	var beside []wish // of owns, those whose prefix is no route's
	for prefix, o := range owns {
		i, found := slices.BinarySearchFunc(wishes, prefix, wish.compare)
		switch {
		case !found:
			beside = append(beside, o.wish)
		case !o.connected:
			wishes[i].group, wishes[i].origin = o.group, o.origin
		}
	}
	b.t.owns = owns
	b.t.FIB = b.merge(wishes, beside)
	return nil
}

// compare orders wishes as bart and the snapshot do: by family, address and length.
func (w wish) compare(p netip.Prefix) int {
	return cmp.Or(w.prefix.Addr().Compare(p.Addr()), cmp.Compare(w.prefix.Bits(), p.Bits()))
}

// wishes checks the snapshot's routes and returns them in order.
func (b *build) wishes() ([]wish, error) {
	routes := b.snap.GetRoutes()
	wishes := make([]wish, 0, len(routes))
	for i, r := range routes {
		w, part, reason := b.wish(r)
		if reason != "" {
			return nil, b.invalid(r.GetOrigin(), fmt.Sprintf("routes[%d].%s", i, part), "%s", reason)
		}
		w.to.routes++
		wishes = append(wishes, w)
	}
	return wishes, nil
}

// wish reads one route, or returns the part of it that is wrong and why.
func (b *build) wish(r *api.Route) (w wish, part, reason string) {
	a := address(r.GetPrefix())
	if !a.IsValid() {
		return w, "prefix", "is not an IPv4 or IPv6 address"
	}
	if r.GetBits() > uint32(a.BitLen()) {
		return w, "bits", fmt.Sprintf("%d are more than the address has", r.GetBits())
	}
	prefix := netip.PrefixFrom(a, int(r.GetBits()))
	g, known := b.groups.Get(r.GetGroup())
	switch {
	case prefix.Masked() != prefix:
		return w, "prefix", fmt.Sprintf("%s has bits set behind its length", prefix)
	case a.IsMulticast():
		return w, "prefix", fmt.Sprintf("%s is multicast, which is not forwarded", prefix)
	case linkLocal(prefix):
		return w, "prefix", fmt.Sprintf("%s is link-local, which is not forwarded", prefix)
	case !known:
		return w, "group", fmt.Sprintf("there is no group %d", r.GetGroup())
	}
	return wish{prefix, g.group, r.GetOrigin(), g}, "", ""
}

// prefixOf is the prefix of a route that is valid.
func prefixOf(r *api.Route) netip.Prefix {
	return netip.PrefixFrom(address(r.GetPrefix()), int(r.GetBits()))
}

// ownRoutes returns what follows from the ports' addresses: the addresses themselves, their subnets, and the subnets'
// broadcast addresses.
func (b *build) ownRoutes() (map[netip.Prefix]own, error) {
	owns := make(map[netip.Prefix]own)
	broadcast := b.ownGroup(route.Broadcast, nil)
	for i, cfg := range b.snap.GetPorts() {
		port := b.t.Ports[cfg.Id]
		onLink := b.ownGroup(route.Forward, &port)
		for j, p := range port.Prefixes {
			if !routable(p.Addr()) || p.IsSingleIP() {
				continue
			}
			subnet := p.Masked()
			if other, taken := owns[subnet]; taken && other.group != onLink {
				return nil, b.invalid(cfg.Origin, fmt.Sprintf("ports[%d].addresses[%d]", i, j),
					"subnet %s is on port %s as well", subnet, b.t.Port(other.group.Hops()[0].Port).Name)
			}
			owns[subnet] = own{wish{prefix: subnet, group: onLink, origin: cfg.Origin}, true}
		}
	}
	for _, cfg := range b.snap.GetPorts() { // above, none of these may hide a subnet
		port := b.t.Ports[cfg.Id]
		for _, p := range port.Prefixes {
			if zeros, ones, ok := broadcasts(p); ok && routable(p.Addr()) {
				b.setHost(owns, zeros, broadcast, cfg.Origin)
				b.setHost(owns, ones, broadcast, cfg.Origin)
			}
		}
	}
	for _, cfg := range b.snap.GetPorts() { // last: ours goes before a broadcast of a subnet that overlaps
		port := b.t.Ports[cfg.Id]
		local := b.ownGroup(route.Local, &port)
		for _, p := range port.Prefixes {
			if routable(p.Addr()) {
				b.setHost(owns, p.Addr(), local, cfg.Origin)
			}
		}
	}
	return owns, nil
}

func (b *build) setHost(owns map[netip.Prefix]own, a netip.Addr, g *route.Group, origin uint32) {
	p := netip.PrefixFrom(a, a.BitLen())
	owns[p] = own{wish: wish{prefix: p, group: g, origin: origin}}
}

// linkLocal says whether all of p is link-local (RFC 3927, RFC 4291 2.5.6).
func linkLocal(p netip.Prefix) bool {
	bits := 10
	if p.Addr().Is4() {
		bits = 16
	}
	return p.Addr().IsLinkLocalUnicast() && p.Bits() >= bits
}

// ownKey names a group that follows from a port, or, with no port, from none.
type ownKey struct {
	kind route.Kind
	port packet.PortID
}

// ownGroup returns the group for a port's own routes, the same one for all of them; prev's when it has not changed.
func (b *build) ownGroup(kind route.Kind, port *Port) *route.Group {
	key, hops := ownKey{kind: kind}, []route.Hop(nil)
	if port != nil {
		key.port, hops = port.ID, []route.Hop{{Port: port.ID, MTU: port.MTU, Weight: 1}}
	}
	if g := b.t.own[key]; g != nil {
		return g
	}
	var was *route.Group
	if b.prev != nil {
		was = b.prev.own[key]
	}
	if was == nil || !slices.Equal(was.Hops(), hops) {
		was = route.NewGroup(kind, hops, nil)
	}
	if b.t.own == nil {
		b.t.own = make(map[ownKey]*route.Group)
	}
	b.t.own[key] = was
	return was
}

// merge makes the FIB: from prev's by its differences, or anew when there is none or little in common.
func (b *build) merge(wishes, beside []wish) *route.FIB {
	total := len(wishes) + len(beside)
	if b.prev == nil {
		return bulk(wishes, beside)
	}
	edit := b.prev.FIB.Edit()
	b.replaceGroups(edit)
	var changed []wish
	for _, w := range wishes {
		if !w.in(edit) {
			changed = append(changed, w)
		}
	}
	if len(changed) > total/4 || edit.Size() > 2*total { // a copy on each write costs several times an insertion
		return bulk(wishes, beside)
	}
	for _, w := range changed {
		edit.Set(w.prefix, w.group, w.origin)
	}
	for _, o := range beside {
		if !o.in(edit) {
			edit.Set(o.prefix, o.group, o.origin)
		}
	}
	if edit.Size() > total {
		deleteOthers(edit, b.prev.FIB, wishes, b.t.owns)
	}
	return edit.Build()
}

func (w wish) in(edit *route.Builder) bool {
	r, ok := edit.Get(w.prefix)
	return ok && r.Group == w.group && r.Origin == w.origin
}

// replaceGroups puts groups in the place of their earlier versions.
func (b *build) replaceGroups(edit *route.Builder) {
	with := make(map[*route.Group]*route.Group)
	for id, was := range b.prev.groups.All() {
		if is, ok := b.groups.Get(id); ok && is.group != was.group {
			with[was.group] = is.group
		}
	}
	for key, was := range b.prev.own {
		if is, ok := b.t.own[key]; ok && is != was {
			with[was] = is
		}
	}
	edit.Replace(with)
}

// deleteOthers deletes the routes of was that are not wished for, walking both in order.
func deleteOthers(edit *route.Builder, was *route.FIB, wishes []wish, owns map[netip.Prefix]own) {
	for r := range was.All() {
		for len(wishes) > 0 && wishes[0].compare(r.Prefix) < 0 {
			wishes = wishes[1:]
		}
		if len(wishes) > 0 && wishes[0].prefix == r.Prefix {
			continue
		}
		if _, wanted := owns[r.Prefix]; !wanted {
			edit.Delete(r.Prefix)
		}
	}
}

func bulk(wishes, beside []wish) *route.FIB {
	b := route.NewBuilder()
	for _, w := range wishes {
		b.Set(w.prefix, w.group, w.origin)
	}
	for _, o := range beside {
		b.Set(o.prefix, o.group, o.origin)
	}
	return b.Build()
}
