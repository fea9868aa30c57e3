// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

// end is one end of a flow, found as far as was asked for.
type end struct {
	found bool
	addr  packet.Addr
	id    identity.ID
	sets  []uint32 // that the identity is in, ascending
	class *class   // of the identity; never nil once found

	blocks  uint32 // node of the longest prefix that a set names, 0: none
	learned names.Hits
}

// find finds out who has an address.
func (t *Table) find(e *end, a packet.Addr) {
	e.found, e.addr, e.id = true, a, t.ids.Of(a)
	m := t.members.get(uint32(e.id))
	e.sets, e.class = m.sets, m.class
	if e.class == nil {
		e.class = strange
		if e.id == identity.World {
			e.class = unselected
		}
	}
}

// look finds a peer's sets: by identity, by prefix, and by the names that the subject knows it by.
func (t *Table) look(e *end, q *Query, d direction) {
	if !e.found {
		a := q.Src
		if d == egress {
			a = q.Dst
		}
		t.find(e, a)
	}
	e.blocks = t.blocks.find(e.addr)
	if d == egress && t.patterns != nil && q.Names != nil {
		q.Names.Lookup(q.Port, e.addr, q.Now, q.Existing, &e.learned)
	}
}

// in says whether the end is in a set.
func (t *Table) in(e *end, set uint32) bool {
	if _, found := slices.BinarySearch(e.sets, set); found {
		return true
	}
	if e.blocks != 0 && t.blocks.in(e.blocks, set) {
		return true
	}
	for i := range e.learned.Len {
		if _, found := slices.BinarySearch(t.patterns.Sets(e.learned.Patterns[i]), set); found {
			return true
		}
	}
	return false
}
