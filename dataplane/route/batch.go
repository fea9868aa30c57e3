// SPDX-License-Identifier: Apache-2.0

package route

import (
	"runtime"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// overlap is how many lookups LookupBatch has under way at once; their state stays in the first-level cache.
const overlap = 64

// LookupBatch is Lookup for each of addrs; the results go to groups, which must be as long or longer. It does not
// allocate.
//
// In a large table most of a lookup is waiting for memory, and between lookups one by one there are so many other
// instructions that the processor waits for each alone. Here all addresses take one step down before any takes the
// next, and no step branches on what it is the first to read, so that the waits of a batch overlap.
func (f *FIB) LookupBatch(addrs []packet.Addr, groups []*Group) {
	groups = groups[:len(addrs)]
	for len(addrs) > 0 {
		n := min(len(addrs), overlap)
		f.lookupSome(addrs[:n], groups[:n])
		addrs, groups = addrs[n:], groups[n:]
	}
}

// nowhere is where the addresses are in the tree that are not looked up there.
var nowhere tree

// lookupSome is LookupBatch for up to overlap addresses.
func (f *FIB) lookupSome(addrs []packet.Addr, groups []*Group) {
	var leaves [overlap]uint32 // of the levels above slots
	var slots [overlap]*tree
	var touched uint32
	for i, a := range addrs {
		slots[i] = &nowhere
		if !a.Is4() {
			slots[i] = &f.tree
		} else if f.direct != nil {
			touched += f.direct.touch(uint32(a.Lo))
		}
	}
	for range 2 { // the levels of 200,000 scattered routes
		for i, a := range addrs {
			slots[i] = slots[i].step(a, &leaves[i])
		}
	}
	for i := range addrs {
		if b := slots[i].bucket; b != nil {
			touched += b[0].leaf
		}
	}
	runtime.KeepAlive(touched)
	for i, a := range addrs {
		if a.Is4() {
			groups[i] = f.Lookup(a)
			continue
		}
		leaf := slots[i].lookup(a)
		if leaf == 0 {
			leaf = leaves[i]
		}
		groups[i] = f.group(leaf)
	}
}

// step returns the slot of a one node further down, and t itself where there is none. It sets leaf to t's, if any.
func (t *tree) step(a packet.Addr, leaf *uint32) *tree {
	if t.leaf != 0 {
		*leaf = t.leaf
	}
	n := t.node
	if n == nil || agree(a, n.key) < n.skip {
		return t
	}
	return &n.slots[n.index(a)]
}

// touch reads what lookup will read of a last, of the levels that do not stay in the caches.
func (d *direct) touch(a uint32) uint32 {
	n16 := d.slots[a>>24].child
	if n16 == nil {
		return 0
	}
	n24 := n16.slots[a>>16&255].child
	if n24 == nil {
		return 0
	}
	return n24.leaf[a>>8&255]
}
