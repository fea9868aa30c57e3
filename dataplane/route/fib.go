// SPDX-License-Identifier: Apache-2.0

package route

import (
	"iter"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// table is the longest prefix match. Its values hold no pointers, so that the collector has less to follow.
type table = bart.Fast[leaf]

// leaf is one route: its group by number, so that a group is replaced for all of its routes at once.
type leaf struct{ group, origin uint32 }

// FIB is an immutable forwarding table. The zero value has no routes.
//
// The table has all routes; direct and tree are derived from it, and answer for IPv4 and IPv6.
type FIB struct {
	table  *table
	direct *direct // nil without IPv4 routes
	tree   tree
	groups []*Group // by number; nil where a number is free
	routes []int32  // routes of each group
}

// Lookup returns the group of the longest prefix that holds a, or nil when there is no route. It does not allocate.
func (f *FIB) Lookup(a packet.Addr) *Group {
	var leaf uint32
	if !a.Is4() {
		leaf = f.tree.lookup(a)
	} else if f.direct != nil {
		leaf = f.direct.lookup(uint32(a.Lo))
	}
	return f.group(leaf)
}

// group returns the group of a leaf of direct or tree.
func (f *FIB) group(leaf uint32) *Group {
	if leaf == 0 {
		return nil
	}
	return f.groups[leaf-1]
}

// Get returns the route of exactly this prefix.
func (f *FIB) Get(prefix netip.Prefix) (r Route, ok bool) {
	if f.table == nil {
		return Route{}, false
	}
	l, ok := f.table.Get(prefix)
	if !ok {
		return Route{}, false
	}
	return Route{prefix.Masked(), f.groups[l.group], l.origin}, true
}

// Size returns the number of routes of both families.
func (f *FIB) Size() int {
	if f.table == nil {
		return 0
	}
	return f.table.Size()
}

// Route is one prefix of a FIB.
type Route struct {
	Prefix netip.Prefix
	Group  *Group
	Origin uint32 // index into the snapshot's origins
}

// All iterates over the routes: IPv4 first, then by address and length.
func (f *FIB) All() iter.Seq[Route] {
	return func(yield func(Route) bool) {
		if f.table == nil {
			return
		}
		for prefix, l := range f.table.AllSorted() {
			if !yield(Route{prefix, f.groups[l.group], l.origin}) {
				return
			}
		}
	}
}

// Builder makes a FIB: a first one in bulk, or one from another at the cost of what changes. One goroutine uses it.
type Builder struct {
	fib      FIB
	numbers  map[*Group]uint32
	free     []uint32
	shared   bool // the table is another FIB's: change copies
	painter  painter
	forester forester
}

// builders numbers the builders, so that each knows its own nodes.
var builders atomic.Uint64

// NewBuilder returns a builder of an empty FIB, for bulk loads.
func NewBuilder() *Builder {
	owner := builders.Add(1)
	return &Builder{
		fib:      FIB{table: new(table)},
		numbers:  map[*Group]uint32{},
		painter:  painter{owner: owner},
		forester: forester{owner: owner},
	}
}

// Edit returns a builder that starts with the routes of f, which stays as it is. Each change then copies the few
// nodes on its way.
func (f *FIB) Edit() *Builder {
	if f.table == nil {
		return NewBuilder()
	}
	owner := builders.Add(1)
	b := &Builder{
		fib:      FIB{table: f.table, groups: slices.Clone(f.groups), routes: slices.Clone(f.routes)},
		numbers:  make(map[*Group]uint32, len(f.groups)),
		shared:   true,
		painter:  painter{owner, f.direct},
		forester: forester{owner, f.tree},
	}
	for i, g := range f.groups {
		if g == nil {
			b.free = append(b.free, uint32(i))
			continue
		}
		b.numbers[g] = uint32(i)
	}
	return b
}

// Get returns the route of exactly this prefix, as built so far.
func (b *Builder) Get(prefix netip.Prefix) (Route, bool) { return b.fib.Get(prefix) }

// Size returns the number of routes built so far.
func (b *Builder) Size() int { return b.fib.Size() }

// Set adds the route of a prefix, or replaces it.
func (b *Builder) Set(prefix netip.Prefix, g *Group, origin uint32) {
	l := leaf{b.number(g), origin}
	b.fib.routes[l.group]++
	if b.shared {
		by := 1
		if was, ok := b.fib.table.Get(prefix); ok {
			b.release(was.group)
			by = 0
		}
		b.fib.table = b.fib.table.InsertPersist(prefix, l)
		b.follow(prefix.Masked(), by)
		return
	}
	b.fib.table.Modify(prefix, func(was leaf, ok bool) (leaf, bool) {
		if ok {
			b.release(was.group)
		}
		return l, false
	})
}

// Delete removes the route of a prefix and returns whether there was one.
func (b *Builder) Delete(prefix netip.Prefix) bool {
	was, ok := b.fib.table.Get(prefix)
	if !ok {
		return false
	}
	b.release(was.group)
	if b.shared {
		b.fib.table = b.fib.table.DeletePersist(prefix)
		b.follow(prefix.Masked(), -1)
	} else {
		b.fib.table.Delete(prefix)
	}
	return true
}

// Replace leads the routes of each group that is a key of with to the group that is its value, all at once and at a
// cost that does not depend on how many routes they are.
func (b *Builder) Replace(with map[*Group]*Group) {
	if len(with) == 0 {
		return
	}
	for i, from := range b.fib.groups { // a group has several numbers when it took another's place before
		to := with[from]
		if to == nil || from == nil {
			continue
		}
		b.fib.groups[i] = to
		if n, ok := b.numbers[from]; ok && n == uint32(i) {
			delete(b.numbers, from)
		}
		if _, ok := b.numbers[to]; !ok {
			b.numbers[to] = uint32(i)
		}
	}
}

// Build returns the FIB. The builder must not be used after it.
func (b *Builder) Build() *FIB {
	if !b.shared {
		b.paintAll()
		b.forester.plantAll(b.fib.table)
	}
	f := b.fib
	f.direct, f.tree = b.painter.root, b.forester.root
	b.fib = FIB{}
	return &f
}

// follow makes direct or tree what the table says of a prefix whose route was added (by is 1), replaced (0) or deleted
// (-1).
func (b *Builder) follow(prefix netip.Prefix, by int) {
	if !prefix.Addr().Is4() {
		b.forester.change(b.fib.table, prefix, by)
		return
	}
	if b.repaint(prefix); by < 0 {
		a, _, _ := number32(prefix)
		b.painter.prune(a)
	}
}

// repaint makes the slots of a changed IPv4 prefix what the table says.
func (b *Builder) repaint(prefix netip.Prefix) {
	_, shift, _ := number32(prefix)
	level := 32 - shift
	b.painter.paint(prefix, func(leaf *uint32, a uint32) {
		*leaf = 0
		slot := netip.PrefixFrom(packet.Addr4(a).Netip(), level)
		best, l, ok := b.fib.table.LookupPrefixLPM(slot)
		if ok && (best.Bits() > level-8 || level == 8) {
			*leaf = l.group + 1
		}
	})
}

// paintAll paints the whole table, short prefixes before long ones.
func (b *Builder) paintAll() {
	type route4 struct {
		prefix netip.Prefix
		leaf   uint32
	}
	var next [34]int // by length: where its next route goes
	for p := range b.fib.table.All4() {
		next[p.Bits()+1]++
	}
	for bits := range 33 {
		next[bits+1] += next[bits]
	}
	routes := make([]route4, next[33])
	for p, l := range b.fib.table.All4() {
		routes[next[p.Bits()]] = route4{p, l.group + 1}
		next[p.Bits()]++
	}
	for _, r := range routes {
		b.painter.paint(r.prefix, func(leaf *uint32, _ uint32) { *leaf = r.leaf })
	}
}

func (b *Builder) number(g *Group) uint32 {
	if n, ok := b.numbers[g]; ok {
		return n
	}
	if last := len(b.free) - 1; last >= 0 {
		n := b.free[last]
		b.free = b.free[:last]
		b.fib.groups[n], b.numbers[g] = g, n
		return n
	}
	n := uint32(len(b.fib.groups))
	b.fib.groups = append(b.fib.groups, g)
	b.fib.routes = append(b.fib.routes, 0)
	b.numbers[g] = n
	return n
}

// release takes one route from a group's number, and frees the number with the last one.
func (b *Builder) release(n uint32) {
	if b.fib.routes[n]--; b.fib.routes[n] > 0 {
		return
	}
	g := b.fib.groups[n]
	if own, ok := b.numbers[g]; ok && own == n {
		delete(b.numbers, g)
	}
	b.fib.groups[n] = nil
	b.free = append(b.free, n)
}
