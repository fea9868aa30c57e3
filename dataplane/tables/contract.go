// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

// contract refuses lists that are not in the order that control/api/snapshot.proto gives them, which deltas rely on,
// and what this dataplane does not act on: control must not believe that a policy is enforced that nobody looked at.
// s is a snapshot, or what a delta sets.
func (b *build) contract(s *api.Snapshot) error {
	return cmp.Or(
		ordered(b, "ports", s.GetPorts(), comparePorts),
		ordered(b, "groups", s.GetGroups(), compareGroups),
		ordered(b, "routes", s.GetRoutes(), compareRoutes),
		ordered(b, "neighbors", s.GetNeighbors(), compareNeighbors),
		ordered(b, "identities", s.GetIdentities(), compareIdentities),
		ordered(b, "identity_prefixes", s.GetIdentityPrefixes(), compareIdentityPrefixes),
		ordered(b, "policies", s.GetPolicies(), comparePolicies),
		ordered(b, "peer_sets", s.GetPeerSets(), comparePeerSets),
		ordered(b, "services", s.GetServices(), compareServices),
		ordered(b, "egress", s.GetEgress(), compareEgress),
		ignored(b, "tunnels", s.GetTunnels()),
		ignored(b, "mirrors", s.GetMirrors()),
		ordered(b, "limits", s.GetLimits(), compareLimits),
		ordered(b, "host_routes", s.GetHostRoutes(), compareHostRoutes),
	)
}

// ordered refuses a list that does not grow from each element to the next.
func ordered[T any](b *build, field string, list []T, compare func(x, y T) int) error {
	for i := 1; i < len(list); i++ {
		switch order := compare(list[i-1], list[i]); {
		case order == 0:
			return b.invalid(originOf(list[i]), fmt.Sprintf("%s[%d]", field, i), "is there twice")
		case order > 0:
			return b.invalid(originOf(list[i]), fmt.Sprintf("%s[%d]", field, i), "is out of order")
		}
	}
	return nil
}

// ignored refuses a list that would have no effect.
func ignored[T any](b *build, field string, list []T) error {
	if len(list) == 0 {
		return nil
	}
	return b.invalid(originOf(list[0]), field+"[0]", "this dataplane does not act on %s", field)
}

func originOf(object any) uint32 {
	if o, ok := object.(interface{ GetOrigin() uint32 }); ok {
		return o.GetOrigin()
	}
	return 0
}

func comparePorts(a, b *api.Port) int          { return cmp.Compare(a.GetId(), b.GetId()) }
func compareGroups(a, b *api.NextHopGroup) int { return cmp.Compare(a.GetId(), b.GetId()) }
func compareIdentities(a, b *api.Identity) int { return cmp.Compare(a.GetId(), b.GetId()) }
func comparePolicies(a, b *api.Policy) int     { return cmp.Compare(a.GetName(), b.GetName()) }
func comparePeerSets(a, b *api.PeerSet) int    { return cmp.Compare(a.GetId(), b.GetId()) }
func compareServices(a, b *api.Service) int    { return cmp.Compare(a.GetId(), b.GetId()) }
func compareEgress(a, b *api.Egress) int       { return cmp.Compare(a.GetNamespace(), b.GetNamespace()) }
func compareLimits(a, b *api.Limit) int        { return cmp.Compare(a.GetPort(), b.GetPort()) }
func compareHostRoutes(a, b *api.HostRoute) int {
	return comparePrefixes(a.GetPrefix(), b.GetPrefix())
}
func compareAddresses(a, b []byte) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), bytes.Compare(a, b))
}
func comparePrefixes(a, b *api.Prefix) int {
	return cmp.Or(compareAddresses(a.GetAddress(), b.GetAddress()), cmp.Compare(a.GetBits(), b.GetBits()))
}
func compareRoutes(a, b *api.Route) int {
	return cmp.Or(compareAddresses(a.GetPrefix(), b.GetPrefix()), cmp.Compare(a.GetBits(), b.GetBits()))
}
func compareNeighbors(a, b *api.Neighbor) int {
	return cmp.Or(cmp.Compare(a.GetPort(), b.GetPort()), compareAddresses(a.GetAddress(), b.GetAddress()))
}
func compareIdentityPrefixes(a, b *api.IdentityPrefix) int {
	return comparePrefixes(a.GetPrefix(), b.GetPrefix())
}

// invalidIdentity makes the error of a set of identities one of the snapshot.
func (b *build) invalidIdentity(err error) error {
	var invalid *identity.InvalidError
	if errors.As(err, &invalid) {
		return b.invalid(invalid.Origin, invalid.Field, "%s", invalid.Reason)
	}
	return err
}
