// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
)

// policyEditor makes the next lists of policies.
type policyEditor struct {
	all, byRule []*policy
}

// setPolicies enters and removes policies. One that is set takes the place of its namesake, with other numbers.
func (b *builder) setPolicies(set []*api.Policy, removed []string) error {
	if len(set)+len(removed) == 0 {
		return nil
	}
	gone := map[*policy]bool{}
	for i, name := range removed {
		p := b.named(name)
		if p == nil {
			return invalid(0, fmt.Sprintf("removed_policies[%d]", i), "there is no policy %q", name)
		}
		gone[p] = true
	}
	made := make([]*policy, 0, len(set))
	for i, cfg := range set {
		if err := b.checkPolicy(fmt.Sprintf("policies[%d]", i), cfg); err != nil {
			return err
		}
		if was := b.named(cfg.GetName()); was != nil {
			gone[was] = true
		}
		p := &policy{config: cfg, first: b.t.nextRule, named: namesSubjects(cfg)}
		p.rules = [2]rules{ingress: rulesOf(cfg, ingress), egress: rulesOf(cfg, egress)}
		b.t.nextRule += p.ids()
		made = append(made, p)
	}
	for p := range gone {
		b.unselect(p)
	}
	for _, p := range made {
		b.selects(p)
	}
	b.policies.all = merge(b.policies.all, made, gone)
	b.policies.byRule = append(except(b.policies.byRule, gone, len(made)), made...)
	return nil
}

// named returns the policy of a name, nil if there is none.
func (b *builder) named(name string) *policy {
	if i, found := slices.BinarySearchFunc(b.policies.all, name, compareNames); found {
		return b.policies.all[i]
	}
	return nil
}

// namesSubjects says whether an ingress rule names ports: what it matches depends on who is selected.
func namesSubjects(p *api.Policy) bool {
	for _, r := range p.GetRules() {
		named := func(p *api.PortRange) bool { return p.GetName() != "" }
		if r.GetDirection() == ingress && slices.ContainsFunc(r.GetPorts(), named) {
			return true
		}
	}
	return false
}

// selects tells the sets that a policy speaks of them.
func (b *builder) selects(p *policy) {
	for _, id := range p.config.GetSubjects() {
		s := b.sets.edit(id)
		s.subjectOf = append(s.subjectOf, p)
		b.touch(s)
	}
	b.count(p, 1)
}

func (b *builder) unselect(p *policy) {
	for _, id := range p.config.GetSubjects() {
		s := b.sets.edit(id)
		s.subjectOf = slices.DeleteFunc(s.subjectOf, func(o *policy) bool { return o == p })
		b.touch(s)
	}
	b.count(p, -1)
}

// touch has the classes found anew of a set's identities.
func (b *builder) touch(s *peerSet) {
	if b.sets.touched[s.config.GetId()] {
		return
	}
	b.sets.touched[s.config.GetId()] = true
	for _, id := range s.config.GetIdentities() {
		if !b.classes.dirty[id] && b.members.get(id).class != nil {
			b.classes.dirty[id] = true
		}
	}
}

func (b *builder) count(p *policy, by int) {
	for _, r := range p.config.GetRules() {
		for _, id := range r.GetPeers() {
			b.sets.edit(id).uses += by
		}
	}
}

// merge puts policies in order of their names among others, of which some are gone.
func merge(all, made []*policy, gone map[*policy]bool) []*policy {
	list := make([]*policy, 0, len(all)+len(made))
	for _, p := range all {
		for len(made) > 0 && strings.Compare(made[0].config.GetName(), p.config.GetName()) < 0 {
			list, made = append(list, made[0]), made[1:]
		}
		if !gone[p] {
			list = append(list, p)
		}
	}
	return append(list, made...)
}

// except returns a list without those that are gone, with room for some more.
func except(all []*policy, gone map[*policy]bool, room int) []*policy {
	list := make([]*policy, 0, len(all)+room)
	for _, p := range all {
		if !gone[p] {
			list = append(list, p)
		}
	}
	return list
}
