// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
)

var kinds = map[api.NextHopGroup_Kind]route.Kind{
	api.NextHopGroup_KIND_FORWARD:     route.Forward,
	api.NextHopGroup_KIND_BLACKHOLE:   route.Blackhole,
	api.NextHopGroup_KIND_UNREACHABLE: route.Unreachable,
	api.NextHopGroup_KIND_PROHIBIT:    route.Prohibit,
}

// buildGroups makes the groups. One that is as it was is prev's; one that changed keeps its flows where it can.
func (b *build) buildGroups(configs []*api.NextHopGroup) error {
	for i, cfg := range configs {
		if _, err := b.buildGroup(fmt.Sprintf("groups[%d]", i), cfg); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) buildGroup(field string, cfg *api.NextHopGroup) (*group, error) {
	if cfg.GetId() == 0 {
		return nil, b.invalid(cfg.GetOrigin(), field+".id", "is 0")
	}
	kind, hops, err := b.buildHops(field, cfg)
	if err != nil {
		return nil, err
	}
	g := &group{config: cfg, group: b.sameGroup(cfg.Id, kind, hops)}
	b.groups.Set(cfg.Id, g)
	return g, nil
}

// sameGroup returns prev's group where it is the same, else one that was made of it. The pins become the group's.
func (b *build) sameGroup(id uint32, kind route.Kind, hops []route.Hop) *route.Group {
	pins := b.pins
	b.pins = nil
	var was *route.Group
	if b.prev != nil {
		if g, ok := b.prev.groups.Get(id); ok {
			was = g.group
		}
	}
	if was != nil && was.Kind == kind && slices.Equal(was.Hops(), hops) {
		unpin(b.t.Neighbors, pins) // it has its own
		return was
	}
	g := route.NewGroup(kind, hops, was)
	b.made = append(b.made, pinned{g, pins})
	return g
}

func (b *build) buildHops(field string, cfg *api.NextHopGroup) (route.Kind, []route.Hop, error) {
	kind, known := kinds[cfg.Kind]
	switch {
	case !known:
		return 0, nil, b.invalid(cfg.Origin, field+".kind", "%d is not known", cfg.Kind)
	case kind != route.Forward && len(cfg.Hops) > 0:
		return 0, nil, b.invalid(cfg.Origin, field+".hops", "a group of kind %s has none", kind)
	case kind == route.Forward && (len(cfg.Hops) == 0 || len(cfg.Hops) > route.MaxHops):
		return 0, nil, b.invalid(cfg.Origin, field+".hops", "%d are not from 1 to %d", len(cfg.Hops), route.MaxHops)
	}
	var hops []route.Hop
	seen := make(map[packet.PortID]map[packet.Addr]bool)
	for i, h := range cfg.Hops {
		hop, part, reason := b.buildHop(h)
		if reason == "" && seen[hop.Port][hop.Via] {
			part, reason = "via", "is there twice"
		}
		if reason != "" {
			return 0, nil, b.invalid(cfg.Origin, fmt.Sprintf("%s.hops[%d].%s", field, i, part), "%s", reason)
		}
		if seen[hop.Port] == nil {
			seen[hop.Port] = make(map[packet.Addr]bool)
		}
		seen[hop.Port][hop.Via] = true
		hops = append(hops, hop)
	}
	return kind, hops, nil
}

// buildHop makes one hop, or returns the part of it that is wrong and why. A weight that is not said is 1.
func (b *build) buildHop(cfg *api.NextHop) (hop route.Hop, part, reason string) {
	port := b.t.Port(packet.PortID(cfg.GetPort()))
	switch {
	case port == nil:
		return hop, "port", fmt.Sprintf("there is no port %d", cfg.GetPort())
	case cfg.GetWeight() > 65535:
		return hop, "weight", fmt.Sprintf("%d is not from 1 to 65535", cfg.GetWeight())
	case cfg.GetMtu() != 0 && (cfg.GetMtu() < minMTU || cfg.GetMtu() > maxMTU):
		return hop, "mtu", fmt.Sprintf("%d is not from %d to %d", cfg.GetMtu(), minMTU, maxMTU)
	}
	hop = route.Hop{Port: port.ID, MTU: port.MTU, Weight: uint16(max(cfg.GetWeight(), 1))}
	if mtu := int(cfg.GetMtu()); mtu != 0 && (mtu < hop.MTU || hop.MTU == 0) {
		hop.MTU = mtu
	}
	if len(cfg.GetVia()) == 0 {
		return hop, "", ""
	}
	via := address(cfg.GetVia())
	if !via.IsValid() {
		return hop, "via", "is not an IPv4 or IPv6 address"
	}
	if reason := b.notNeighbor(port, via); reason != "" {
		return hop, "via", reason
	}
	hop.Via = packet.AddrFrom(via)
	hop.Neighbor = b.t.Neighbors.Pin(port.ID, hop.Via)
	b.pins = append(b.pins, hop.Neighbor)
	return hop, "", ""
}
