// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/model"
)

// naive is a store as one would write it down: lists that are searched from end to end.
type naive struct {
	pools, excluded []netip.Prefix
	has             map[int][]netip.Addr
	given           []netip.Addr // the oldest first
}

func (m *naive) leasable(a netip.Addr) bool {
	inside := false
	for _, p := range m.pools {
		inside = inside || p.Contains(a)
		size := p.Addr().BitLen() - p.Bits()
		if p.Contains(a) && (a == model.NodeAddress(p) || a == model.DataplaneAddress(p) || size > 1 && a == p.Addr() ||
			size > 1 && a.Is4() && !p.Contains(a.Next())) {
			return false
		}
	}
	return inside && !slices.ContainsFunc(m.excluded, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (m *naive) holder(a netip.Addr) int {
	for n, addresses := range m.has {
		if slices.Contains(addresses, a) {
			return n
		}
	}
	return -1
}

// first returns the address of a family to be leased next.
func (m *naive) first(is4 bool) (netip.Addr, bool) {
	seen := func(a netip.Addr, pools []netip.Prefix) bool {
		return slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for i, p := range m.pools {
		if p.Addr().Is4() != is4 {
			continue
		}
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			if m.leasable(a) && m.holder(a) < 0 && !slices.Contains(m.given, a) && !seen(a, m.pools[:i]) {
				return a, true
			}
		}
		for _, a := range m.given {
			if p.Contains(a) && m.leasable(a) && !seen(a, m.pools[:i]) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// add returns the addresses, or nil when there are none to be had.
func (m *naive) add(n int, asked []netip.Addr) []netip.Addr {
	before := m.has[n]
	for _, a := range asked {
		if !slices.Contains(before, a) && (!m.leasable(a) || m.holder(a) >= 0) {
			return nil
		}
	}
	var got []netip.Addr
	for _, is4 := range []bool{true, false} {
		other := func(a netip.Addr) bool { return a.Is4() != is4 }
		family := slices.DeleteFunc(slices.Clone(asked), other)
		if len(family) == 0 && slices.ContainsFunc(m.pools, func(p netip.Prefix) bool { return !other(p.Addr()) }) {
			family = slices.DeleteFunc(slices.Clone(before), func(a netip.Addr) bool { return other(a) || !m.leasable(a) })
			family = family[:min(1, len(family))]
			if a, ok := m.first(is4); len(family) == 0 && ok {
				family = append(family, a)
			}
			if len(family) == 0 {
				return nil
			}
		}
		got = append(got, family...)
	}
	if len(got) > 0 {
		m.remove(n)
		m.given = slices.DeleteFunc(m.given, func(a netip.Addr) bool { return slices.Contains(got, a) })
		m.has[n] = got
	}
	return got
}

func (m *naive) remove(n int) {
	m.given = append(m.given, m.has[n]...)
	delete(m.has, n)
}

// TestModel compares with the naive store, through restarts and through copies of the file that are taken without
// closing it.
func TestModel(t *testing.T) {
	choice := prefixes("10.0.0.0/29", "10.0.0.4/30", "10.0.0.0/28", "10.0.1.0/31", "10.0.2.1/32",
		"fd00::/125", "fd00::8/127", "fd00::/124")
	excluded := prefixes("10.0.0.2/32", "10.0.0.0/30", "fd00::2/127")
	asked := addresses("10.0.0.3", "10.0.0.5", "10.0.1.1", "fd00::3", "fd00::9", "10.0.0.0")
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "lease-model-*")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		r := &rig{path: filepath.Join(dir, "0"), model: naive{has: map[int][]netip.Addr{}}}
		r.reopen(t)
		defer func() { r.store.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"add":    func(t *rapid.T) { r.add(t, rapid.SliceOfNDistinct(rapid.SampledFrom(asked), 0, 2, rapid.ID)) },
			"lease":  func(t *rapid.T) { r.add(t, rapid.Just([]netip.Addr(nil))) },
			"remove": r.remove,
			"configure": func(t *rapid.T) {
				r.model.pools = rapid.SliceOfNDistinct(rapid.SampledFrom(choice), 0, 4, rapid.ID).Draw(t, "pools")
				r.model.excluded = rapid.SliceOfNDistinct(rapid.SampledFrom(excluded), 0, 2, rapid.ID).Draw(t, "excluded")
				r.store.Configure(r.model.pools, r.model.excluded)
			},
			"restart": func(t *rapid.T) {
				r.store.Close()
				r.reopen(t)
			},
			"abandon": r.abandon,
			"":        r.compare,
		})
	})
}

// rig is a store and what it should be like.
type rig struct {
	path  string
	store *Store
	model naive
	words uint64
}

func (r *rig) reopen(t *rapid.T) {
	s, err := Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.store = s
	s.Configure(r.model.pools, r.model.excluded)
}

// abandon goes on with a copy of the file as it is.
func (r *rig) abandon(t *rapid.T) {
	data, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.store.Close()
	r.path += "0"
	if err := os.WriteFile(r.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.reopen(t)
}

func (r *rig) add(t *rapid.T, addresses *rapid.Generator[[]netip.Addr]) {
	n, asked := rapid.IntRange(0, 12).Draw(t, "n"), addresses.Draw(t, "asked")
	r.words++
	words := pod(n)
	words.NetnsInode = r.words // never the same twice
	a, created, err := r.store.Add(words, asked)
	want := r.model.add(n, asked)
	if created != (want != nil) || (err == nil) != (want != nil) || !slices.Equal(a.Addresses, want) {
		t.Fatalf("%d was given %s, want %s; created %t, %v", n, a.Addresses, want, created, err)
	}
	var outside *OutsideError
	var taken *TakenError
	if errors.As(err, &outside) && r.model.leasable(outside.Address) ||
		errors.As(err, &taken) && key(r.model.holder(taken.Address)) != taken.By {
		t.Fatal(err)
	}
}

func (r *rig) remove(t *rapid.T) {
	n := rapid.IntRange(0, 12).Draw(t, "n")
	removed, err := r.store.Remove(key(n), key(n))
	if err != nil || (len(removed) == 1) != (r.model.has[n] != nil) {
		t.Fatalf("%d: removed %v, %v", n, removed, err)
	}
	r.model.remove(n)
}

func (r *rig) compare(t *rapid.T) {
	if r.store.Len() != len(r.model.has) {
		t.Fatalf("%d attachments, want %d", r.store.Len(), len(r.model.has))
	}
	var leased, want uint64
	for n, addresses := range r.model.has {
		a, ok := r.store.Get(key(n))
		if !ok || !slices.Equal(a.Addresses, addresses) {
			t.Fatalf("%d has %s, want %s", n, a.Addresses, addresses)
		}
		want += uint64(len(addresses))
	}
	for _, u := range r.store.Usage() {
		leased += u.Leased
	}
	if leased != want {
		t.Fatalf("%d are leased, want %d", leased, want)
	}
}
