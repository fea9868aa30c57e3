// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"slices"
)

// Order puts the lists of what is forwarded by and judged by into the order that the contract gives them.
func (s *Snapshot) Order() {
	slices.SortFunc(s.Ports, comparePorts)
	slices.SortFunc(s.Groups, compareGroups)
	slices.SortFunc(s.Routes, compareRoutes)
	slices.SortFunc(s.Neighbors, compareNeighbors)
	slices.SortFunc(s.HostRoutes, compareHostRoutes)
	slices.SortFunc(s.Identities, compareIdentities)
	slices.SortFunc(s.IdentityPrefixes, compareIdentityPrefixes)
	slices.SortFunc(s.Policies, comparePolicies)
	slices.SortFunc(s.PeerSets, comparePeerSets)
	slices.SortFunc(s.Services, compareServices)
	slices.SortFunc(s.Egress, compareEgress)
	slices.SortFunc(s.Limits, compareLimits)
}

// Order puts the lists of what the delta sets, and the numbers of what it removes, into order.
func (d *Delta) Order() {
	d.GetSet().Order()
	slices.Sort(d.RemovedPorts)
	slices.Sort(d.RemovedGroups)
	slices.Sort(d.RemovedIdentities)
	slices.Sort(d.RemovedPolicies)
	slices.Sort(d.RemovedPeerSets)
	slices.SortFunc(d.PeerSetChanges, func(a, b *PeerSetChange) int { return cmp.Compare(a.GetId(), b.GetId()) })
	slices.Sort(d.RemovedServices)
	slices.Sort(d.RemovedEgress)
	slices.Sort(d.RemovedLimits)
}
