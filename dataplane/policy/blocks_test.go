// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
)

func wirePrefix(p netip.Prefix) *api.Prefix {
	return &api.Prefix{Address: p.Masked().Addr().AsSlice(), Bits: uint32(p.Bits())}
}

// TestMentions compares what is held with what one block after the other says.
func TestMentions(t *testing.T) {
	draw := func(t *rapid.T, within netip.Prefix) netip.Prefix {
		a := within.Addr().As4()
		bits := rapid.IntRange(within.Bits(), 12).Draw(t, "bits")
		value := rapid.Uint16().Draw(t, "value")
		a[0], a[1] = a[0]|byte(value>>8)>>within.Bits(), byte(value)
		return netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked()
	}
	rapid.Check(t, func(t *rapid.T) {
		var list []*api.PrefixSet
		var blocks [][]netip.Prefix // each block and what it excepts
		for range rapid.IntRange(1, 6).Draw(t, "blocks") {
			p := draw(t, netip.MustParsePrefix("0.0.0.0/0"))
			p = netip.PrefixFrom(p.Addr(), min(p.Bits(), 7)).Masked()
			b, all := &api.PrefixSet{Prefix: wirePrefix(p)}, []netip.Prefix{p}
			for range rapid.IntRange(0, 4).Draw(t, "except") {
				e := draw(t, p)
				b.Except, all = append(b.Except, wirePrefix(e)), append(all, e)
			}
			list, blocks = append(list, b), append(blocks, all)
		}
		around := func(p, of netip.Prefix) bool { return p.Bits() <= of.Bits() && p.Overlaps(of) }
		for _, m := range mentions(list) {
			want := slices.ContainsFunc(blocks, func(b []netip.Prefix) bool {
				return around(b[0], m.prefix) &&
					!slices.ContainsFunc(b[1:], func(e netip.Prefix) bool { return around(e, m.prefix) })
			})
			if m.in != want {
				t.Fatalf("%v of %v is held: %t, want %t", m.prefix, blocks, m.in, want)
			}
		}
	})
}

// TestMentionsOfMany: blocks around the same exceptions do not cost their product.
func TestMentionsOfMany(t *testing.T) {
	const many = 20_000
	var list []*api.PrefixSet
	for i := range many {
		list = append(list, &api.PrefixSet{Prefix: wirePrefix(netip.MustParsePrefix("0.0.0.0/0")), Except: []*api.Prefix{
			wirePrefix(netip.MustParsePrefix("10.0.0.0/8")),
			wirePrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)),
		}})
	}
	began := time.Now()
	if got := len(mentions(list)); got != many+2 {
		t.Errorf("%d prefixes, want %d", got, many+2)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}
