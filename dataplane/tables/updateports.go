// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// updatablePorts says whether the delta's ports are all at the trunk, and appear or vanish there: nothing but routes of
// the delta depends on such a port.
func (t *Tables) updatablePorts(d *api.Delta) bool {
	for _, cfg := range d.GetSet().GetPorts() {
		was := t.Port(packet.PortID(cfg.GetId()))
		if cfg.GetAttach() != api.Port_ATTACH_TRUNK ||
			was != nil && (!was.Trunk || was.Host || was.Device != cfg.GetDevice()) {
			return false
		}
	}
	for _, id := range d.GetRemovedPorts() {
		if was := t.Port(packet.PortID(id)); was == nil || !was.Trunk || was.Host {
			return false
		}
	}
	return true
}

// updatePorts makes the ports: prev's where none changed.
func (b *build) updatePorts(d *api.Delta) error {
	set, removed := d.GetSet().GetPorts(), d.GetRemovedPorts()
	if len(set)+len(removed) == 0 {
		return nil
	}
	top := len(b.t.Ports)
	for i, cfg := range set {
		if cfg.GetId() == 0 || cfg.GetId() >= maxPorts {
			return b.invalid(cfg.GetOrigin(), fmt.Sprintf("ports[%d].id", i), "%d is not from 1 to %d", cfg.GetId(),
				maxPorts-1)
		}
		top = max(top, int(cfg.GetId())+1)
	}
	b.t.Ports = slices.Clone(b.t.Ports)
	b.t.Ports = append(b.t.Ports, make([]Port, top-len(b.t.Ports))...)
	b.t.byName, b.t.demux = maps.Clone(b.t.byName), slices.Clone(b.t.demux)
	for _, id := range removed {
		b.forgetPort(packet.PortID(id))
	}
	for _, cfg := range set { // before any is entered: names may have changed hands
		b.forgetPort(packet.PortID(cfg.GetId()))
	}
	for i, cfg := range set {
		if err := b.buildTrunked(fmt.Sprintf("ports[%d]", i), cfg); err != nil {
			return err
		}
		if p := &b.t.Ports[cfg.GetId()]; b.prev.Port(p.ID) != nil {
			p.Limit = b.prev.Port(p.ID).Limit
		}
	}
	return nil
}

func (b *build) forgetPort(id packet.PortID) {
	if was := b.t.Port(id); was != nil {
		delete(b.t.byName, was.Name)
		b.t.Ports[id] = Port{}
	}
}

// updateLimits gives ports the limits that the delta sets, and takes those away that it removes.
func (b *build) updateLimits(d *api.Delta) error {
	set, removed := d.GetSet().GetLimits(), d.GetRemovedLimits()
	if len(set)+len(removed) == 0 {
		return nil
	}
	b.t.Ports = slices.Clone(b.t.Ports)
	for _, id := range removed {
		if p := b.t.Port(packet.PortID(id)); p != nil {
			p.Limit = nil
		}
	}
	for i, cfg := range set {
		if err := b.buildLimit(fmt.Sprintf("limits[%d]", i), cfg); err != nil {
			return err
		}
	}
	return nil
}

// leftPorts refuses a delta that removes a port to which groups or limits lead that it leaves.
func (b *build) leftPorts(d *api.Delta) error {
	gone := make(map[uint32]bool)
	for _, id := range d.GetRemovedPorts() {
		gone[id] = true
	}
	if len(gone) == 0 {
		return nil
	}
	for i, l := range b.snap.GetLimits() {
		if gone[l.GetPort()] {
			return b.invalid(l.GetOrigin(), fmt.Sprintf("limits[%d].port", i), "there is no port %d", l.GetPort())
		}
	}
	for i, g := range b.snap.GetGroups() {
		for j, h := range g.GetHops() {
			if gone[h.GetPort()] {
				return b.invalid(
					g.GetOrigin(),
					fmt.Sprintf("groups[%d].hops[%d].port", i, j),
					"there is no port %d",
					h.GetPort(),
				)
			}
		}
	}
	return nil
}
