// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestReuse has what was never used come first, then what was given back first, also after a restart.
func TestReuse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	pools := prefixes("10.0.0.0/29", "fd00::/64") // 2 to 5
	s.Configure(pools, nil)
	add(t, s, 1)
	add(t, s, 2)
	add(t, s, 3)
	remove(t, s, 2, 1)
	wantAddresses(t, add(t, s, 4).Addresses, "10.0.0.5", "fd00::5")
	s.Close()
	s = open(t, path)
	s.Configure(pools, nil)
	wantAddresses(t, add(t, s, 5).Addresses, "10.0.0.3", "fd00::6")
	remove(t, s, 5)
	wantAddresses(t, add(t, s, 6).Addresses, "10.0.0.2", "fd00::7")
	s.Close()
	s = open(t, path)
	s.Configure(pools, nil)
	wantAddresses(t, add(t, s, 7).Addresses, "10.0.0.3", "fd00::8")
	var exhausted *ExhaustedError
	if _, _, err := s.Add(pod(9), nil); !errors.As(err, &exhausted) || exhausted.Family != 4 {
		t.Error(err)
	}
}

// TestNextPool has the next pool of a family serve when one is full.
func TestNextPool(t *testing.T) {
	s := opened(t, "10.0.0.0/30", "10.0.1.0/30", "fd00::/64")
	wantAddresses(t, add(t, s, 1).Addresses, "10.0.0.2", "fd00::2")
	wantAddresses(t, add(t, s, 2).Addresses, "10.0.1.2", "fd00::3")
	remove(t, s, 1)
	wantAddresses(t, add(t, s, 3).Addresses, "10.0.0.2", "fd00::4")
}

// TestRetired has a pool go and come back.
func TestRetired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	s.Configure(prefixes("10.0.0.0/29"), nil)
	add(t, s, 1)
	add(t, s, 2)
	add(t, s, 3)
	s.Close()
	s = open(t, path)
	s.Configure(prefixes("10.0.1.0/29"), nil)
	wantAddresses(t, add(t, s, 4).Addresses, "10.0.1.2")
	remove(t, s, 2)
	want := []Usage{
		{Prefix: netip.MustParsePrefix("10.0.1.0/29"), Size: 4, Leased: 1},
		{Prefix: netip.MustParsePrefix("10.0.0.0/29"), Leased: 2, Retired: true},
	}
	if got := s.Usage(); !slices.Equal(got, want) {
		t.Errorf("usage %+v", got)
	}
	s.Configure(prefixes("10.0.0.0/29"), nil)
	wantAddresses(t, add(t, s, 5).Addresses, "10.0.0.5")
	wantAddresses(t, add(t, s, 6).Addresses, "10.0.0.3")
}

// TestOverlap has pools share addresses: none is leased twice, and each pool's own are nobody's.
func TestOverlap(t *testing.T) {
	s := opened(t, "10.0.0.4/30", "10.0.0.0/28", "10.0.0.4/31")
	for i, want := range []string{"10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.9"} {
		wantAddresses(t, add(t, s, i).Addresses, want)
	}
	remove(t, s, 0)
	wantAddresses(t, add(t, s, 10).Addresses, "10.0.0.6") // of the first pool there is no other
	want := []Usage{
		{Prefix: netip.MustParsePrefix("10.0.0.4/30"), Size: 1, Leased: 1},
		{Prefix: netip.MustParsePrefix("10.0.0.0/28"), Size: 8, Leased: 4},
		{Prefix: netip.MustParsePrefix("10.0.0.4/31")},
	}
	if got := s.Usage(); !slices.Equal(got, want) {
		t.Errorf("usage %+v", got)
	}
}

// TestLargePools has sizes saturate.
func TestLargePools(t *testing.T) {
	s := opened(t)
	s.Configure(prefixes("fd00::/48", "fd01::/64", "fd02::/112", "0.0.0.0/0"), prefixes("fd01::8000:0:0:0/65"))
	var got []uint64
	for _, u := range s.Usage() {
		got = append(got, u.Size)
	}
	if want := []uint64{1<<64 - 1, 1<<63 - 2, 1<<16 - 3, 1<<32 - 4}; !slices.Equal(got, want) {
		t.Errorf("sizes %d, want %d", got, want)
	}
}

// TestAskedQueue asks for the same address over and over: what is remembered of it does not grow.
func TestAskedQueue(t *testing.T) {
	b := newBook()
	b.configure(prefixes("fd00::/64"), nil)
	for range 1000 {
		if _, _, err := b.add(pod(1), addresses("fd00::9"), epoch); err != nil {
			t.Fatal(err)
		}
		b.remove([]Key{key(1)})
	}
	if p := b.pools[0]; p.waiting != 1 || len(p.queue) > 32 || len(b.places) != 1 {
		t.Errorf("%d waiting, queue of %d, %d places", p.waiting, len(p.queue), len(b.places))
	}
}

// TestBounded has a pool that is never used up come back to what was given back.
func TestBounded(t *testing.T) {
	b := newBook()
	b.configure(prefixes("fd00::/64"), nil)
	distinct := map[netip.Addr]bool{}
	for range reuseAfter + 1000 {
		b.changes, b.touched = nil, nil
		e, _, err := b.add(pod(1), nil, epoch)
		if err != nil {
			t.Fatal(err)
		}
		distinct[e.Addresses[0]] = true
		b.remove([]Key{key(1)})
	}
	if len(distinct) != reuseAfter || len(b.places) != reuseAfter || len(b.pools[0].queue) > 2*reuseAfter+16 {
		t.Errorf("%d addresses, %d places, queue of %d", len(distinct), len(b.places), len(b.pools[0].queue))
	}
}

// TestMany fills most of a /16 and opens it again.
func TestMany(t *testing.T) {
	const n = 10_000
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	pools := prefixes("10.0.0.0/16", "fd00::/64")
	s.Configure(pools, nil)
	parallel(n, 100, func(i int) { add(t, s, i) })
	held := distinct(t, s)
	if len(held) != 2*n {
		t.Fatalf("%d addresses are held", len(held))
	}
	s.Close()
	s = open(t, path)
	s.Configure(pools, nil)
	if len(distinct(t, s)) != 2*n {
		t.Error("some were lost")
	}
	parallel(n, 100, func(i int) { remove(t, s, i) })
	if s.Len() != 0 {
		t.Errorf("%d are left", s.Len())
	}
	if a := add(t, s, 1).Addresses[0]; held[a] {
		t.Errorf("%s was leased before others were", a)
	}
}

// TestMemory bounds what an attachment takes in memory, with its name in the view.
func TestMemory(t *testing.T) {
	const n = 5000
	b := newBook()
	b.configure(prefixes("10.0.0.0/16", "fd00::/64"), nil)
	var v view
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	for i := range n {
		if _, _, err := b.add(pod(i), nil, epoch); err != nil {
			t.Fatal(err)
		}
		b.changes, b.touched = nil, nil
	}
	v.follow(b, true)
	each := (heap() - before) / n
	t.Logf("%d bytes each", each)
	if each > 2048 {
		t.Errorf("%d bytes each", each)
	}
	runtime.KeepAlive(b)
	runtime.KeepAlive(&v)
}

// distinct returns the addresses that are held, and fails if one is held twice.
func distinct(t *testing.T, s *Store) map[netip.Addr]bool {
	t.Helper()
	held := map[netip.Addr]bool{}
	for _, a := range s.All() {
		for _, address := range a.Addresses {
			if held[address] {
				t.Errorf("%s is held twice", address)
			}
			held[address] = true
		}
	}
	return held
}
