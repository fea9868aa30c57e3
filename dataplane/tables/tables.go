// SPDX-License-Identifier: Apache-2.0

// Package tables is what the workers decide by: one immutable value, built aside from a snapshot and the state of the
// network devices, and swapped in by one atomic pointer.
//
// Files: tables.go (what the pipeline asks), port.go (a port's addresses), build.go (snapshot to tables), contract.go,
// ports.go, groups.go, routes.go, policies.go and services.go (its parts), update.go (tables and a delta to tables).
package tables

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// Tables is one epoch's tables. Nothing in it changes but the neighbours, which all epochs share.
//
// The neighbours that next hops name stay pinned for as long as their group is reachable; the collector undoes it, so
// that nobody has to know when the last worker has let go of it.
type Tables struct {
	Epoch     uint64
	Ports     []Port // by PortID; slot 0, and slots that no port has, are zero
	FIB       *route.FIB
	Neighbors *neighbor.Table
	Node      *api.NodeSettings // never nil; not to be changed
	Origins   []string          // where objects came from, as the snapshot has it

	Identities *identity.Set     // who has an address
	Policy     *policy.Table     // who may speak to whom
	Services   *service.Table    // who answers for services
	Backends   *service.Backends // those who do, of all epochs

	// Node4 and Node6 are the host's own first addresses, from which it says what is wrong with a packet; zero where
	// there is none, or no port leads to the host.
	Node4, Node6 packet.Addr
	// Dataplane4 and Dataplane6 are the dataplane's own addresses, which flows take that go to the host's stack; zero
	// where there is none.
	Dataplane4, Dataplane6 packet.Addr
	// Tracking: packets are looked for among the flows before they are routed. A port has a station or masquerades, or
	// there are services.
	Tracking bool

	translation
	demux  []demux // by device index
	byName map[string]packet.PortID
	groups sparse.Map[*group]      // by the snapshot's group id
	own    map[ownKey]*route.Group // of the ports' own routes
	owns   map[netip.Prefix]own    // the ports' own routes, those that a route of the snapshot hides included
	snap   *api.Snapshot           // that these are the tables of

	statics []neighbor.Static // of the snapshot
}

// demux finds the port of one device's packets by their tags.
type demux struct {
	untagged packet.PortID
	trunk    bool                           // the port is in the packet's source MAC, and there are no tags
	tagged   []packet.PortID                // by outer tag, where there is no inner one; 4096 of them or none
	double   map[packet.VLANs]packet.PortID // by both
}

// Port returns a port, or nil when there is none with this number.
func (t *Tables) Port(id packet.PortID) *Port {
	if int(id) >= len(t.Ports) || t.Ports[id].ID == 0 {
		return nil
	}
	return &t.Ports[id]
}

// ByName returns the port of this name, or nil.
func (t *Tables) ByName(name string) *Port { return t.Port(t.byName[name]) }

// Demux returns the port of packets that a device received with these tags from this source, or 0 when it has none. The
// device is given by the index that the link lookup gave to Build.
func (t *Tables) Demux(device int, tags packet.VLANs, source packet.MAC) packet.PortID {
	if uint(device) >= uint(len(t.demux)) {
		return 0
	}
	d := &t.demux[device]
	switch {
	case d.trunk:
		return t.onTrunk(tags, source)
	case tags == packet.VLANs{}:
		return d.untagged
	case tags.Inner != 0:
		return d.double[tags]
	case int(tags.Outer) < len(d.tagged):
		return d.tagged[tags.Outer]
	}
	return 0
}

func (t *Tables) onTrunk(tags packet.VLANs, source packet.MAC) packet.PortID {
	p := t.Port(packet.TrunkPort(source))
	if p == nil || !p.Trunk || tags != (packet.VLANs{}) {
		return 0
	}
	return p.ID
}

// Watches says whether the tables depend on what became of a device: one of a port's, by name or, if it was renamed, by
// number. Of those at the trunk only coming and going matters.
func (t *Tables) Watches(device string, ifindex int, gone bool) bool {
	for i := range t.Ports {
		p := &t.Ports[i]
		if p.ID == 0 || p.Device != device && p.IfIndex != ifindex {
			continue
		}
		if !p.Trunk || gone || p.Device != device || p.IfIndex != ifindex {
			return true
		}
	}
	return device == TrunkDevice
}

// OnTrunk says whether a device, by the kernel's number, is that of a port at the trunk.
func (t *Tables) OnTrunk(ifindex int) bool {
	return slices.ContainsFunc(t.Ports, func(p Port) bool { return p.Trunk && p.IfIndex == ifindex })
}

// add enters a port, and returns the one that is in its place when there is one.
func (d *demux) add(id packet.PortID, tags packet.VLANs) packet.PortID {
	place := &d.untagged
	switch {
	case tags.Inner != 0:
		if was := d.double[tags]; was != 0 {
			return was
		}
		if d.double == nil {
			d.double = make(map[packet.VLANs]packet.PortID)
		}
		d.double[tags] = id
		return 0
	case tags.Outer != 0:
		if d.tagged == nil {
			d.tagged = make([]packet.PortID, 4096)
		}
		place = &d.tagged[tags.Outer]
	}
	if *place != 0 {
		return *place
	}
	*place = id
	return 0
}

// InvalidError says which object of a snapshot is at fault. It is what a nack carries.
type InvalidError struct {
	Object string // where the object came from: "Route default/a (routes.yaml:12)"
	Field  string // path of the field in the manifest or in the snapshot: "groups[2].hops[0].via"
	Reason string // one line of lower case
}

// Error joins object, field and reason.
func (e *InvalidError) Error() string {
	if e.Object == "" {
		return e.Field + ": " + e.Reason
	}
	return e.Object + ": " + e.Field + ": " + e.Reason
}

// Origin returns where an object of the snapshot came from, empty when that is not known.
func Origin(snapshot *api.Snapshot, origin uint32) string {
	if origins := snapshot.GetOrigins(); int(origin) < len(origins) {
		return origins[origin]
	}
	return ""
}

func (b *build) invalid(origin uint32, field, reason string, args ...any) error {
	return &InvalidError{Object: Origin(b.snap, origin), Field: field, Reason: fmt.Sprintf(reason, args...)}
}
