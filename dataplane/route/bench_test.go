// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// lengths4 and lengths6 are how prefix lengths are spread in a full Internet table, roughly, in percent.
var (
	lengths4 = map[int]int{24: 60, 23: 10, 22: 11, 21: 5, 20: 5, 19: 3, 16: 2, 18: 2, 17: 1, 15: 1}
	lengths6 = map[int]int{48: 45, 32: 12, 40: 9, 44: 9, 36: 5, 29: 5, 46: 4, 33: 3, 42: 3, 64: 5}
)

func spread(lengths map[int]int) []int {
	var all []int
	for bits := range 129 {
		for range lengths[bits] {
			all = append(all, bits)
		}
	}
	return all
}

func prefixes4(r *rand.Rand, n int) []netip.Prefix {
	lengths, seen := spread(lengths4), make(map[netip.Prefix]bool, n)
	for len(seen) < n {
		a := [4]byte{byte(1 + r.IntN(223)), byte(r.Uint32()), byte(r.Uint32()), 0}
		seen[netip.PrefixFrom(netip.AddrFrom4(a), lengths[r.IntN(len(lengths))]).Masked()] = true
	}
	return keys(seen)
}

func prefixes6(r *rand.Rand, n int) []netip.Prefix {
	lengths, seen := spread(lengths6), make(map[netip.Prefix]bool, n)
	for len(seen) < n {
		a := [16]byte{0: 0x20 + byte(r.IntN(12)), 1: byte(r.Uint32()), 2: byte(r.Uint32()), 3: byte(r.IntN(64)),
			4: byte(r.Uint32()), 5: byte(r.Uint32()), 6: byte(r.IntN(8)), 7: byte(r.IntN(8))}
		seen[netip.PrefixFrom(netip.AddrFrom16(a), lengths[r.IntN(len(lengths))]).Masked()] = true
	}
	return keys(seen)
}

func sortPrefixes(list []netip.Prefix) { slices.SortFunc(list, netip.Prefix.Compare) }

func keys(m map[netip.Prefix]bool) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(m))
	for p := range m {
		list = append(list, p)
	}
	sortPrefixes(list) // maps are in no order; the same run must give the same table
	rand.New(rand.NewPCG(5, 6)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// within returns a power of two of random addresses inside random prefixes of the list.
func within(r *rand.Rand, prefixes []netip.Prefix, n int) []packet.Addr {
	addrs := make([]packet.Addr, n)
	for i := range addrs {
		p := prefixes[r.IntN(len(prefixes))]
		a := packet.AddrFrom(p.Addr())
		if p.Addr().Is4() {
			a.Lo |= uint64(r.Uint32()) & (1<<(32-p.Bits()) - 1)
		} else {
			a.Lo = r.Uint64()
		}
		addrs[i] = a
	}
	return addrs
}

type size struct{ v4, v6 int }

var sizes = []size{{5, 5}, {10_000, 0}, {1_000_000, 200_000}}

func (s size) prefixes(r *rand.Rand) (v4, v6 []netip.Prefix) {
	return prefixes4(r, s.v4), prefixes6(r, s.v6)
}

func testGroups() []*Group {
	groups := make([]*Group, 64)
	for i := range groups {
		groups[i] = NewGroup(Forward, []Hop{{Port: packet.PortID(i + 1)}}, nil)
	}
	return groups
}

func buildFIB(prefixes ...[]netip.Prefix) *FIB {
	groups, b := testGroups(), NewBuilder()
	for _, list := range prefixes {
		for i, p := range list {
			b.Set(p, groups[i%len(groups)], 0)
		}
	}
	return b.Build()
}

var (
	sink  *Group
	found leaf
)

func BenchmarkLookup(b *testing.B) {
	for _, s := range sizes {
		r := rand.New(rand.NewPCG(1, 2))
		v4, v6 := s.prefixes(r)
		f := buildFIB(v4, v6)
		for family, list := range map[string][]netip.Prefix{"v4": v4, "v6": v6} {
			if len(list) == 0 {
				continue
			}
			addrs := within(r, list, 1<<20)
			b.Run(fmt.Sprintf("routes=%d+%d/%s", s.v4, s.v6, family), func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					sink = f.Lookup(addrs[i&(len(addrs)-1)])
				}
			})
		}
	}
}

// work stands for what else a pipeline does with a packet: enough instructions that one lookup's wait for memory ends
// before the next lookup begins.
//
//go:noinline
func work(g *Group, a packet.Addr, frame *[64]byte) {
	x := a.Lo
	for i := range 60 {
		x = x*31 + uint64(frame[i])
		frame[x>>7&63]++
	}
	frame[0] += byte(g.Kind)
}

// BenchmarkBatch compares lookups that are each followed by work with a batch of lookups, then work for all. What a
// lookup costs is the difference to work alone.
func BenchmarkBatch(b *testing.B) {
	v4, v6 := size{1_000_000, 200_000}.prefixes(rand.New(rand.NewPCG(1, 2)))
	f := buildFIB(v4, v6)
	var groups [256]*Group
	var frame [64]byte
	for family, list := range map[string][]netip.Prefix{"v4": v4, "v6": v6} {
		addrs := within(rand.New(rand.NewPCG(3, 4)), list, 1<<20)
		for name, do := range map[string]func([]packet.Addr){
			"work": func(batch []packet.Addr) {
				for _, a := range batch {
					work(f.groups[0], a, &frame)
				}
			},
			"single": func(batch []packet.Addr) {
				for _, a := range batch {
					work(f.Lookup(a), a, &frame)
				}
			},
			"batch": func(batch []packet.Addr) {
				f.LookupBatch(batch, groups[:])
				for i, a := range batch {
					work(groups[i], a, &frame)
				}
			},
		} {
			b.Run(family+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; i < b.N; i += len(groups) {
					at := i & (len(addrs) - 1)
					do(addrs[at : at+len(groups)])
				}
			})
		}
	}
}

// BenchmarkVariants compares what bart offers for the table: time of a random lookup and memory of the whole.
func BenchmarkVariants(b *testing.B) {
	for _, s := range sizes {
		r := rand.New(rand.NewPCG(1, 2))
		v4, v6 := s.prefixes(r)
		b.Run(fmt.Sprintf("routes=%d+%d/fast", s.v4, s.v6), func(b *testing.B) {
			variant(b, new(bart.Fast[leaf]), v4, v6)
		})
		b.Run(fmt.Sprintf("routes=%d+%d/table", s.v4, s.v6), func(b *testing.B) {
			variant(b, new(bart.Table[leaf]), v4, v6)
		})
	}
}

func variant(b *testing.B, t interface {
	Insert(netip.Prefix, leaf)
	Lookup(netip.Addr) (leaf, bool)
}, v4, v6 []netip.Prefix) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, p := range v4 {
		t.Insert(p, leaf{})
	}
	for _, p := range v6 {
		t.Insert(p, leaf{})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	addrs := within(rand.New(rand.NewPCG(3, 4)), v4, 1<<20)
	b.ResetTimer()
	for i := range b.N {
		l, _ := t.Lookup(addrs[i&(len(addrs)-1)].Netip())
		found = l
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
}

func BenchmarkBulkBuild(b *testing.B) {
	v4, v6 := size{1_000_000, 200_000}.prefixes(rand.New(rand.NewPCG(1, 2)))
	sortPrefixes(v4)
	sortPrefixes(v6)
	for range b.N {
		buildFIB(v4, v6)
	}
}

// BenchmarkChange is one route changed, or one deleted and then added, in a table of a million.
func BenchmarkChange(b *testing.B) {
	v4, v6 := size{1_000_000, 200_000}.prefixes(rand.New(rand.NewPCG(1, 2)))
	full := buildFIB(v4, v6)
	g := NewGroup(Blackhole, nil, nil)
	for family, list := range map[string][]netip.Prefix{"v4": v4, "v6": v6} {
		b.Run(family+"/replace", func(b *testing.B) {
			f := full
			b.ReportAllocs()
			for i := range b.N {
				edit := f.Edit()
				edit.Set(list[i%len(list)], g, 0)
				f = edit.Build()
			}
		})
		b.Run(family+"/delete+add", func(b *testing.B) {
			f := full
			b.ReportAllocs()
			for i := range b.N {
				edit := f.Edit()
				if i%2 == 0 {
					edit.Delete(list[i/2%len(list)])
				} else {
					edit.Set(list[i/2%len(list)], g, 0)
				}
				f = edit.Build()
			}
		})
	}
}

func BenchmarkSelect(b *testing.B) {
	hops := make([]Hop, 8)
	for i := range hops {
		hops[i].Port = packet.PortID(i + 1)
	}
	g := NewGroup(Forward, hops, nil)
	var h *Hop
	for i := range b.N {
		h = g.Select(uint32(i))
	}
	_ = h
}
