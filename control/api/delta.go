// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
)

// This file is the meaning of a Delta, for both ends: Difference makes one, Delta.Apply undoes that. Snapshots are
// immutable and share what they have in common: to apply a delta costs what the delta touches, and a copy of the
// lists' pointers.

// GapError says that a delta builds on another epoch than the one at hand.
type GapError struct{ Base, Have uint64 }

// Error names both epochs.
func (e *GapError) Error() string {
	return fmt.Sprintf("the delta builds on epoch %d, and %d is in force", e.Base, e.Have)
}

// Apply returns the snapshot that the delta makes of base. It fails with a *GapError, or where the delta removes what
// base does not have: then the two ends disagree about base, and a whole snapshot is called for.
func (d *Delta) Apply(base *Snapshot) (*Snapshot, error) {
	if d.GetBase() != base.GetEpoch() {
		return nil, &GapError{d.GetBase(), base.GetEpoch()}
	}
	set := d.GetSet()
	next := &Snapshot{Epoch: set.GetEpoch(), Node: base.GetNode()}
	if set.GetNode() != nil {
		next.Node = set.Node
	}
	var m merger
	next.Origins = m.origins(base.GetOrigins(), d)
	next.Ports = merge(&m, base.GetPorts(), set.GetPorts(), keys(d.GetRemovedPorts(), portKey), comparePorts)
	next.Groups = merge(&m, base.GetGroups(), set.GetGroups(), keys(d.GetRemovedGroups(), groupKey), compareGroups)
	next.Routes = merge(&m, base.GetRoutes(), set.GetRoutes(), keys(d.GetRemovedRoutes(), routeKey), compareRoutes)
	next.Neighbors = merge(&m, base.GetNeighbors(), set.GetNeighbors(), d.GetRemovedNeighbors(), compareNeighbors)
	next.HostRoutes = merge(&m, base.GetHostRoutes(), set.GetHostRoutes(),
		keys(d.GetRemovedHostRoutes(), hostRouteKey), compareHostRoutes)
	next.Identities = merge(&m, base.GetIdentities(), set.GetIdentities(),
		keys(d.GetRemovedIdentities(), identityKey), compareIdentities)
	next.IdentityPrefixes = merge(&m, base.GetIdentityPrefixes(), set.GetIdentityPrefixes(),
		keys(d.GetRemovedIdentityPrefixes(), identityPrefixKey), compareIdentityPrefixes)
	next.Policies = merge(&m, base.GetPolicies(), set.GetPolicies(),
		keys(d.GetRemovedPolicies(), policyKey), comparePolicies)
	next.PeerSets = merge(&m, base.GetPeerSets(), append(m.changed(base.GetPeerSets(), d.GetPeerSetChanges()),
		set.GetPeerSets()...), keys(d.GetRemovedPeerSets(), peerSetKey), comparePeerSets)
	next.Services = merge(&m, base.GetServices(), set.GetServices(),
		keys(d.GetRemovedServices(), serviceKey), compareServices)
	next.Egress = merge(&m, base.GetEgress(), set.GetEgress(), keys(d.GetRemovedEgress(), egressKey), compareEgress)
	next.Tunnels = merge(&m, base.GetTunnels(), set.GetTunnels(), keys(d.GetRemovedTunnels(), tunnelKey), compareTunnels)
	next.Mirrors = merge(&m, base.GetMirrors(), set.GetMirrors(), keys(d.GetRemovedMirrors(), mirrorKey), compareMirrors)
	next.Limits = merge(&m, base.GetLimits(), set.GetLimits(), keys(d.GetRemovedLimits(), limitKey), compareLimits)
	return next, m.err
}

// Difference returns the delta that makes `to` of `from`; both have their lists in order. Applying it gives `to`.
func Difference(from, to *Snapshot) *Delta {
	set := &Snapshot{Epoch: to.GetEpoch()}
	if !proto.Equal(from.GetNode(), to.GetNode()) {
		set.Node = to.GetNode()
	}
	d := &Delta{Base: from.GetEpoch(), Set: set}
	d.differOrigins(from.GetOrigins(), to.GetOrigins())
	var removed struct {
		ports      []*Port
		groups     []*NextHopGroup
		routes     []*Route
		hostRoutes []*HostRoute
		identities []*Identity
		prefixes   []*IdentityPrefix
		policies   []*Policy
		peerSets   []*PeerSet
		services   []*Service
		egress     []*Egress
		tunnels    []*Tunnel
		mirrors    []*Mirror
		limits     []*Limit
	}
	set.Ports, removed.ports = differ(from.GetPorts(), to.GetPorts(), comparePorts)
	set.Groups, removed.groups = differ(from.GetGroups(), to.GetGroups(), compareGroups)
	set.Routes, removed.routes = differ(from.GetRoutes(), to.GetRoutes(), compareRoutes)
	set.Neighbors, d.RemovedNeighbors = differ(from.GetNeighbors(), to.GetNeighbors(), compareNeighbors)
	set.HostRoutes, removed.hostRoutes = differ(from.GetHostRoutes(), to.GetHostRoutes(), compareHostRoutes)
	set.Identities, removed.identities = differ(from.GetIdentities(), to.GetIdentities(), compareIdentities)
	set.IdentityPrefixes, removed.prefixes =
		differ(from.GetIdentityPrefixes(), to.GetIdentityPrefixes(), compareIdentityPrefixes)
	set.Policies, removed.policies = differ(from.GetPolicies(), to.GetPolicies(), comparePolicies)
	set.PeerSets, removed.peerSets = differ(from.GetPeerSets(), to.GetPeerSets(), comparePeerSets)
	d.changeMembers(from.GetPeerSets())
	set.Services, removed.services = differ(from.GetServices(), to.GetServices(), compareServices)
	set.Egress, removed.egress = differ(from.GetEgress(), to.GetEgress(), compareEgress)
	set.Tunnels, removed.tunnels = differ(from.GetTunnels(), to.GetTunnels(), compareTunnels)
	set.Mirrors, removed.mirrors = differ(from.GetMirrors(), to.GetMirrors(), compareMirrors)
	set.Limits, removed.limits = differ(from.GetLimits(), to.GetLimits(), compareLimits)

	d.RemovedPorts = keys(removed.ports, (*Port).GetId)
	d.RemovedGroups = keys(removed.groups, (*NextHopGroup).GetId)
	d.RemovedRoutes = keys(removed.routes, func(r *Route) *Prefix { return &Prefix{Address: r.Prefix, Bits: r.Bits} })
	d.RemovedNeighbors = keys(d.RemovedNeighbors, func(n *Neighbor) *Neighbor {
		return &Neighbor{Port: n.Port, Address: n.Address}
	})
	d.RemovedHostRoutes = keys(removed.hostRoutes, (*HostRoute).GetPrefix)
	d.RemovedIdentities = keys(removed.identities, (*Identity).GetId)
	d.RemovedIdentityPrefixes = keys(removed.prefixes, (*IdentityPrefix).GetPrefix)
	d.RemovedPolicies = keys(removed.policies, (*Policy).GetName)
	d.RemovedPeerSets = keys(removed.peerSets, (*PeerSet).GetId)
	d.RemovedServices = keys(removed.services, (*Service).GetId)
	d.RemovedEgress = keys(removed.egress, (*Egress).GetNamespace)
	d.RemovedTunnels = keys(removed.tunnels, (*Tunnel).GetPort)
	d.RemovedMirrors = keys(removed.mirrors, (*Mirror).GetName)
	d.RemovedLimits = keys(removed.limits, (*Limit).GetPort)
	return d
}

// Empty says whether the delta changes nothing but the epoch.
func (d *Delta) Empty() bool {
	bare := &Delta{Base: d.GetBase(), Set: &Snapshot{Epoch: d.GetSet().GetEpoch()}}
	return proto.Size(d) == proto.Size(bare)
}

// Keys of what is removed, as elements to compare with; and the orders that the contract gives the lists.

func portKey(id uint32) *Port          { return &Port{Id: id} }
func groupKey(id uint32) *NextHopGroup { return &NextHopGroup{Id: id} }
func routeKey(p *Prefix) *Route        { return &Route{Prefix: p.GetAddress(), Bits: p.GetBits()} }
func identityKey(id uint32) *Identity  { return &Identity{Id: id} }
func policyKey(name string) *Policy    { return &Policy{Name: name} }
func peerSetKey(id uint32) *PeerSet    { return &PeerSet{Id: id} }
func serviceKey(id uint32) *Service    { return &Service{Id: id} }
func egressKey(name string) *Egress    { return &Egress{Namespace: name} }
func tunnelKey(port uint32) *Tunnel    { return &Tunnel{Port: port} }
func mirrorKey(name string) *Mirror    { return &Mirror{Name: name} }
func limitKey(port uint32) *Limit      { return &Limit{Port: port} }

func hostRouteKey(p *Prefix) *HostRoute           { return &HostRoute{Prefix: p} }
func identityPrefixKey(p *Prefix) *IdentityPrefix { return &IdentityPrefix{Prefix: p} }

func comparePorts(a, b *Port) int          { return cmp.Compare(a.GetId(), b.GetId()) }
func compareGroups(a, b *NextHopGroup) int { return cmp.Compare(a.GetId(), b.GetId()) }
func compareIdentities(a, b *Identity) int { return cmp.Compare(a.GetId(), b.GetId()) }
func comparePolicies(a, b *Policy) int     { return strings.Compare(a.GetName(), b.GetName()) }
func comparePeerSets(a, b *PeerSet) int    { return cmp.Compare(a.GetId(), b.GetId()) }
func compareServices(a, b *Service) int    { return cmp.Compare(a.GetId(), b.GetId()) }
func compareEgress(a, b *Egress) int       { return strings.Compare(a.GetNamespace(), b.GetNamespace()) }
func compareTunnels(a, b *Tunnel) int      { return cmp.Compare(a.GetPort(), b.GetPort()) }
func compareMirrors(a, b *Mirror) int      { return strings.Compare(a.GetName(), b.GetName()) }
func compareLimits(a, b *Limit) int        { return cmp.Compare(a.GetPort(), b.GetPort()) }
func compareAddresses(a, b []byte) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), bytes.Compare(a, b))
}
func compareRoutes(a, b *Route) int {
	return cmp.Or(compareAddresses(a.GetPrefix(), b.GetPrefix()), cmp.Compare(a.GetBits(), b.GetBits()))
}
func compareNeighbors(a, b *Neighbor) int {
	return cmp.Or(cmp.Compare(a.GetPort(), b.GetPort()), compareAddresses(a.GetAddress(), b.GetAddress()))
}
func comparePrefixes(a, b *Prefix) int {
	return cmp.Or(compareAddresses(a.GetAddress(), b.GetAddress()), cmp.Compare(a.GetBits(), b.GetBits()))
}
func compareHostRoutes(a, b *HostRoute) int { return comparePrefixes(a.GetPrefix(), b.GetPrefix()) }
func compareIdentityPrefixes(a, b *IdentityPrefix) int {
	return comparePrefixes(a.GetPrefix(), b.GetPrefix())
}

func keys[T, K any](list []T, key func(T) K) []K {
	if len(list) == 0 {
		return nil
	}
	out := make([]K, len(list))
	for i, e := range list {
		out[i] = key(e)
	}
	return out
}

// merger keeps the first error of several merges.
type merger struct{ err error }

// fail keeps the first of several errors.
func (m *merger) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

// merge returns base with the elements of set in the place of their namesakes or between the others, and without
// those removed. base is in order and stays as it is.
func merge[T any](m *merger, base, set, removed []T, compare func(a, b T) int) []T {
	if len(set) == 0 && len(removed) == 0 {
		return base
	}
	set, removed = sorted(set, compare), sorted(removed, compare)
	next := make([]T, 0, len(base)+len(set))
	for len(set) > 0 || len(removed) > 0 {
		remove := len(set) == 0 || len(removed) > 0 && compare(removed[0], set[0]) < 0
		from := &set
		if remove {
			from = &removed
		}
		edit := (*from)[0]
		*from = (*from)[1:]
		at, found := slices.BinarySearchFunc(base, edit, compare)
		next = append(next, base[:at]...)
		base = base[at:]
		if found {
			base = base[1:]
		}
		if !remove {
			next = append(next, edit)
		} else if !found {
			m.fail(fmt.Errorf("the delta removes what is not there: %v", edit))
		}
	}
	return append(next, base...)
}

func sorted[T any](list []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(list, compare) {
		return list
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, compare)
	return list
}

// maxOrigins bounds the table that an index of the wire may make grow.
const maxOrigins = 1 << 23

func (m *merger) origins(base []string, d *Delta) []string {
	if len(d.GetOrigins()) == 0 && len(d.GetRemovedOrigins()) == 0 {
		return base
	}
	size := len(base)
	for i := range d.GetOrigins() {
		if i == 0 || i >= maxOrigins {
			m.err = fmt.Errorf("origin %d is not from 1 to %d", i, maxOrigins-1)
			return base
		}
		size = max(size, int(i)+1)
	}
	next := make([]string, size)
	copy(next, base)
	for _, i := range d.GetRemovedOrigins() {
		if int(i) < size {
			next[i] = ""
		}
	}
	for i, origin := range d.GetOrigins() {
		next[i] = origin
	}
	for len(next) > 1 && next[len(next)-1] == "" { // free places at the end; 0 is always there
		next = next[:len(next)-1]
	}
	return next
}

func (d *Delta) differOrigins(from, to []string) {
	for i := range max(len(from), len(to)) {
		was, is := "", ""
		if i < len(from) {
			was = from[i]
		}
		if i < len(to) {
			is = to[i]
		}
		switch {
		case was == is:
		case is == "":
			d.RemovedOrigins = append(d.RemovedOrigins, uint32(i))
		default:
			if d.Origins == nil {
				d.Origins = map[uint32]string{}
			}
			d.Origins[uint32(i)] = is
		}
	}
}

// differ walks two lists in order.
func differ[T proto.Message](from, to []T, compare func(a, b T) int) (set, removed []T) {
	for len(from) > 0 || len(to) > 0 {
		switch order := orderOf(from, to, compare); {
		case order < 0:
			removed, from = append(removed, from[0]), from[1:]
		case order > 0:
			set, to = append(set, to[0]), to[1:]
		default:
			if any(from[0]) != any(to[0]) && !proto.Equal(from[0], to[0]) {
				set = append(set, to[0])
			}
			from, to = from[1:], to[1:]
		}
	}
	return set, removed
}

// orderOf compares the heads of two lists of which one may be at its end.
func orderOf[T any](a, b []T, compare func(a, b T) int) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return compare(a[0], b[0])
}
