// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// peerSet is a set and who speaks of it.
type peerSet struct {
	config    *api.PeerSet
	mentions  []mention // prefixes
	subjectOf []*policy
	uses      int // by rules
}

// setEditor makes the next sets.
type setEditor struct {
	*sparse.Editor[*peerSet]
	own     map[uint32]bool // that are no other table's
	touched map[uint32]bool // of whose identities the classes are found anew already
}

// edit returns a set that may be changed.
func (e *setEditor) edit(id uint32) *peerSet {
	s, _ := e.Get(id)
	if e.own[id] {
		return s
	}
	c := peerSet{}
	if s != nil {
		c = *s
		c.subjectOf = slices.Clone(s.subjectOf)
	}
	e.own[id] = true
	e.Set(id, &c)
	return &c
}

// set returns a set as edited so far, nil: there is none.
func (b *builder) set(id uint32) *peerSet {
	s, _ := b.sets.Get(id)
	return s
}

// setSets enters sets that are new, or in the place of others.
func (b *builder) setSets(list []*api.PeerSet) error {
	for i, cfg := range list {
		field := fmt.Sprintf("peer_sets[%d]", i)
		if err := cmp.Or(checkSet(field, cfg), b.checkReplaced(field, cfg)); err != nil {
			return err
		}
		if err := b.setSet(field, cfg); err != nil {
			return err
		}
	}
	return nil
}

// checkReplaced refuses what those who speak of a set may not.
func (b *builder) checkReplaced(field string, cfg *api.PeerSet) error {
	was := b.set(cfg.GetId())
	switch {
	case was == nil:
	case len(was.subjectOf) > 0 && len(cfg.GetBlocks())+len(cfg.GetDomains()) > 0:
		p := was.subjectOf[0].config
		return invalid(p.GetOrigin(), field, "is subject of %q and not of identities alone", p.GetName())
	case was.uses > 0 && len(was.config.GetDomains()) == 0 && len(cfg.GetDomains()) > 0:
		return b.checkSources(field+".domains", cfg.GetId())
	}
	return nil
}

// checkSources refuses a set that an ingress rule names.
func (b *builder) checkSources(field string, id uint32) error {
	for _, p := range b.prev.policies {
		for _, r := range p.config.GetRules() {
			if _, found := slices.BinarySearch(r.GetPeers(), id); found && r.GetDirection() == ingress {
				return invalid(p.config.GetOrigin(), field, "an ingress rule of %q names the set", p.config.GetName())
			}
		}
	}
	return nil
}

func (b *builder) setSet(field string, cfg *api.PeerSet) error {
	s := b.sets.edit(cfg.GetId())
	was := s.config
	s.config = cfg
	for i, id := range cfg.GetIdentities() {
		if b.t.ids.Get(identity.ID(id)) == nil {
			return invalid(0, fmt.Sprintf("%s.identities[%d]", field, i), "there is no identity %d", id)
		}
	}
	b.difference(s, was.GetIdentities(), cfg.GetIdentities())
	b.domains = b.domains || len(was.GetDomains())+len(cfg.GetDomains()) > 0
	for _, m := range s.mentions {
		b.blocks.remove(cfg.GetId(), m)
	}
	s.mentions = nil
	if len(cfg.GetBlocks()) > 0 {
		s.mentions = mentions(cfg.GetBlocks())
	}
	for _, m := range s.mentions {
		b.blocks.add(cfg.GetId(), m)
	}
	return nil
}

// difference lets identities leave and enter a set.
func (b *builder) difference(s *peerSet, was, is []uint32) {
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0] < is[0]:
			b.leave(s, was[0])
			was = was[1:]
		case len(was) == 0 || is[0] < was[0]:
			b.enter(s, is[0])
			is = is[1:]
		default:
			was, is = was[1:], is[1:]
		}
	}
}

func (b *builder) enter(s *peerSet, id uint32) {
	m := b.members.edit(id)
	m.sets = insert(m.sets, s.config.GetId())
	b.moved(s, id, m)
}

func (b *builder) leave(s *peerSet, id uint32) {
	m := b.members.edit(id)
	m.sets = without(m.sets, s.config.GetId())
	b.moved(s, id, m)
}

// moved sees to the class of an identity that came to a set or left it.
func (b *builder) moved(s *peerSet, id uint32, m *member) {
	if m.class != nil && len(s.subjectOf) > 0 {
		b.classes.dirty[id] = true
	}
}

// changeSets lets identities enter and leave sets, without looking at the others.
func (b *builder) changeSets(list []*api.PeerSetChange) error {
	for i, change := range list {
		field := fmt.Sprintf("peer_set_changes[%d]", i)
		id := change.GetId()
		at, found := slices.BinarySearchFunc(b.next.GetPeerSets(), id,
			func(s *api.PeerSet, id uint32) int { return cmp.Compare(s.GetId(), id) })
		if !found || b.set(id) == nil {
			return invalid(0, field+".id", "there is no peer set %d", id)
		}
		s := b.sets.edit(id)
		s.config = b.next.GetPeerSets()[at]
		if err := b.change(field, s, change); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) change(field string, s *peerSet, change *api.PeerSetChange) error {
	for i, id := range change.GetRemoved() {
		if _, there := slices.BinarySearch(b.members.get(id).sets, s.config.GetId()); !there {
			return invalid(0, fmt.Sprintf("%s.removed[%d]", field, i), "identity %d is not in the set", id)
		}
		b.leave(s, id)
	}
	for i, id := range change.GetAdded() {
		at := fmt.Sprintf("%s.added[%d]", field, i)
		if b.t.ids.Get(identity.ID(id)) == nil {
			return invalid(0, at, "there is no identity %d", id)
		}
		if _, there := slices.BinarySearch(b.members.get(id).sets, s.config.GetId()); there {
			return invalid(0, at, "identity %d is in the set already", id)
		}
		b.enter(s, id)
	}
	return nil
}

func (b *builder) removeSets(ids []uint32) error {
	for i, id := range ids {
		field := fmt.Sprintf("removed_peer_sets[%d]", i)
		s := b.set(id)
		switch {
		case s == nil:
			return invalid(0, field, "there is no peer set %d", id)
		case len(s.subjectOf) > 0:
			p := s.subjectOf[0].config
			return invalid(p.GetOrigin(), field, "peer set %d is subject of %q", id, p.GetName())
		case s.uses > 0:
			return invalid(0, field, "%d rules name peer set %d", s.uses, id)
		}
		b.difference(s, s.config.GetIdentities(), nil)
		for _, m := range s.mentions {
			b.blocks.remove(id, m)
		}
		b.domains = b.domains || len(s.config.GetDomains()) > 0
		b.sets.Delete(id)
	}
	return nil
}

// setDomains makes the patterns of all sets that have some.
func (b *builder) setDomains() {
	var list []names.Pattern
	for id, s := range b.t.sets.All() {
		for _, d := range s.config.GetDomains() {
			list = append(list, names.Pattern{Text: d, Set: id})
		}
	}
	b.t.patterns = names.NewPatterns(list)
}
