// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Sets of peers may have tens of thousands of identities, of which one comes or goes with each pod: a delta says those,
// and not the whole set again.

// changed returns the sets of base, in order, that the changes make others.
func (m *merger) changed(base []*PeerSet, changes []*PeerSetChange) []*PeerSet {
	var list []*PeerSet
	for _, change := range changes {
		i, found := slices.BinarySearchFunc(base, peerSetKey(change.GetId()), comparePeerSets)
		if !found {
			m.fail(fmt.Errorf("the delta changes peer set %d, which is not there", change.GetId()))
			continue
		}
		members, ok := change.apply(base[i].GetIdentities())
		if !ok {
			m.fail(fmt.Errorf("the delta does not fit the members of peer set %d", change.GetId()))
		}
		list = append(list, &PeerSet{
			Id: base[i].Id, Identities: members, Blocks: base[i].Blocks, Domains: base[i].Domains,
		})
	}
	return list
}

// apply returns what the change makes of members, and whether all that it removes was there, and nothing that it adds.
func (c *PeerSetChange) apply(members []uint32) (list []uint32, ok bool) {
	added, removed := c.GetAdded(), c.GetRemoved()
	list = make([]uint32, 0, len(members)+len(added))
	ok = slices.IsSorted(added) && slices.IsSorted(removed)
	for _, id := range members {
		for len(added) > 0 && added[0] < id {
			list, added = append(list, added[0]), added[1:]
		}
		if len(removed) > 0 && removed[0] == id {
			removed = removed[1:]
			continue
		}
		ok = ok && (len(added) == 0 || added[0] != id)
		list = append(list, id)
	}
	return append(list, added...), ok && len(removed) == 0
}

// changeMembers says of the sets of d that differ from those of from in their identities alone what changes.
func (d *Delta) changeMembers(from []*PeerSet) {
	d.Set.PeerSets = slices.DeleteFunc(d.Set.PeerSets, func(to *PeerSet) bool {
		i, found := slices.BinarySearchFunc(from, to, comparePeerSets)
		if !found || !sameBut(from[i], to) {
			return false
		}
		d.PeerSetChanges = append(d.PeerSetChanges, memberChange(from[i], to))
		return true
	})
	if len(d.Set.PeerSets) == 0 {
		d.Set.PeerSets = nil
	}
}

// sameBut says whether two sets differ in their identities at most.
func sameBut(a, b *PeerSet) bool {
	return slices.Equal(a.GetDomains(), b.GetDomains()) &&
		slices.EqualFunc(a.GetBlocks(), b.GetBlocks(), func(a, b *PrefixSet) bool { return proto.Equal(a, b) })
}

func memberChange(from, to *PeerSet) *PeerSetChange {
	change := &PeerSetChange{Id: to.GetId()}
	was, is := from.GetIdentities(), to.GetIdentities()
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0] < is[0]:
			change.Removed, was = append(change.Removed, was[0]), was[1:]
		case len(was) == 0 || is[0] < was[0]:
			change.Added, is = append(change.Added, is[0]), is[1:]
		default:
			was, is = was[1:], is[1:]
		}
	}
	return change
}
