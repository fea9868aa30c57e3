// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
)

// translation is what the tables know of addresses that packets are translated to and from, services apart.
type translation struct {
	devices       []netip.Addr         // addresses of the host's devices
	answers       bool                 // see HostAnswers
	node          map[packet.Addr]bool // addresses of the node; true: node ports are there
	hosts         []packet.Addr        // the same, in order
	unmasqueraded *bart.Lite           // nil: none
	egress        map[string]egress    // by namespace
	announced     *Announced           // of egress
	stations      bool                 // a port has one
}

// egress is the addresses that pods of a namespace have towards what is outside; zero: their own.
type egress struct{ four, six packet.Addr }

// IsNode says whether a is an address of the node at which node ports are, and host ports of all addresses: one of the
// host's or of a port, as far as NodeSettings.node_port_prefixes says, or the dataplane's own.
func (t *Tables) IsNode(a packet.Addr) bool { return t.node[a] || t.IsDataplane(a) }

// IsHost says whether a is an address of the node itself: the host's, or a port's. The dataplane's own is none.
func (t *Tables) IsHost(a packet.Addr) bool {
	_, is := t.node[a]
	return is
}

// HostAddresses are the addresses of the node of a's family, in order. They are not to be changed.
func (t *Tables) HostAddresses(a packet.Addr) []packet.Addr {
	first := slices.IndexFunc(t.hosts, func(o packet.Addr) bool { return !o.Is4() })
	switch {
	case a.Is4() && first >= 0:
		return t.hosts[:first]
	case a.Is4():
		return t.hosts
	case first >= 0:
		return t.hosts[first:]
	}
	return nil
}

// Unmasqueraded says whether pods keep their addresses towards a.
func (t *Tables) Unmasqueraded(a packet.Addr) bool {
	return t.unmasqueraded != nil && t.unmasqueraded.Lookup(a.Netip())
}

// EgressOf returns the addresses that a pod of the cluster has towards what is outside; zero: its own.
func (t *Tables) EgressOf(src packet.Addr) (four, six packet.Addr) {
	if len(t.egress) == 0 {
		return four, six
	}
	pod := t.Identities.Get(t.Identities.Of(src))
	if pod.GetKind() != api.Identity_KIND_POD {
		return four, six
	}
	e := t.egress[pod.GetNamespace()]
	return e.four, e.six
}

// Inside says whether a is of the cluster: somebody's whom policy knows by another name than the world, or the
// dataplane's own.
func (t *Tables) Inside(a packet.Addr) bool {
	return t.IsDataplane(a) || t.Identities.Of(a) != identity.World
}

// IsPeer says whether a is of a node of the cluster: its own address, or its dataplane's.
func (t *Tables) IsPeer(a packet.Addr) bool { return t.kindOf(a) == api.Identity_KIND_NODE }

// IsPod says whether a is a pod's of the cluster, as far as is known: an address of the cluster's that is no node's may
// be that of one whom control has not told of yet.
func (t *Tables) IsPod(a packet.Addr) bool {
	switch t.kindOf(a) {
	case api.Identity_KIND_POD:
		return true
	case api.Identity_KIND_NODE:
		return false
	}
	return t.Unmasqueraded(a)
}

func (t *Tables) kindOf(a packet.Addr) api.Identity_Kind {
	return t.Identities.Get(t.Identities.Of(a)).GetKind()
}

// IsDataplane says whether an address is the dataplane's own, from which nobody else sends.
func (t *Tables) IsDataplane(a packet.Addr) bool {
	return !a.IsZero() && (a == t.Dataplane4 || a == t.Dataplane6)
}

// WithDevices makes tables like t for other addresses of the host's devices. It is t where they are the same.
func (t *Tables) WithDevices(addresses []netip.Addr) *Tables {
	if slices.Equal(t.devices, addresses) {
		return t
	}
	next := *t
	next.devices = slices.Clone(addresses)
	next.findNode()
	return &next
}

// HostAnswers says whether what the host's own processes answer to a client outside that the dataplane has led to them
// comes back to the dataplane, whatever the host's routes to the client are.
func (t *Tables) HostAnswers() bool { return t.answers }

// WithHostAnswers makes tables like t where that is so, or not. It is t where it was.
func (t *Tables) WithHostAnswers(is bool) *Tables {
	if t.answers == is {
		return t
	}
	next := *t
	next.answers = is
	return &next
}

// buildServices makes the services of a snapshot, and what follows from the settings of translation.
func (b *build) buildServices() error {
	if b.prev != nil {
		b.t.Backends, b.t.devices, b.t.answers = b.prev.Backends, b.prev.devices, b.prev.answers
	} else {
		b.t.Backends = service.NewBackends()
	}
	if err := b.buildTranslation(); err != nil {
		return err
	}
	var prev *service.Table
	if b.prev != nil {
		prev = b.prev.Services
	}
	var err error
	if b.t.Services, err = service.Build(prev, b.snap, b.t.Backends); err != nil {
		return b.invalidService(err)
	}
	b.t.findNode()
	b.t.findTracking(true)
	return nil
}

// updateServices makes the services of the ones before and a delta. Settings of translation are none's that can be
// updated.
func (b *build) updateServices(d *api.Delta) (err error) {
	if b.t.Services, err = b.prev.Services.Update(b.snap, d, b.t.Backends); err != nil {
		return b.invalidService(err)
	}
	if len(d.GetSet().GetEgress())+len(d.GetRemovedEgress()) > 0 {
		if err := b.buildEgress(); err != nil {
			return err
		}
	}
	b.t.findTracking(len(d.GetSet().GetPorts())+len(d.GetRemovedPorts()) > 0)
	return nil
}

// findNode collects the addresses of the node.
func (t *Tables) findNode() {
	t.node = make(map[packet.Addr]bool)
	add := func(a packet.Addr) {
		if !a.IsZero() && !a.IsLoopback() && !a.IsLinkLocal() && !t.IsDataplane(a) {
			t.node[a] = t.hasNodePorts(a)
		}
	}
	for i := range t.Ports {
		p := &t.Ports[i]
		for _, a := range p.Addrs {
			add(a)
		}
		if p.Host {
			for _, a := range p.Station.Addrs {
				add(a)
			}
		}
	}
	for _, a := range t.devices {
		add(packet.AddrFrom(a))
	}
	t.hosts = slices.SortedFunc(maps.Keys(t.node), func(a, b packet.Addr) int { return a.Netip().Compare(b.Netip()) })
}

// hasNodePorts says whether node ports are at an address of the node.
func (t *Tables) hasNodePorts(a packet.Addr) bool {
	list := t.Node.GetNodePortPrefixes()
	for _, cfg := range list {
		if p, reason := identity.Parse(cfg); reason == "" && p.Contains(a.Netip()) {
			return true
		}
	}
	return len(list) == 0
}

// findTracking finds out whether flows are looked up before packets are routed.
func (t *Tables) findTracking(ports bool) {
	if ports {
		t.stations = false
		for i := range t.Ports {
			t.stations = t.stations || t.Ports[i].Station.Only() || t.Ports[i].Masquerades
		}
	}
	t.Tracking = t.stations || !t.Services.Empty() || len(t.egress) > 0
}

// uplink says whether a device is the uplink, and the dataplane's: in mode kernel the host's stack has it, masquerades,
// and answers on the link.
func (b *build) uplink(device string) bool {
	uplink := b.t.Node.GetUplink()
	return uplink.GetDevice() == device && uplink.GetMode() != api.Uplink_MODE_KERNEL
}

func (b *build) buildTranslation() error {
	node := b.t.Node
	bad := func(field string, i int, reason string) error {
		return b.invalid(node.GetOrigin(), fmt.Sprintf("node.%s[%d]", field, i), "%s", reason)
	}
	var err error
	if b.t.Dataplane4, b.t.Dataplane6, err = pair(node.GetDataplaneAddresses(), func(i int, reason string) error {
		return bad("dataplane_addresses", i, reason)
	}); err != nil {
		return err
	}
	for i, cfg := range node.GetNodePortPrefixes() {
		if _, reason := identity.Parse(cfg); reason != "" {
			return bad("node_port_prefixes", i, reason)
		}
	}
	b.t.unmasqueraded = nil
	for i, cfg := range node.GetUnmasqueraded() {
		p, reason := identity.Parse(cfg)
		if reason != "" {
			return bad("unmasqueraded", i, reason)
		}
		if b.t.unmasqueraded == nil {
			b.t.unmasqueraded = new(bart.Lite)
		}
		b.t.unmasqueraded.Insert(p)
	}
	return b.buildEgress()
}

// buildEgress makes the addresses of all namespaces that have such: they are few.
func (b *build) buildEgress() error {
	b.t.egress = make(map[string]egress, len(b.snap.GetEgress()))
	b.t.announced = new(Announced)
	for i, cfg := range b.snap.GetEgress() {
		bad := func(part, reason string, args ...any) error {
			return b.invalid(cfg.GetOrigin(), fmt.Sprintf("egress[%d].%s", i, part), reason, args...)
		}
		switch {
		case cfg.GetNamespace() == "":
			return bad("namespace", "is missing")
		case len(cfg.GetAddresses()) == 0:
			return bad("addresses", "are missing")
		}
		var e egress
		var err error
		if e.four, e.six, err = pair(cfg.GetAddresses(), func(i int, reason string) error {
			return bad(fmt.Sprintf("addresses[%d]", i), "%s", reason)
		}); err != nil {
			return err
		}
		b.t.egress[cfg.GetNamespace()] = e
		if cfg.GetAnnounced() {
			b.t.announced.add(e.four, e.six)
		}
	}
	return nil
}

// pair reads a list of one address of each family at most, IPv4 first.
func pair(list [][]byte, bad func(i int, reason string) error) (four, six packet.Addr, err error) {
	for i, octets := range list {
		a := address(octets)
		switch {
		case !a.IsValid():
			return four, six, bad(i, "is not an IPv4 or IPv6 address")
		case !host(a) || !routable(a):
			return four, six, bad(i, fmt.Sprintf("%s cannot be the address of a station", a))
		case !six.IsZero() || a.Is4() && !four.IsZero():
			return four, six, bad(i, fmt.Sprintf("%s is not the only one of its family, or not in order", a))
		case a.Is4():
			four = packet.AddrFrom(a)
		default:
			six = packet.AddrFrom(a)
		}
	}
	return four, six, nil
}

// invalidService makes the error of services one of the snapshot.
func (b *build) invalidService(err error) error {
	var invalid *service.InvalidError
	if errors.As(err, &invalid) {
		return b.invalid(invalid.Origin, invalid.Field, "%s", invalid.Reason)
	}
	return err
}
