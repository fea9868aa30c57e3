// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

// shared is a class, and how many identities have it.
type shared struct {
	class *class
	users int
}

// classEditor makes the next classes.
type classEditor struct {
	all   map[string]shared
	ours  bool            // all is no other table's
	dirty map[uint32]bool // identities of stations here whose class is to be found anew
	found map[string]*selection
	gone  []string // that may have no user any more
}

// selection is the policies that have some sets as subjects.
type selection struct {
	policies []*policy
	key      []byte // of them
	class    *class // nil: not known yet, or it depends on the names of ports
	named    bool   // one of them names ports of the subject
}

// setLocal takes over which identities have classes.
func (b *builder) setLocal(local []identity.ID) {
	was, is := b.t.local, local
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0] < is[0]:
			b.setClass(uint32(was[0]), nil)
			delete(b.classes.dirty, uint32(was[0]))
			was = was[1:]
		case len(was) == 0 || is[0] < was[0]:
			b.classes.dirty[uint32(is[0])] = true
			is = is[1:]
		default:
			was, is = was[1:], is[1:]
		}
	}
	if !slices.Equal(b.t.local, local) {
		b.t.local = slices.Clone(local)
	}
}

// setClasses finds the classes of those that may have another one.
func (b *builder) setClasses() {
	for id := range b.classes.dirty {
		ports := b.t.ids.Get(identity.ID(id)).GetNamedPorts()
		b.setClass(id, b.classOf(b.selection(b.members.get(id).sets), ports))
	}
	for _, key := range b.classes.gone {
		if s, there := b.classes.all[key]; there && s.users == 0 {
			delete(b.classes.all, key)
		}
	}
}

// setClass gives an identity a class, or takes it.
func (b *builder) setClass(id uint32, c *class) {
	was := b.members.get(id).class
	if was == c {
		return
	}
	if was != nil && was.key != "" {
		b.classes.count(was, -1)
		b.classes.gone = append(b.classes.gone, was.key)
	}
	if c != nil && c.key != "" {
		b.classes.count(c, 1)
	}
	b.members.edit(id).class = c
}

func (e *classEditor) count(c *class, by int) {
	if !e.ours {
		e.all, e.ours = maps.Clone(e.all), true
		if e.all == nil {
			e.all = map[string]shared{}
		}
	}
	s := e.all[c.key]
	e.all[c.key] = shared{c, s.users + by}
}

// selection returns the policies that select who is in these sets.
func (b *builder) selection(sets []uint32) *selection {
	var key []byte
	for _, id := range sets {
		if s := b.set(id); len(s.subjectOf) > 0 {
			key = binary.LittleEndian.AppendUint32(key, id)
		}
	}
	if s, there := b.classes.found[string(key)]; there {
		return s
	}
	s := selectionOf(b.sets.Get, sets)
	b.classes.found[string(key)] = s
	return s
}

// selectionOf gathers the policies of which one of the sets is a subject.
func selectionOf(get func(uint32) (*peerSet, bool), sets []uint32) *selection {
	s := new(selection)
	for _, id := range sets {
		if set, _ := get(id); set != nil {
			s.policies = append(s.policies, set.subjectOf...)
		}
	}
	slices.SortFunc(s.policies, comparePolicies)
	s.policies = slices.Compact(s.policies)
	key := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+4*len(s.policies)), uint32(len(s.policies)))
	for _, p := range s.policies {
		key = binary.LittleEndian.AppendUint32(key, uint32(p.first))
		s.named = s.named || p.named
	}
	s.key = key
	return s
}

// classOf returns the class of those whom these policies select and whose ports have these names.
func (b *builder) classOf(s *selection, ports []*api.NamedPort) *class {
	switch {
	case len(s.policies) == 0:
		return unselected
	case s.class != nil:
		return s.class
	}
	key := sha256.New()
	key.Write(s.key)
	if s.named {
		for _, p := range ports {
			fmt.Fprintf(key, "%d/%d/%q", p.GetProtocol(), p.GetPort(), p.GetName())
		}
	}
	c := b.class(string(key.Sum(nil)), s, ports)
	if !s.named {
		s.class = c
	}
	return c
}

func (b *builder) class(key string, s *selection, ports []*api.NamedPort) *class {
	if c, there := b.classes.all[key]; there {
		return c.class
	}
	c := compile(s.policies, ports)
	c.key = key
	b.classes.count(c, 0)
	return c
}
