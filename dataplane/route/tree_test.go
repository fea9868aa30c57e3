// SPDX-License-Identifier: Apache-2.0

package route

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// genWood draws a source of addresses that nest deeply in some bits and scatter in others, which the tree skips, takes
// and forks at.
func genWood(t *rapid.T) func(r *rand.Rand) packet.Addr {
	mask := func(label string) uint64 {
		return rapid.SampledFrom([]uint64{0, ^uint64(0), 0xf00000000000000f, 0x00000000ffff0000, 0x8000000000000001,
			0x0000ff0000000000}).Draw(t, label)
	}
	hi, lo := mask("hi"), mask("lo")
	base := packet.Addr{Hi: rapid.Uint64().Draw(t, "base hi"), Lo: rapid.Uint64().Draw(t, "base lo")}
	return func(r *rand.Rand) packet.Addr {
		switch a := (packet.Addr{Hi: base.Hi ^ hi&r.Uint64(), Lo: base.Lo ^ lo&r.Uint64()}); r.IntN(8) {
		case 0: // beside the others, from anywhere on the way to them
			bit := r.IntN(128)
			if bit < 64 {
				a.Hi ^= 1 << bit
			} else {
				a.Lo ^= 1 << (bit - 64)
			}
			return a
		default:
			return a
		}
	}
}

// wood is a table of many IPv6 routes beside its slow twin.
type wood struct {
	t     *rapid.T
	r     *rand.Rand
	addr  func(r *rand.Rand) packet.Addr
	fib   *FIB
	want  linear
	known []netip.Prefix // all that ever were, each once
}

func (w *wood) prefix() netip.Prefix {
	if len(w.known) > 0 && w.r.IntN(3) == 0 {
		return w.known[w.r.IntN(len(w.known))]
	}
	bits := w.r.IntN(129)
	if w.r.IntN(2) == 0 {
		bits = []int{0, 32, 48, 63, 64, 65, 127, 128}[w.r.IntN(8)]
	}
	return prefix6(w.addr(w.r), uint8(bits)).Masked()
}

func (w *wood) set(b *Builder, p netip.Prefix, g *Group) {
	if _, there := w.want[p]; !there {
		w.known = append(w.known, p)
	}
	b.Set(p, g, 0)
	w.want[p] = Route{p, g, 0}
}

func (w *wood) delete(b *Builder, p netip.Prefix) {
	if _, there := w.want[p]; b.Delete(p) != there {
		w.t.Fatalf("delete of %s: not %t", p, there)
	}
	delete(w.want, p)
}

// probes are addresses at the edges of known prefixes, and any others.
func (w *wood) probes(n int) []packet.Addr {
	var list []packet.Addr
	for range n {
		a := w.addr(w.r)
		if len(w.known) > 0 && w.r.IntN(2) == 0 {
			p := w.known[w.r.IntN(len(w.known))]
			a = packet.AddrFrom(p.Addr())
			switch last := packet.AddrFrom(p.Addr()); w.r.IntN(4) {
			case 0: // the first address
			case 1: // the one before it
				if a.Lo--; a.Lo == ^uint64(0) {
					a.Hi--
				}
			default: // the last, and the one after it
				ones := mask(packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}, uint8(p.Bits()))
				a = packet.Addr{Hi: last.Hi | ^ones.Hi, Lo: last.Lo | ^ones.Lo}
				if w.r.IntN(2) == 0 {
					if a.Lo++; a.Lo == 0 {
						a.Hi++
					}
				}
			}
		}
		list = append(list, a)
	}
	return list
}

func (w *wood) check(f *FIB, probes []packet.Addr, want linear) {
	w.t.Helper()
	groups := make([]*Group, len(probes))
	f.LookupBatch(probes, groups)
	for i, a := range probes {
		if a.Is4() {
			continue
		}
		if got, want := f.Lookup(a), want.lookup(prefix6(a, 128).Addr()); got != want {
			w.t.Fatalf("lookup of %s among %d routes: got %p, want %p", a.Netip(), f.Size(), got, want)
		}
		if groups[i] != f.Lookup(a) {
			w.t.Fatalf("lookup of %s in a batch: got %p, want %p", a.Netip(), groups[i], f.Lookup(a))
		}
	}
}

// account checks what the tree keeps of itself, and returns the routes below a slot.
func (w *wood) account(t *tree, above uint8, seen map[uint8]int) int {
	routes := 0
	if t.bucket != nil {
		for _, r := range t.bucket {
			if r.bits != never {
				routes++
			}
			if r.bits <= above {
				w.t.Fatalf("a route of %d bits in a bucket below %d", r.bits, above)
			}
		}
	}
	n := t.node
	if n == nil {
		return routes
	}
	if t.bucket != nil || n.skip < above || n.end <= n.skip || n.key != mask(n.key, n.skip) {
		w.t.Fatalf("node of bits %d to %d of %v below %d", n.skip, n.end, n.key, above)
	}
	seen[n.end-n.skip]++
	for p := range w.want {
		key := packet.AddrFrom(p.Addr())
		if p.Bits() > int(n.skip) && p.Bits() <= int(n.end) && agree(key, n.key) >= n.skip {
			routes++
		}
	}
	for i := range n.slots {
		if n.index(n.slotKey(i)) != i {
			w.t.Fatalf("slot %d of bits %d to %d is found at %d", i, n.skip, n.end, n.index(n.slotKey(i)))
		}
		routes += w.account(&n.slots[i], n.end, seen)
	}
	if routes != n.routes {
		w.t.Fatalf("node of bits %d to %d counts %d routes, has %d", n.skip, n.end, n.routes, routes)
	}
	return routes
}

// Tables large enough for every shape of a tree give what a linear search gives, after bulk loads, changes one by one
// and deletions down to nothing; tables built before stay as they were.
func TestTreeAgainstLinearSearch(t *testing.T) {
	seen := map[uint8]int{}
	rapid.Check(t, func(t *rapid.T) {
		groups := testGroups()
		w := &wood{t: t, r: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), addr: genWood(t), want: linear{}}
		b := NewBuilder()
		for range rapid.SampledFrom([]int{0, 5, 50, 300}).Draw(t, "bulk") {
			w.set(b, w.prefix(), groups[w.r.IntN(len(groups))])
		}
		w.fib = b.Build()
		w.check(w.fib, w.probes(50), w.want)
		for range rapid.IntRange(0, 8).Draw(t, "edits") {
			deletions := rapid.SampledFrom([]int{1, 5, 9}).Draw(t, "deletions in 10")
			was, probes := w.fib, w.probes(20)
			before := make([]*Group, len(probes))
			for i, a := range probes {
				before[i] = was.Lookup(a)
			}
			b := was.Edit()
			for range rapid.SampledFrom([]int{1, 10, 200}).Draw(t, "changes") {
				if p := w.prefix(); w.r.IntN(10) < deletions {
					w.delete(b, p)
				} else {
					w.set(b, p, groups[w.r.IntN(len(groups))])
				}
			}
			w.fib = b.Build()
			w.check(w.fib, w.probes(50), w.want)
			w.account(&w.fib.tree, 0, seen)
			for i, a := range probes {
				if was.Lookup(a) != before[i] {
					t.Fatal("an edit changed the table it started from")
				}
			}
		}
		b = w.fib.Edit()
		for _, p := range w.known {
			w.delete(b, p)
		}
		if f := b.Build(); f.tree != (tree{}) {
			t.Fatalf("a tree of %d routes is left of none", w.account(&f.tree, 0, seen))
		}
	})
	for _, stride := range []uint8{1, 2, 3, 4, 5, 6, 7} {
		if seen[stride] == 0 {
			t.Errorf("no node took %d bits", stride)
		}
	}
}

// Routes come and go beside a large subtree at the cost of a fork, and leave no chain of forks behind.
func TestForksComeAndGo(t *testing.T) {
	b, g := NewBuilder(), NewGroup(Blackhole, nil, nil)
	for i := range uint64(1000) {
		b.Set(prefix6(packet.Addr{Hi: 0xfd00_1234_5678_9abc, Lo: i}, 128), g, 0)
	}
	f := b.Build()
	large := f.tree.node
	for bits := uint8(1); bits <= 64; bits++ {
		beside := prefix6(packet.Addr{Hi: 0xfd00_1234_5678_9abc ^ 1<<(64-bits)}, bits)
		edit := f.Edit()
		edit.Set(beside, g, 0)
		with := edit.Build()
		if with.tree.node == large || with.tree.node.routes != 1001 {
			t.Fatalf("no fork for %s", beside)
		}
		edit = with.Edit()
		edit.Delete(beside)
		if f = edit.Build(); f.tree.node != large {
			t.Fatalf("the fork for %s is left, or the subtree was built anew", beside)
		}
	}
}

// A table of 200,000 scattered routes takes tens of megabytes, not hundreds.
func TestTreeIsBounded(t *testing.T) {
	b, g := NewBuilder(), NewGroup(Blackhole, nil, nil)
	for _, p := range prefixes6(rand.New(rand.NewPCG(1, 2)), 200_000) {
		b.Set(p, g, 0)
	}
	f := b.Build()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	with := heap()
	f.tree = tree{}
	if size := int64(with-heap()) >> 20; size < 1 || size > 60 {
		t.Errorf("the tree takes %d MiB", size)
	}
	runtime.KeepAlive(f)
}
