// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

// generations numbers what flows are judged by.
var generations atomic.Uint32

// Resume has generations follow one of a process before, so that what that has judged is told from what this one has.
// It comes before the first tables with policies.
func Resume(after uint32) {
	if int32(after-generations.Load()) > 0 {
		generations.Store(after)
	}
}

func nextGeneration() uint32 {
	for {
		if g := generations.Add(1); g != 0 {
			return g
		}
	}
}

// builder makes a table of another one, at the cost of what changes.
type builder struct {
	prev *Table
	t    *Table // in the making
	next *api.Snapshot

	sets     setEditor
	members  memberEditor
	blocks   blockEditor
	policies policyEditor
	classes  classEditor
	domains  bool // sets with domain names have changed
}

// Build makes the table of a snapshot, or an *InvalidError. ids are its identities; local are those of the stations of
// this node, ascending, each once: classes are made for them alone.
func Build(s *api.Snapshot, ids *identity.Set, local []identity.ID) (*Table, error) {
	b := begin(&Table{nextRule: firstRule}, s, ids)
	node := s.GetNode()
	if node == nil {
		node = &api.NodeSettings{}
	}
	d := &api.Delta{Set: &api.Snapshot{
		Node: node, Identities: s.GetIdentities(), PeerSets: s.GetPeerSets(), Policies: s.GetPolicies(),
	}}
	return b.build(d, local)
}

// Update makes the table of next, which is the snapshot of t with the delta applied, or an *InvalidError, at the cost
// of what the delta touches. It is t where nothing in the delta concerns policy.
func (t *Table) Update(
	next *api.Snapshot, d *api.Delta, ids *identity.Set, local []identity.ID,
) (*Table, error) {
	if t.nextRule > maxRules {
		return Build(next, ids, local)
	}
	set := d.GetSet()
	same := len(set.GetPolicies())+len(set.GetPeerSets())+len(set.GetIdentities())+
		len(d.GetRemovedPolicies())+len(d.GetRemovedPeerSets())+len(d.GetRemovedIdentities())+
		len(d.GetPeerSetChanges()) == 0
	if same && ids == t.ids && slices.Equal(local, t.local) && set.GetNode() == nil {
		return t, nil
	}
	return begin(t, next, ids).build(d, local)
}

// maxRules leaves room for what a delta may bring before the numbers of rules are given out anew.
const maxRules RuleID = 1 << 31

func begin(prev *Table, next *api.Snapshot, ids *identity.Set) *builder {
	t := *prev
	t.ids = ids
	b := &builder{prev: prev, t: &t, next: next}
	b.sets = setEditor{Editor: prev.sets.Edit(), own: map[uint32]bool{}, touched: map[uint32]bool{}}
	b.members.members = prev.members
	b.blocks = blockEditor{blocks: prev.blocks, persist: prev.blocks.lpm != nil}
	b.policies.all, b.policies.byRule = prev.policies, prev.byRule
	b.classes = classEditor{all: prev.classes, dirty: map[uint32]bool{}, found: map[string]*selection{}}
	return b
}

// build applies a delta. What is removed goes after what is set: what refers to it may go by the same delta.
func (b *builder) build(d *api.Delta, local []identity.ID) (*Table, error) {
	set := d.GetSet()
	if err := cmp.Or(
		ordered("peer_sets", set.GetPeerSets(), func(x, y *api.PeerSet) int { return cmp.Compare(x.GetId(), y.GetId()) }),
		ordered("policies", set.GetPolicies(),
			func(x, y *api.Policy) int { return strings.Compare(x.GetName(), y.GetName()) }),
		b.setNode(set.GetNode()), b.setIdentities(set.GetIdentities()), b.setSets(set.GetPeerSets()),
	); err != nil {
		return nil, err
	}
	if err := b.changeSets(d.GetPeerSetChanges()); err != nil {
		return nil, err
	}
	if err := b.setPolicies(set.GetPolicies(), d.GetRemovedPolicies()); err != nil {
		return nil, err
	}
	if err := b.removeSets(d.GetRemovedPeerSets()); err != nil {
		return nil, err
	}
	if err := b.removeIdentities(d.GetRemovedIdentities()); err != nil {
		return nil, err
	}
	b.setLocal(local)
	return b.finish(), nil
}

// finish puts the table together.
func (b *builder) finish() *Table {
	t := b.t
	b.setClasses()
	t.members, t.sets, t.blocks = b.members.flush(), b.sets.Map(), b.blocks.made()
	t.policies, t.byRule, t.classes = b.policies.all, b.policies.byRule, b.classes.all
	if b.domains {
		b.setDomains()
	}
	if t.Generation == 0 || len(b.prev.policies)+len(t.policies) > 0 {
		t.Generation = nextGeneration()
	}
	return t
}

// setNode takes over what policy may not deny the node; an absent node leaves it as it is.
func (b *builder) setNode(node *api.NodeSettings) error {
	if node == nil {
		return nil
	}
	b.t.failSafe = [2][]*api.PortRange{ingress: node.GetFailSafeIngress(), egress: node.GetFailSafeEgress()}
	return checkFailSafe(node)
}

// setIdentities sees to the names of ports, which classes are made of.
func (b *builder) setIdentities(list []*api.Identity) error {
	for i, id := range list {
		if err := checkIdentity(fmt.Sprintf("identities[%d]", i), id); err != nil {
			return err
		}
		if b.members.get(id.GetId()).class != nil {
			b.classes.dirty[id.GetId()] = true
		}
	}
	return nil
}

func (b *builder) removeIdentities(ids []uint32) error {
	for i, id := range ids {
		if sets := b.members.get(id).sets; len(sets) > 0 {
			return invalid(0, fmt.Sprintf("removed_identities[%d]", i), "peer set %d has identity %d", sets[0], id)
		}
	}
	return nil
}

// ordered refuses a list that does not grow from each element to the next.
func ordered[T any](field string, list []T, compare func(x, y T) int) error {
	for i := 1; i < len(list); i++ {
		switch order := compare(list[i-1], list[i]); {
		case order == 0:
			return invalid(0, fmt.Sprintf("%s[%d]", field, i), "is there twice")
		case order > 0:
			return invalid(0, fmt.Sprintf("%s[%d]", field, i), "is out of order")
		}
	}
	return nil
}
