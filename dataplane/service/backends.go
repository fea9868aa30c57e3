// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Backends is what is known of all backends, whichever epoch's: the flows that they have, how they answer, and which
// are gone. The methods that take a backend's number may be called by any worker at any time; they take no lock.
//
// A backend is a service's id, an address and a port. Its number stays the same for as long as it is there, and when it
// is gone for as long as it has flows.
type Backends struct {
	chunks   [maxBackends / chunkSlots]atomic.Pointer[chunk]
	affinity atomic.Pointer[affinity] // nil until a service asks for it
	clock    atomic.Int64             // about the time, monotonic nanoseconds, for those who are not told

	mu      sync.Mutex // guards what follows; never held by a worker
	numbers map[backendKey]uint32
	records []record // by number
	free    []uint32
	pending []uint32   // numbers that tables in the making gave
	gone    []departed // in the order in which they went
	groups  map[uint32]*group
	entered *Table // nil before the first
	past    Totals // of services and backends that are forgotten
}

const (
	maxBackends = 1 << 20
	chunkSlots  = 1 << 10
)

type chunk [chunkSlots]slot

// slot is the counts of one backend: a cache line, so that workers who count at two backends do not meet.
type slot struct {
	left      atomic.Uint32 // flows of opened that are over, modulo 2^32
	row       atomic.Uint32 // failures since it last answered
	opened    atomic.Uint64
	failed    atomic.Uint32
	ejections atomic.Uint32
	handshake atomic.Uint32 // smoothed, nanoseconds; 0: not known
	again     atomic.Uint32 // ejections since it last came back
	until     atomic.Int64  // when it is ejected: when it is tried next
	since     atomic.Int64  // since when it is a newcomer; 0: it is none
	standing  atomic.Uint32 // a Standing
	health    atomic.Uint32 // a health
	group     atomic.Pointer[group]
}

// group is what a service's backends have in common, whichever epoch's. Who opens a flow or ends one reads and writes
// what is on its first cache line, and nothing else of it.
type group struct {
	active     atomic.Int64  // flows
	size       atomic.Int32  // backends in force
	ejected    atomic.Int32  // of them
	threshold  atomic.Uint32 // failures in a row after which one is; 0: never
	handshakes atomic.Bool   // who opens a flow is answered, or something failed: TCP and SCTP

	id     uint32
	name   string
	opened uint64 // of backends that are gone; guarded by Backends.mu

	refused, noLocal, denied, ejections atomic.Uint64
	_                                   [40]byte // two cache lines, that a group shares with no other
}

// count counts a flow that nobody answers.
func (g *group) count(o Outcome) {
	switch o {
	case SourceDenied:
		g.denied.Add(1)
	case NoLocal:
		g.noLocal.Add(1)
	case Refused:
		g.refused.Add(1)
	case NoService, Chosen, NoSuchPort:
	}
}

// backendKey is what a backend is known by.
type backendKey struct {
	addr    packet.Addr
	service uint32
	port    uint16
}

type record struct {
	key   backendKey
	state recordState
}

type recordState uint8

const (
	isFree    recordState = iota
	isPending             // of a table that is not in force yet, and may never be
	isLive
	isGone
)

// departed is a backend that is gone, and since when in monotonic nanoseconds.
type departed struct {
	number uint32
	at     int64
}

// NewBackends returns room for as many backends as 2^20.
func NewBackends() *Backends {
	return &Backends{
		numbers: make(map[backendKey]uint32), groups: make(map[uint32]*group), records: make([]record, 1),
	}
}

// Standing is whether a backend may have flows.
type Standing uint8

// The standings.
const (
	InForce  Standing = iota
	Draining          // it is gone: TCP flows that it has go on, others do not
	Reset             // it is gone: flows that it has are to be ended
)

// slot returns a backend's counts, nil for none.
func (b *Backends) slot(number uint32) *slot {
	if number == 0 || number >= maxBackends {
		return nil
	}
	c := b.chunks[number/chunkSlots].Load()
	if c == nil {
		return nil
	}
	return &c[number%chunkSlots]
}

// Standing of a backend.
func (b *Backends) Standing(number uint32) Standing {
	if s := b.slot(number); s != nil {
		return Standing(s.standing.Load())
	}
	return InForce
}

// Opened says that a flow was sent to a backend.
func (b *Backends) Opened(number uint32) {
	s := b.slot(number)
	if s == nil {
		return
	}
	s.opened.Add(1)
	if g := s.group.Load(); g != nil {
		g.active.Add(1)
	}
}

// Left says that a flow has ended, and whether the backend had answered it, or had no time to.
func (b *Backends) Left(number uint32, answered bool) {
	s := b.slot(number)
	if s == nil {
		return
	}
	s.left.Add(1)
	g := s.group.Load()
	if g == nil {
		return
	}
	g.active.Add(-1)
	if !answered && g.handshakes.Load() {
		s.fail(g, b.clock.Load())
	}
}

// Answered says after how many nanoseconds a backend answered a TCP handshake; 0: of other protocols.
func (b *Backends) Answered(number uint32, after int64) {
	s := b.slot(number)
	if s == nil {
		return
	}
	s.succeed()
	if after > 0 {
		s.measure(after)
	}
}

// Refused says that a backend refused a flow, by RST or by an ICMP error, at time now. Such a flow counts as answered
// when it ends.
func (b *Backends) Refused(number uint32, now int64) {
	s := b.slot(number)
	if s == nil {
		return
	}
	b.tick(now)
	if g := s.group.Load(); g != nil {
		s.fail(g, now)
	}
}

// Name is the service's that a backend is of, empty for none.
func (b *Backends) Name(number uint32) string {
	if s := b.slot(number); s != nil && s.group.Load() != nil {
		return s.group.Load().name
	}
	return ""
}

// flows is how many flows a backend has.
func (s *slot) flows() uint64 { return uint64(max(int32(uint32(s.opened.Load())-s.left.Load()), 0)) }

// measure smooths the handshakes' times as TCP does round trips (RFC 6298 2.3, α = 1/8). Two at once may lose one.
func (s *slot) measure(after int64) {
	sample := int64(min(uint64(after), 1<<32-1))
	if was := int64(s.handshake.Load()); was != 0 {
		sample = was + (sample-was)/8
	}
	s.handshake.Store(uint32(max(sample, 1)))
}

// tick keeps the clock to some milliseconds: to write it every time would have workers wait for each other.
func (b *Backends) tick(now int64) {
	const lag = 10e6
	if now-b.clock.Load() > lag {
		b.clock.Store(now)
	}
}

// number gives a backend its number: the one that it has, or a free one that is its own when the table comes into
// force.
func (b *Backends) number(k backendKey, g *group) (uint32, error) {
	if n := b.numbers[k]; n != 0 {
		return n, nil
	}
	var n uint32
	switch {
	case len(b.free) > 0:
		n, b.free = b.free[len(b.free)-1], b.free[:len(b.free)-1]
	case len(b.records) == maxBackends:
		return 0, fmt.Errorf("there are more than %d backends", maxBackends-1)
	default:
		n = uint32(len(b.records))
		b.records = append(b.records, record{})
	}
	if at := &b.chunks[n/chunkSlots]; at.Load() == nil {
		at.Store(new(chunk))
	}
	b.slot(n).clear(g)
	b.records[n], b.numbers[k] = record{k, isPending}, n
	b.pending = append(b.pending, n)
	return n, nil
}

// release frees a number. Its counts stay until it is another's.
func (b *Backends) release(number uint32) {
	b.past.Opened += b.slot(number).opened.Load()
	delete(b.numbers, b.records[number].key)
	b.records[number] = record{}
	b.free = append(b.free, number)
}

func (s *slot) clear(g *group) {
	s.group.Store(g)
	s.left.Store(0)
	s.row.Store(0)
	s.opened.Store(0)
	s.failed.Store(0)
	s.handshake.Store(0)
	s.ejections.Store(0)
	s.again.Store(0)
	s.until.Store(0)
	s.since.Store(0)
	s.standing.Store(uint32(InForce))
	s.health.Store(healthy)
}

// group returns what a service's backends have in common.
func (b *Backends) group(id uint32, name string) *group {
	g := b.groups[id]
	if g == nil || g.name != name {
		g = &group{id: id, name: name}
		b.groups[id] = g
	}
	return g
}
