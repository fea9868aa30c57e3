// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// A wire is a port whose device has sockets of its own, and no station. Its XDP hook carries flows to other wires by
// redirecting, where the driver of the other device takes that, and leads flows to pods and to the host on.

// settleWires brings the hooks of wires, and how flows leave by them, to the devices that are open and to the tables in
// force.
func (f *Forwarder) settleWires() error {
	if f.carrier.table.Load() == nil {
		return nil
	}
	ports := make(map[string][]*tables.Port) // by device
	wanted := make(map[packet.PortID]offload.Egress)
	all := f.tables.Load().Ports
	for i := range all {
		p := &all[i]
		if p.ID == 0 || p.Trunk || p.Station.Only() || !p.Present || f.devices[p.Device] == nil {
			continue
		}
		ports[p.Device] = append(ports[p.Device], p)
		wanted[p.ID] = offload.Egress{Kind: offload.Wire, IfIndex: p.IfIndex, MAC: p.MAC, VLANs: p.VLANs}
	}
	for id := range f.carrier.wires {
		if _, is := wanted[id]; !is {
			f.setWire(id, offload.Egress{})
		}
	}
	for id, e := range wanted {
		f.setWire(id, e)
	}
	var err error
	why := make(map[string]string) // by subject
	for name, list := range ports {
		err = errors.Join(err, f.settleWire(f.devices[name], list, slices.Sorted(maps.Keys(ports)), why))
	}
	for name := range ports {
		f.sayOffload(offloadFrom+name, why[offloadFrom+name])
		f.sayOffload(offloadTo+name, why[offloadTo+name])
	}
	return err
}

func (f *Forwarder) setWire(id packet.PortID, e offload.Egress) {
	if err := f.carrier.table.Load().SetEgress(id, e); err != nil {
		f.log.Warn("flows to a port go through userspace", zap.String("port", f.lastName(id)), zap.Error(err))
	}
	f.carrier.wires[id] = e
	if e.Kind == offload.None {
		delete(f.carrier.wires, id)
	}
}

// cutWires has no flow leave by a device that is about to close.
func (f *Forwarder) cutWires(name string) {
	if f.carrier.table.Load() == nil {
		return
	}
	all := f.tables.Load().Ports
	for i := range all {
		if _, is := f.carrier.wires[all[i].ID]; is && all[i].Device == name {
			f.setWire(all[i].ID, offload.Egress{})
		}
	}
	delete(f.uncarried, offloadFrom+name)
	delete(f.uncarried, offloadTo+name)
}

// offloadFrom and offloadTo begin the subjects of what keeps flows that come or leave by a device in userspace.
const (
	offloadFrom = "offload from device "
	offloadTo   = "offload to device "
)

// settleWire tells a device's hook of its ports, and of the devices to which it can redirect. It notes why it cannot.
func (f *Forwarder) settleWire(d *device, ports []*tables.Port, others []string, why map[string]string) error {
	c := xdpprog.CarriedFrom{MAC: d.link.mac, Ports: make(map[xdpprog.VLANs]uint32)}
	for _, p := range ports {
		c.Ports[xdpprog.VLANs(p.VLANs)] = uint32(p.ID)
	}
	for _, name := range others {
		reason := redirects(d, f.devices[name])
		if reason == "" {
			c.Wires = append(c.Wires, f.devices[name].link.ifindex)
		} else if name != d.name { // of a router on a stick nothing is said
			why[offloadTo+name] = reason
		}
	}
	if err := d.hook.LeadsOn(); err != nil && f.trunk.hooks != nil {
		why[offloadFrom+d.name] = "flows to pods and the host go through userspace: " + err.Error()
	}
	return d.hook.SetCarried(c)
}

// sayOffload says what keeps flows in userspace, where they are to be carried at all.
func (f *Forwarder) sayOffload(subject, why string) {
	if why == "" || !f.snapshot.GetNode().GetOffload() {
		delete(f.uncarried, subject)
		return
	}
	if f.uncarried[subject] != why {
		f.log.Info("not carried by the kernel", zap.String("subject", subject), zap.String("why", why))
	}
	f.uncarried[subject] = why
}

// onePage is the MTU, in bytes, up to which frames lie in one page, with the room that XDP and the kernel want.
const onePage = 3498

// redirects says why the hook of one device cannot redirect frames out of another; empty: it can. Generic hooks hand
// the kernel's own packets to any device.
func redirects(from, to *device) string {
	if from.mode == xdpprog.Generic.String() {
		return ""
	}
	frames, fragments, err := xdpprog.TakesRedirected(to.link.ifindex)
	switch {
	case err != nil:
		return "flows from other devices go through userspace: " + err.Error()
	case !frames:
		return "flows from other devices go through userspace: its driver does not transmit what XDP redirects " +
			"(a veth does while XDP or GRO is on at its other end)"
	case !fragments && from.link.mtu > onePage:
		return "flows from device " + from.name + " go through userspace: the driver transmits no fragments of XDP's"
	}
	return ""
}
