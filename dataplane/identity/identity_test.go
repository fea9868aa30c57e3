// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// naive is a set as a list, looked through from end to end.
type naive map[netip.Prefix]uint32

func (n naive) of(a netip.Addr) identity.ID {
	best, id := -1, uint32(0)
	for p, i := range n {
		if p.Contains(a) && p.Bits() > best {
			best, id = p.Bits(), i
		}
	}
	return identity.ID(id)
}

func pod(id uint32) *api.Identity {
	return &api.Identity{Id: id, Kind: api.Identity_KIND_POD, Namespace: "default"}
}

func wire(p netip.Prefix) *api.Prefix {
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

func genPrefix(t *rapid.T) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "a") & 3, rapid.Byte().Draw(t, "b") & 15})
	bits := rapid.SampledFrom([]int{0, 8, 22, 24, 28, 31, 32}).Draw(t, "bits")
	if rapid.Bool().Draw(t, "IPv6") {
		b := a.As4()
		a = netip.AddrFrom16([16]byte{0: 0xfd, 14: b[2], 15: b[3]})
		bits *= 4
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// Every version of a set says what a scan of a list says, and stays what it was.
func TestSetIsTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, err := identity.Build(&api.Snapshot{Identities: []*api.Identity{pod(1), pod(2), pod(3)}})
		if err != nil {
			t.Fatal(err)
		}
		list := naive{}
		for range rapid.IntRange(1, 20).Draw(t, "deltas") {
			before, was := set, naive{}
			for p, id := range list {
				was[p] = id
			}
			d := &api.Delta{Set: &api.Snapshot{}}
			touched := map[netip.Prefix]bool{}
			for range rapid.IntRange(1, 6).Draw(t, "edits") {
				p := genPrefix(t)
				if touched[p] {
					continue
				}
				touched[p] = true
				if _, there := list[p]; there && rapid.Bool().Draw(t, "remove") {
					d.RemovedIdentityPrefixes = append(d.RemovedIdentityPrefixes, wire(p))
					delete(list, p)
					continue
				}
				id := rapid.Uint32Range(1, 3).Draw(t, "id")
				d.Set.IdentityPrefixes = append(d.Set.IdentityPrefixes, &api.IdentityPrefix{Prefix: wire(p), Identity: id})
				list[p] = id
			}
			if set, err = set.Update(d); err != nil {
				t.Fatal(err)
			}
			for range 30 {
				a := genPrefix(t).Addr()
				if got, want := set.Of(packet.AddrFrom(a)), list.of(a); got != want {
					t.Fatalf("%s is %d, want %d", a, got, want)
				}
				if got, want := before.Of(packet.AddrFrom(a)), was.of(a); got != want {
					t.Fatalf("the set before: %s is %d, want %d", a, got, want)
				}
			}
		}
	})
}

func TestUpdateRefusals(t *testing.T) {
	a, b := wire(netip.MustParsePrefix("10.0.0.1/32")), wire(netip.MustParsePrefix("10.0.0.2/32"))
	set, err := identity.Build(&api.Snapshot{Identities: []*api.Identity{pod(1), pod(2)},
		IdentityPrefixes: []*api.IdentityPrefix{{Prefix: a, Identity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		want string
		d    *api.Delta
	}{
		"identity in use": {"removed_identities[0]: 1 prefixes have identity 1", &api.Delta{RemovedIdentities: []uint32{1}}},
		"identity not there": {"removed_identities[0]: there is no identity 9",
			&api.Delta{RemovedIdentities: []uint32{9}}},
		"prefix not there": {"removed_identity_prefixes[0]: there is no prefix 10.0.0.2/32",
			&api.Delta{RemovedIdentityPrefixes: []*api.Prefix{b}}},
		"led to what goes": {"removed_identities[0]: 1 prefixes have identity 2", &api.Delta{
			Set:               &api.Snapshot{IdentityPrefixes: []*api.IdentityPrefix{{Prefix: b, Identity: 2}}},
			RemovedIdentities: []uint32{2}}},
		"led to nobody": {"identity_prefixes[0].identity: there is no identity 0", &api.Delta{
			Set: &api.Snapshot{IdentityPrefixes: []*api.IdentityPrefix{{Prefix: b}}}}},
	} {
		if _, err := set.Update(row.d); err == nil || err.Error() != row.want {
			t.Errorf("%s: %v, want %s", name, err, row.want)
		}
	}
	if set.Of(packet.AddrFrom(netip.MustParseAddr("10.0.0.1"))) != 1 || set.Len() != 2 {
		t.Error("a refused delta changed the set")
	}
	moved, err := set.Update(&api.Delta{RemovedIdentities: []uint32{1},
		Set: &api.Snapshot{IdentityPrefixes: []*api.IdentityPrefix{{Prefix: a, Identity: 2}}}})
	if err != nil || moved.Get(1) != nil || moved.Get(2) == nil || moved.Len() != 1 {
		t.Errorf("%v", err)
	}
}

func TestPrefixesOf(t *testing.T) {
	s := &api.Snapshot{Identities: []*api.Identity{pod(1), pod(2), pod(3)}}
	for i, text := range []string{"10.0.0.1/32", "10.0.0.2/32", "10.0.1.0/24", "fd00::1/128", "fd00::2/128"} {
		s.IdentityPrefixes = append(s.IdentityPrefixes,
			&api.IdentityPrefix{Prefix: wire(netip.MustParsePrefix(text)), Identity: uint32(1 + i%2), Origin: uint32(i)})
	}
	set, err := identity.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	for id := range identity.ID(5) {
		want := []identity.Prefix{}
		for p := range set.Prefixes() {
			if p.Identity == id {
				want = append(want, p)
			}
		}
		if got := set.PrefixesOf(id); !slices.Equal(got, want) {
			t.Errorf("%d has %v, want %v", id, got, want)
		}
	}
}

func TestNobody(t *testing.T) {
	var zero identity.Set
	if zero.Of(packet.Addr4(1)) != identity.World || zero.Get(1) != nil || zero.Len() != 0 {
		t.Error("the zero value has identities")
	}
	for range zero.Prefixes() {
		t.Error("the zero value has prefixes")
	}
}

func TestOfDoesNotAllocate(t *testing.T) {
	set, err := identity.Build(&api.Snapshot{Identities: []*api.Identity{pod(1)}, IdentityPrefixes: []*api.IdentityPrefix{
		{Prefix: wire(netip.MustParsePrefix("10.0.0.1/32")), Identity: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	a := packet.AddrFrom(netip.MustParseAddr("10.0.0.1"))
	if n := testing.AllocsPerRun(100, func() { set.Of(a) }); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}
