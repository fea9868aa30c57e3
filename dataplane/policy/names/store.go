// SPDX-License-Identifier: Apache-2.0

package names

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// MaxHits is how many patterns one address may fit at a time for one station.
const MaxHits = 16

// Hits is the patterns that an address fits.
type Hits struct {
	Len      int
	Patterns [MaxHits]uint64
}

// Store is what is known of addresses, for each port apart: no station takes another's room, and none is known an
// address that another one asked for. It is bounded; ports have a table each, of one size.
type Store struct {
	ports    atomic.Pointer[map[packet.PortID]*table]
	mu       sync.Mutex // held to change ports
	maxPorts int
	size     int // entries of a port, a power of two
	refused  atomic.Uint64
	changes  atomic.Uint64
}

// table is what is known of one port's addresses: each has its entries in the window that begins at its hash.
type table struct {
	mu      sync.Mutex // for a few entries' time; workers seldom meet, since a flow has one
	entries []entry
}

type entry struct {
	addr    packet.Addr
	pattern uint64
	expires int64 // 0: free
}

const window = MaxHits

// NewStore makes a store for as many ports at most, each with as many pairs of an address and a pattern: 32 bytes each,
// a power of two, 16 at least.
func NewStore(ports, perPort int) *Store {
	size := window
	for size < perPort {
		size *= 2
	}
	s := &Store{maxPorts: ports, size: size}
	s.ports.Store(&map[packet.PortID]*table{})
	return s
}

// Refused is how many answers taught nothing because too many ports have learned.
func (s *Store) Refused() uint64 { return s.refused.Load() }

// Forget forgets what a port learned, whose number another one may get.
func (s *Store) Forget(port packet.PortID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := *s.ports.Load(); was[port] != nil {
		is := maps.Clone(was)
		delete(is, port)
		s.ports.Store(&is)
		s.changes.Add(1)
	}
}

// of returns a port's table, which it makes where it is the port's first.
func (s *Store) of(port packet.PortID) *table {
	if t := (*s.ports.Load())[port]; t != nil {
		return t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := *s.ports.Load()
	if t := was[port]; t != nil {
		return t
	}
	if len(was) >= s.maxPorts {
		s.refused.Add(1)
		return nil
	}
	is, t := maps.Clone(was), &table{entries: make([]entry, s.size)}
	is[port] = t
	s.ports.Store(&is)
	return t
}

// Lookup finds the patterns that an address fits for the station behind a port; existing says whether those that have
// expired count as well, as they do for flows that began before. It does not allocate.
func (s *Store) Lookup(port packet.PortID, a packet.Addr, now int64, existing bool, hits *Hits) {
	hits.Len = 0
	t := (*s.ports.Load())[port]
	if t == nil {
		return
	}
	at := t.place(a)
	t.mu.Lock()
	for i := range window {
		e := t.entry(at + i)
		if e.expires != 0 && e.addr == a && (existing || e.expires > now) {
			hits.Patterns[hits.Len] = e.pattern
			hits.Len++
		}
	}
	t.mu.Unlock()
}

// put enters an address, until a time.
func (s *Store) put(port packet.PortID, a packet.Addr, patterns []uint64, expires int64) {
	t := s.of(port)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pattern := range patterns {
		t.put(entry{a, pattern, expires})
	}
	s.changes.Add(1)
}

// put enters an entry in the place of its namesake, of a free one, or of the one that expires first.
func (t *table) put(e entry) {
	at := t.place(e.addr)
	place := t.entry(at)
	for i := range window {
		was := t.entry(at + i)
		if was.expires != 0 && was.addr == e.addr && was.pattern == e.pattern {
			was.expires = max(was.expires, e.expires)
			return
		}
		if was.expires < place.expires {
			place = was
		}
	}
	*place = e
}

// place is where the window of an address begins.
func (t *table) place(a packet.Addr) int {
	return int(maphash.Comparable(exactly, a) & uint64(len(t.entries)-1))
}

func (t *table) entry(i int) *entry { return &t.entries[i&(len(t.entries)-1)] }
