// SPDX-License-Identifier: Apache-2.0

package route

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// linear is the slow twin: a list of routes, of which the longest that fits wins.
type linear map[netip.Prefix]Route

func (l linear) lookup(a netip.Addr) *Group {
	best, bits := (*Group)(nil), -1
	for p, r := range l {
		if p.Contains(a) && p.Bits() > bits {
			best, bits = r.Group, p.Bits()
		}
	}
	return best
}

// genAddr draws from few enough addresses that prefixes nest.
func genAddr(t *rapid.T) netip.Addr {
	octet := rapid.SampledFrom([]byte{0, 1, 10, 127, 128, 255})
	if rapid.Bool().Draw(t, "ipv6") {
		a := [16]byte{0: 0x20, 1: 1}
		for i := 2; i < 16; i++ {
			a[i] = octet.Draw(t, "octet")
		}
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte{octet.Draw(t, "a"), octet.Draw(t, "b"), octet.Draw(t, "c"), octet.Draw(t, "d")})
}

func genPrefix(t *rapid.T) netip.Prefix {
	a := genAddr(t)
	return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
}

func check(t *rapid.T, f *FIB, want linear) {
	t.Helper()
	if f.Size() != len(want) {
		t.Fatalf("%d routes, want %d", f.Size(), len(want))
	}
	addrs, groups := make([]packet.Addr, rapid.IntRange(0, 70).Draw(t, "batch")), make([]*Group, 70)
	for i := range addrs {
		a := genAddr(t)
		if got := f.Lookup(packet.AddrFrom(a)); got != want.lookup(a) {
			t.Fatalf("lookup of %s: got %p, want %p", a, got, want.lookup(a))
		}
		addrs[i] = packet.AddrFrom(a)
	}
	f.LookupBatch(addrs, groups)
	for i, a := range addrs {
		if groups[i] != f.Lookup(a) {
			t.Fatalf("lookup of %s in a batch: got %p, want %p", a.Netip(), groups[i], f.Lookup(a))
		}
	}
	var previous netip.Prefix
	for r := range f.All() {
		if want[r.Prefix] != r {
			t.Fatalf("route %+v, want %+v", r, want[r.Prefix])
		}
		if got, ok := f.Get(r.Prefix); !ok || got != r {
			t.Fatalf("get %s: %+v, %t", r.Prefix, got, ok)
		}
		if previous.IsValid() && previous.Addr().Compare(r.Prefix.Addr()) > 0 {
			t.Fatalf("%s listed after %s", r.Prefix, previous)
		}
		previous = r.Prefix
	}
}

// Any sequence of changes gives what the slow twin gives, and leaves every FIB built before as it was.
func TestAgainstLinearSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := make([]*Group, 6)
		for i := range groups {
			groups[i] = NewGroup(Forward, []Hop{{Port: packet.PortID(i)}}, nil)
		}
		group := rapid.SampledFrom(groups)
		want := linear{}
		change := func(b *Builder) {
			for range rapid.IntRange(0, 12).Draw(t, "changes") {
				switch p := genPrefix(t); rapid.IntRange(0, 5).Draw(t, "change") {
				case 0:
					_, there := want[p]
					if b.Delete(p) != there {
						t.Fatalf("delete %s: not %t", p, there)
					}
					delete(want, p)
				case 1:
					if len(want) == 0 {
						continue
					}
					p = rapid.SampledFrom(slices.SortedFunc(maps.Keys(want), netip.Prefix.Compare)).Draw(t, "there")
					if !b.Delete(p) {
						t.Fatalf("delete %s: not there", p)
					}
					delete(want, p)
				case 2:
					with := map[*Group]*Group{group.Draw(t, "from"): group.Draw(t, "to"),
						group.Draw(t, "from"): group.Draw(t, "to")}
					b.Replace(with)
					for q, r := range want {
						if to := with[r.Group]; to != nil {
							want[q] = Route{q, to, r.Origin}
						}
					}
				default:
					r := Route{p, group.Draw(t, "group"), rapid.Uint32().Draw(t, "origin")}
					b.Set(p, r.Group, r.Origin)
					want[p] = r
				}
			}
		}
		b := NewBuilder()
		change(b)
		f := b.Build()
		check(t, f, want)
		for range rapid.IntRange(0, 5).Draw(t, "edits") {
			was := slices.Collect(f.All())
			edit := f.Edit()
			change(edit)
			next := edit.Build()
			check(t, next, want)
			if !slices.Equal(was, slices.Collect(f.All())) {
				t.Fatal("an edit changed the table it started from")
			}
			f = next
		}
	})
}

func TestZeroFIB(t *testing.T) {
	var f FIB
	groups := []*Group{{}, {}}
	f.LookupBatch([]packet.Addr{packet.Addr4(1), {Hi: 1}}, groups)
	if groups[0] != nil || groups[1] != nil || f.Lookup(packet.Addr4(1)) != nil || f.Size() != 0 {
		t.Error("the zero table has a route")
	}
	for range f.All() {
		t.Error("the zero table lists a route")
	}
	if _, ok := f.Get(netip.MustParsePrefix("0.0.0.0/0")); ok {
		t.Error("the zero table has a default route")
	}
	edit, g := f.Edit(), NewGroup(Blackhole, nil, nil)
	edit.Set(netip.MustParsePrefix("::/0"), g, 0)
	if got := edit.Build().Lookup(packet.Addr{Hi: 1}); got != g {
		t.Errorf("got %p, want %p", got, g)
	}
}

// A group's number is given to another group once its last route is gone, also through a replacement.
func TestGroupNumbersAreReused(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/8")
	f := NewBuilder().Build()
	for range 100 {
		edit := f.Edit()
		edit.Set(p, NewGroup(Blackhole, nil, nil), 0)
		f = edit.Build()
	}
	if len(f.groups) > 2 {
		t.Errorf("%d group numbers for one route", len(f.groups))
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	b := NewBuilder()
	g := NewGroup(Forward, []Hop{{Port: 1}, {Port: 2}}, nil)
	b.Set(netip.MustParsePrefix("10.0.0.0/8"), g, 0)
	b.Set(netip.MustParsePrefix("2001:db8::/32"), g, 0)
	f := b.Build()
	a4, a6 := packet.Addr4(0x0a010203), packet.AddrFrom(netip.MustParseAddr("2001:db8::1"))
	addrs, groups := []packet.Addr{a4, a6, {}}, make([]*Group, 3)
	if n := testing.AllocsPerRun(100, func() {
		f.Lookup(a4).Select(1)
		f.Lookup(a6).Select(2)
		f.LookupBatch(addrs, groups)
	}); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}
