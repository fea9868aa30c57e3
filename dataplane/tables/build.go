// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"net/netip"
	"runtime"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// Link is what the tables must know of a network device.
type Link struct {
	MAC   packet.MAC
	MTU   int  // bytes of the largest IP packet, untagged: the device's MTU
	Up    bool // administratively up, with a carrier
	Index int  // small, from 0: the device's own for the life of the process, whether it is present or not

	IfIndex int // the kernel's number
}

// Links looks a device up by name. It returns false for a device that does not exist at the moment; Index must be
// right all the same.
type Links func(device string) (Link, bool)

// maxDevices bounds Link.Index, so that a wrong one cannot eat the memory.
const maxDevices = 1 << 16

type build struct {
	snap   *api.Snapshot
	prev   *Tables
	links  Links
	t      *Tables
	groups *sparse.Editor[*group]

	pins []*neighbor.Entry // of hops that are no group's yet
	made []pinned
}

// pinned is a group that this build made, and the neighbours that its hops name.
type pinned struct {
	group *route.Group
	pins  []*neighbor.Entry
}

// Build makes the tables of a snapshot: all of it, or none and an *InvalidError. prev, which may be nil, is what was
// in force: what has not changed is shared with it, so that the cost is mostly that of the change. A port's device
// may be absent; Relink completes the port when it appears.
//
// The neighbours in n stay as they are until the tables are put in force by Enter. Backends and the addresses of the
// host's devices are prev's.
func Build(prev *Tables, snap *api.Snapshot, links Links, n *neighbor.Table) (*Tables, error) {
	node := snap.GetNode()
	if node == nil {
		node = &api.NodeSettings{}
	}
	b := &build{snap: snap, prev: prev, links: links, groups: new(sparse.Map[*group]).Edit(), t: &Tables{
		Epoch: snap.GetEpoch(), Neighbors: n, Node: node, Origins: snap.GetOrigins(), snap: snap,
	}}
	defer b.abandon()
	if err := b.contract(snap); err != nil {
		return nil, err
	}
	if err := b.buildPorts(); err != nil {
		return nil, err
	}
	var err error
	if b.t.statics, err = b.statics(); err != nil {
		return nil, err
	}
	if err := b.buildLimits(); err != nil {
		return nil, err
	}
	if err := b.buildGroups(snap.GetGroups()); err != nil {
		return nil, err
	}
	if err := b.buildRoutes(); err != nil {
		return nil, err
	}
	if b.t.Identities, err = identity.Build(snap); err != nil {
		return nil, b.invalidIdentity(err)
	}
	if err := cmp.Or(b.buildPolicies(), b.buildServices()); err != nil {
		return nil, err
	}
	return b.commit(), nil
}

// Enter is called when tables that Build made come into force in the place of prev, which may be nil: the snapshot's
// static neighbours become the permanent ones, and those of ports that are gone are forgotten.
func (t *Tables) Enter(prev *Tables) {
	t.Neighbors.ReplacePermanent(t.statics)
	t.dropNeighbors(prev)
}

// Relink makes tables like prev for devices whose MAC, MTU or state changed. Neighbours of ports whose device
// vanished are forgotten. It fails only when the ports as such no longer fit their devices.
func Relink(prev *Tables, links Links) (*Tables, error) {
	t := *prev
	t.Ports, t.byName, t.demux, t.own = nil, nil, nil, nil
	t.Node4, t.Node6 = packet.Addr{}, packet.Addr{}
	b := &build{snap: prev.snap, prev: prev, links: links, t: &t, groups: new(sparse.Map[*group]).Edit()}
	defer b.abandon()
	if err := cmp.Or(b.buildPorts(), b.buildLimits()); err != nil {
		return nil, err
	}
	for _, was := range prev.groups.All() {
		is, err := b.buildGroup("groups", was.config)
		if err != nil {
			return nil, err
		}
		is.routes = was.routes
	}
	var err error
	if t.owns, err = b.ownRoutes(); err != nil {
		return nil, err
	}
	edit := prev.FIB.Edit()
	b.replaceGroups(edit)
	t.FIB = edit.Build()
	t.dropNeighbors(prev)
	t.findNode()
	t.findTracking(true)
	return b.commit(), nil
}

// dropNeighbors forgets the neighbours of ports that are gone, lost their device or moved to another.
func (t *Tables) dropNeighbors(prev *Tables) {
	if prev == nil {
		return
	}
	for i := range prev.Ports {
		was := &prev.Ports[i]
		if was.ID == 0 || !was.Present {
			continue
		}
		is := t.Port(was.ID)
		if is == nil || !is.Present || is.Device != was.Device || is.VLANs != was.VLANs {
			t.Neighbors.DropPort(was.ID)
		}
	}
}

// commit ties the pins to the life of the groups that name them: a worker may hold on to tables that are not in force
// any more.
func (b *build) commit() *Tables {
	n := b.t.Neighbors
	for _, m := range b.made {
		if len(m.pins) > 0 {
			runtime.AddCleanup(m.group, func(pins []*neighbor.Entry) { unpin(n, pins) }, m.pins)
		}
	}
	b.made = nil
	b.t.groups = b.groups.Map()
	return b.t
}

// abandon undoes the pins of a build that failed.
func (b *build) abandon() {
	unpin(b.t.Neighbors, b.pins)
	for _, m := range b.made {
		unpin(b.t.Neighbors, m.pins)
	}
}

func unpin(n *neighbor.Table, pins []*neighbor.Entry) {
	for _, e := range pins {
		n.Unpin(e)
	}
}

// address reads an address of a snapshot; it returns an invalid one for what is none. IPv6 forms of IPv4 addresses
// are refused: they would be a second name of the same thing.
func address(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || a.Is4In6() {
		return netip.Addr{}
	}
	return a
}

// host says whether a can be one station's address on a link.
func host(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		!(a.Is4() && a.As4()[0] >= 240) && !(a.Is4() && a.As4()[0] == 0)
}

// broadcasts returns the two addresses of an IPv4 subnet that are no station's, if it has such: all zeros and all
// ones (RFC 1122 3.2.1.3); subnets of 31 bits have none (RFC 3021).
func broadcasts(p netip.Prefix) (zeros, ones netip.Addr, ok bool) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Addr{}, netip.Addr{}, false
	}
	zeros = p.Masked().Addr()
	last := zeros.As4()
	for bit := p.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return zeros, netip.AddrFrom4(last), true
}

// routable says whether a may be in the forwarding table: link-local addresses are on every port, so that only the
// port that a packet is for tells them apart.
func routable(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }

type group struct {
	config *api.NextHopGroup
	group  *route.Group
	routes int // of the snapshot that lead to it; some of them may be hidden by our own addresses
}
