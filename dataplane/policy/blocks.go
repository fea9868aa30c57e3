// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// blocks says which sets hold an address by prefix. Each prefix that a set names, be it as an exception, has a node,
// which says of the sets that name it whether they hold the addresses of it; of a set's nodes around an address the
// longest decides. So a prefix costs the sets that name it, and not those of the prefixes around it.
//
// Nodes are numbered, so that what is inside one need not change with it.
type blocks struct {
	lpm   *bart.Table[uint32] // nil: there are none
	nodes []*node             // 0 is none
}

type node struct {
	parent  uint32   // of the longest prefix around it, 0: none
	in, out []uint32 // sets that hold it, and that hold it not, ascending
}

// find returns the node of the longest prefix that holds an address, 0: none.
func (b *blocks) find(a packet.Addr) uint32 {
	if b.lpm == nil {
		return 0
	}
	n, _ := b.lpm.Lookup(a.Netip())
	return n
}

// in says whether a set holds addresses that belong to a node.
func (b *blocks) in(n, set uint32) bool {
	for ; n != 0; n = b.nodes[n].parent {
		if _, found := slices.BinarySearch(b.nodes[n].in, set); found {
			return true
		}
		if _, found := slices.BinarySearch(b.nodes[n].out, set); found {
			return false
		}
	}
	return false
}

// size is how many sets may hold addresses that belong to a node.
func (b *blocks) size(n uint32) (size int) {
	for ; n != 0; n = b.nodes[n].parent {
		size += len(b.nodes[n].in)
	}
	return size
}

// mention is a prefix that a set names, and whether the set holds its addresses, longer ones left out.
type mention struct {
	prefix netip.Prefix
	in     bool
}

// mentions returns the prefixes that blocks name, each once. They are valid.
//
// A prefix is held where more blocks are around it than blocks except it: each block counts at its prefix, and is taken
// off at the exceptions that are in no other one of its own. So what one costs does not depend on the others.
func mentions(list []*api.PrefixSet) []mention {
	named := map[netip.Prefix]bool{}
	counts := new(bart.Table[int])
	count := func(p netip.Prefix, by int) {
		was, _ := counts.Get(p)
		counts.Insert(p, was+by)
	}
	for _, b := range list {
		p, _ := identity.Parse(b.GetPrefix())
		named[p] = true
		count(p, 1)
		for _, e := range outermost(b.GetExcept(), named) {
			count(e, -1)
		}
	}
	made := make([]mention, 0, len(named))
	for p := range named {
		around := 0
		for _, by := range counts.Supernets(p) {
			around += by
		}
		made = append(made, mention{p, around > 0})
	}
	slices.SortFunc(made, func(a, b mention) int { return a.prefix.Compare(b.prefix) })
	return made
}

// outermost returns the prefixes of a list that are in no other one of it. All of them are named.
func outermost(list []*api.Prefix, named map[netip.Prefix]bool) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(list))
	for _, one := range list {
		p, _ := identity.Parse(one)
		named[p] = true
		all = append(all, p)
	}
	slices.SortFunc(all, netip.Prefix.Compare) // what is around another one goes before it
	outer := all[:0]
	for _, p := range all {
		if n := len(outer); n == 0 || !outer[n-1].Overlaps(p) {
			outer = append(outer, p)
		}
	}
	return outer
}

// blockEditor makes the next blocks.
type blockEditor struct {
	blocks
	persist bool            // the trie is another table's: change copies
	own     map[uint32]bool // nodes that are no other table's; nil: the list is not ours either
	free    []uint32
}

// edit returns a node that may be changed.
func (e *blockEditor) edit(n uint32) *node {
	if !e.own[n] {
		c := *e.nodes[n]
		c.in, c.out = slices.Clone(c.in), slices.Clone(c.out)
		e.nodes[n], e.own[n] = &c, true
	}
	return e.nodes[n]
}

// begin makes the list of nodes ours.
func (e *blockEditor) begin() {
	if e.own != nil {
		return
	}
	e.own = map[uint32]bool{}
	e.nodes = slices.Clone(e.nodes)
	if e.lpm == nil {
		e.lpm, e.nodes, e.persist = new(bart.Table[uint32]), []*node{nil}, false
	}
	for n := 1; n < len(e.nodes); n++ {
		if e.nodes[n] == nil {
			e.free = append(e.free, uint32(n))
		}
	}
}

// add enters what a set says of a prefix.
func (e *blockEditor) add(set uint32, m mention) {
	e.begin()
	n, there := e.lpm.Get(m.prefix)
	if !there {
		n = e.create(m.prefix)
	}
	c := e.edit(n)
	if m.in {
		c.in = insert(c.in, set)
	} else {
		c.out = insert(c.out, set)
	}
}

func (e *blockEditor) create(p netip.Prefix) uint32 {
	_, parent, _ := e.lpm.LookupPrefixLPM(p)
	n := uint32(len(e.nodes))
	if k := len(e.free); k > 0 {
		n, e.free = e.free[k-1], e.free[:k-1]
		e.nodes[n] = &node{parent: parent}
	} else {
		e.nodes = append(e.nodes, &node{parent: parent})
	}
	e.own[n] = true
	e.adopt(p, parent, n)
	if e.persist {
		e.lpm = e.lpm.InsertPersist(p, n)
	} else {
		e.lpm.Insert(p, n)
	}
	return n
}

// adopt gives the children of a node that are inside a prefix another parent.
func (e *blockEditor) adopt(p netip.Prefix, from, to uint32) {
	for _, inner := range e.lpm.Subnets(p) {
		if inner != to && e.nodes[inner].parent == from {
			e.edit(inner).parent = to
		}
	}
}

// remove takes back what add entered.
func (e *blockEditor) remove(set uint32, m mention) {
	e.begin()
	n, there := e.lpm.Get(m.prefix)
	if !there {
		return
	}
	c := e.edit(n)
	c.in, c.out = without(c.in, set), without(c.out, set)
	if len(c.in)+len(c.out) > 0 {
		return
	}
	if e.persist {
		e.lpm = e.lpm.DeletePersist(m.prefix)
	} else {
		e.lpm.Delete(m.prefix)
	}
	e.adopt(m.prefix, n, c.parent)
	e.nodes[n] = nil
	delete(e.own, n)
	e.free = append(e.free, n)
}

// made returns the blocks, without a trie where it is empty.
func (e *blockEditor) made() blocks {
	if e.lpm != nil && e.lpm.Size() == 0 {
		return blocks{}
	}
	return e.blocks
}

// insert puts a number into an ascending list that is the caller's.
func insert(list []uint32, v uint32) []uint32 {
	if n := len(list); n == 0 || list[n-1] < v {
		return append(list, v)
	}
	if i, found := slices.BinarySearch(list, v); !found {
		return slices.Insert(list, i, v)
	}
	return list
}

// without takes a number out of an ascending list that is the caller's.
func without(list []uint32, v uint32) []uint32 {
	if i, found := slices.BinarySearch(list, v); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}
