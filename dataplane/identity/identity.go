// SPDX-License-Identifier: Apache-2.0

// Package identity says who has an address: what policy speaks of instead of addresses. A set is immutable; the next
// one shares with it what has not changed, so that a change costs what it touches.
package identity

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// ID is the number of a set of labels.
type ID uint32

// World is who has an address of no identity.
const World ID = 0

// Set is the identities of an epoch, and the addresses that have them. The zero value has none.
type Set struct {
	prefixes   *bart.Table[owner] // nil: none
	identities sparse.Map[entry]
}

// owner is who has a prefix.
type owner struct {
	id     ID
	origin uint32
}

type entry struct {
	config   *api.Identity
	prefixes int // that name it
}

// Of returns who has an address: the longest prefix that holds it decides. It does not allocate.
func (s *Set) Of(a packet.Addr) ID {
	if s.prefixes == nil {
		return World
	}
	o, _ := s.prefixes.Lookup(a.Netip())
	return o.id
}

// Get returns an identity, not to be changed; nil when there is none with this number.
func (s *Set) Get(id ID) *api.Identity {
	e, _ := s.identities.Get(uint32(id))
	return e.config
}

// Len returns how many identities there are.
func (s *Set) Len() int { return s.identities.Len() }

// All iterates over the identities in the order of their numbers.
func (s *Set) All() iter.Seq[*api.Identity] {
	return func(yield func(*api.Identity) bool) {
		for _, e := range s.identities.All() {
			if !yield(e.config) {
				return
			}
		}
	}
}

// Prefix is addresses that have an identity.
type Prefix struct {
	Prefix   netip.Prefix
	Identity ID
	Origin   uint32 // index into the snapshot's origins
}

// Prefixes iterates over the prefixes: IPv4 first, then by address and length.
func (s *Set) Prefixes() iter.Seq[Prefix] {
	return func(yield func(Prefix) bool) {
		if s.prefixes == nil {
			return
		}
		for p, o := range s.prefixes.AllSorted() {
			if !yield(Prefix{p, o.id, o.origin}) {
				return
			}
		}
	}
}

// PrefixesOf returns the prefixes of one identity, in the order of Prefixes.
func (s *Set) PrefixesOf(id ID) []Prefix {
	e, _ := s.identities.Get(uint32(id))
	list := make([]Prefix, 0, e.prefixes)
	if e.prefixes == 0 {
		return list
	}
	for p, o := range s.prefixes.All() {
		if o.id != id {
			continue
		}
		if list = append(list, Prefix{p, o.id, o.origin}); len(list) == e.prefixes {
			break
		}
	}
	slices.SortFunc(list, func(a, b Prefix) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return list
}

// InvalidError says what of a snapshot or a delta is at fault.
type InvalidError struct {
	Origin uint32 // index into the snapshot's origins
	Field  string // "identity_prefixes[3].identity"
	Reason string
}

// Error joins field and reason.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

func invalid(origin uint32, field, reason string, args ...any) error {
	return &InvalidError{origin, field, fmt.Sprintf(reason, args...)}
}

// Build makes the set of a snapshot, or an *InvalidError.
func Build(s *api.Snapshot) (*Set, error) {
	b := builder{identities: new(sparse.Map[entry]).Edit(), prefixes: new(bart.Table[owner])}
	return b.build(s, nil, nil)
}

// Update makes a set of s and a delta, or an *InvalidError. It is s where the delta has nothing to do with it.
func (s *Set) Update(d *api.Delta) (*Set, error) {
	set := d.GetSet()
	if len(set.GetIdentities())+len(set.GetIdentityPrefixes())+
		len(d.GetRemovedIdentities())+len(d.GetRemovedIdentityPrefixes()) == 0 {
		return s, nil
	}
	b := builder{identities: s.identities.Edit(), prefixes: s.prefixes, persist: true}
	if b.prefixes == nil {
		b.prefixes = new(bart.Table[owner])
	}
	return b.build(set, d.GetRemovedIdentities(), d.GetRemovedIdentityPrefixes())
}

// builder makes a set: of nothing in bulk, or of another one at the cost of what changes.
type builder struct {
	identities *sparse.Editor[entry]
	prefixes   *bart.Table[owner]
	persist    bool // the table is another set's: change copies
}

func (b *builder) build(set *api.Snapshot, gone []uint32, gonePrefixes []*api.Prefix) (*Set, error) {
	for i, identity := range set.GetIdentities() {
		if err := b.set(fmt.Sprintf("identities[%d]", i), identity); err != nil {
			return nil, err
		}
	}
	for i, p := range gonePrefixes {
		if err := b.removePrefix(fmt.Sprintf("removed_identity_prefixes[%d]", i), p); err != nil {
			return nil, err
		}
	}
	for i, p := range set.GetIdentityPrefixes() {
		if err := b.setPrefix(fmt.Sprintf("identity_prefixes[%d]", i), p); err != nil {
			return nil, err
		}
	}
	for i, id := range gone { // last: what names them may have gone, or been led elsewhere
		if err := b.remove(fmt.Sprintf("removed_identities[%d]", i), id); err != nil {
			return nil, err
		}
	}
	return &Set{b.prefixes, b.identities.Map()}, nil
}

func (b *builder) set(field string, identity *api.Identity) error {
	switch identity.GetKind() {
	case api.Identity_KIND_POD, api.Identity_KIND_NODE:
	default:
		return invalid(0, field+".kind", "%d is not known", identity.GetKind())
	}
	if identity.Id == 0 {
		return invalid(0, field+".id", "0 is the world outside")
	}
	e, _ := b.identities.Get(identity.Id)
	e.config = identity
	b.identities.Set(identity.Id, e)
	return nil
}

func (b *builder) remove(field string, id uint32) error {
	e, there := b.identities.Get(id)
	switch {
	case !there:
		return invalid(0, field, "there is no identity %d", id)
	case e.prefixes > 0:
		return invalid(0, field, "%d prefixes have identity %d", e.prefixes, id)
	}
	b.identities.Delete(id)
	return nil
}

func (b *builder) setPrefix(field string, cfg *api.IdentityPrefix) error {
	p, reason := Parse(cfg.GetPrefix())
	if reason != "" {
		return invalid(cfg.GetOrigin(), field+".prefix", "%s", reason)
	}
	if was, ok := b.prefixes.Get(p); ok {
		b.count(was.id, -1)
	}
	if !b.count(ID(cfg.Identity), 1) {
		return invalid(cfg.Origin, field+".identity", "there is no identity %d", cfg.Identity)
	}
	o := owner{ID(cfg.Identity), cfg.Origin}
	if b.persist {
		b.prefixes = b.prefixes.InsertPersist(p, o)
	} else {
		b.prefixes.Insert(p, o)
	}
	return nil
}

func (b *builder) removePrefix(field string, cfg *api.Prefix) error {
	p, reason := Parse(cfg)
	if reason != "" {
		return invalid(0, field, "%s", reason)
	}
	was, ok := b.prefixes.Get(p)
	if !ok {
		return invalid(0, field, "there is no prefix %s", p)
	}
	b.count(was.id, -1)
	b.prefixes = b.prefixes.DeletePersist(p)
	return nil
}

// count counts the prefixes that name an identity, and returns whether it exists.
func (b *builder) count(id ID, by int) bool {
	e, there := b.identities.Get(uint32(id))
	if there {
		e.prefixes += by
		b.identities.Set(uint32(id), e)
	}
	return there
}

// Parse reads a canonical prefix, or says why it is none. IPv6 forms of IPv4 addresses are none: they would be a
// second name of the same thing.
func Parse(cfg *api.Prefix) (p netip.Prefix, reason string) {
	a, ok := netip.AddrFromSlice(cfg.GetAddress())
	if !ok || a.Is4In6() {
		return p, "is not an IPv4 or IPv6 address"
	}
	if cfg.GetBits() > uint32(a.BitLen()) {
		return p, fmt.Sprintf("%d bits are more than the address has", cfg.GetBits())
	}
	if p = netip.PrefixFrom(a, int(cfg.GetBits())); p.Masked() != p {
		return p, fmt.Sprintf("%s has bits set behind its length", p)
	}
	return p, ""
}
