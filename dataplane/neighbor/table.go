// SPDX-License-Identifier: Apache-2.0

// Package neighbor is the cache of link-layer addresses, for ARP (RFC 826) and neighbour discovery (RFC 4861) alike.
//
// It does no I/O and reads no clock: the worker tells it what was heard (Learn, Confirm) and what time it is, and it
// answers what to send (Resolve, Advance). Readers take no lock. All times are nanoseconds of one monotonic clock.
//
// Two bounds keep a scan of an empty subnet harmless: entries are limited in all and for each port, and an entry is
// made for an unknown neighbour only when its port may still send a solicitation, so that entries can appear no
// faster than solicitations are allowed to leave. A neighbour that did not answer stays known as Failed for as long
// as it is asked for, and is solicited again with growing pauses.
package neighbor

import (
	"container/heap"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Config sets a table's limits and timers. Zero fields get the default in brackets.
type Config struct {
	Limit        int // entries in all, pinned ones not counted [65536]
	PerPortLimit int // entries of one port, pinned ones not counted [Limit/4, at least 1]

	ReachableTime       time.Duration // from a confirmation to Stale [30s]
	RetransTimer        time.Duration // between solicitations [1s]
	DelayFirstProbe     time.Duration // from the use of a stale entry to its first probe [5s]
	StaleTime           time.Duration // unused entries are forgotten after this [10min]
	MaxBackoff          time.Duration // longest pause between solicitations of a failed entry [8s]
	MaxMulticastSolicit int           // broadcast or multicast solicitations before Failed [3]
	MaxUnicastSolicit   int           // unicast probes before the MAC is given up [3]

	SolicitRate        int // solicitations a second by broadcast or multicast, all ports together [4000]
	PerPortSolicitRate int // the same for each port [1000]
}

func (c Config) withDefaults() Config {
	setDefault(&c.Limit, 65536)
	setDefault(&c.PerPortLimit, max(c.Limit/4, 1))
	setDefault(&c.ReachableTime, 30*time.Second)
	setDefault(&c.RetransTimer, time.Second)
	setDefault(&c.DelayFirstProbe, 5*time.Second)
	setDefault(&c.StaleTime, 10*time.Minute)
	setDefault(&c.MaxBackoff, 8*time.Second)
	setDefault(&c.MaxMulticastSolicit, 3)
	setDefault(&c.MaxUnicastSolicit, 3)
	setDefault(&c.SolicitRate, 4000)
	setDefault(&c.PerPortSolicitRate, 1000)
	return c
}

func setDefault[T ~int | ~int64](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Statistics counts what happened since the table was made.
type Statistics struct {
	Entries   int    // at this moment, pinned ones included
	Solicited uint64 // solicitations asked for, of any kind
	Throttled uint64 // solicitations withheld by the rate limits
	Failures  uint64 // entries that became Failed
	Evicted   uint64 // entries that made room for others
	Full      uint64 // entries refused because there was no room
}

// Table is the neighbour cache of one dataplane. Its methods may be called by any goroutine; Lookup and the methods of
// Entry take no lock.
type Table struct {
	cfg        Config
	seed       [2]uint64
	buckets    []atomic.Pointer[Entry] // a power of two of chains
	generation atomic.Uint32

	advancing sync.Mutex // one Advance at a time; guards due
	due       []solicitation

	mu      sync.Mutex
	entries []*Entry
	ports   map[packet.PortID]*portEntries
	timers  timers
	hand    int // where Advance goes on looking for used entries
	victim  int // where eviction goes on looking
	pinned  int
	bucket  bucket
	stats   Statistics
}

type portEntries struct {
	entries []*Entry
	victim  int
	pinned  int
	bucket  bucket
}

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	cfg = cfg.withDefaults()
	return &Table{
		cfg:     cfg,
		seed:    [2]uint64{rand.Uint64(), rand.Uint64()},
		buckets: make([]atomic.Pointer[Entry], 1<<bits.Len(uint(cfg.Limit-1))),
		ports:   map[packet.PortID]*portEntries{},
		bucket:  newBucket(cfg.SolicitRate),
	}
}

// Generation changes whenever an entry becomes usable or stops being worth waiting for, and at no other time: workers
// look at their held packets again then.
func (t *Table) Generation() uint32 { return t.generation.Load() }

// Lookup returns the entry of addr at port, or nil. It neither locks nor allocates.
func (t *Table) Lookup(port packet.PortID, addr packet.Addr) *Entry {
	for e := t.chain(port, addr).Load(); e != nil; e = e.next.Load() {
		if e.Addr == addr && e.Port == port {
			return e
		}
	}
	return nil
}

// chain returns the bucket of a neighbour. The secret seed keeps peers from choosing addresses that collide.
func (t *Table) chain(port packet.PortID, addr packet.Addr) *atomic.Pointer[Entry] {
	hi, lo := bits.Mul64(addr.Hi^t.seed[0], addr.Lo^t.seed[1])
	hi, lo = bits.Mul64(hi^lo^t.seed[0], uint64(port)^t.seed[1])
	return &t.buckets[(hi^lo)&uint64(len(t.buckets)-1)]
}

// Resolve returns the entry of addr at port, made when there is none, and whether the caller must send a
// solicitation for it: by broadcast (ARP) or to the solicited-node group (ND). Exactly one caller is told to. It
// returns nil when there is no room, or when more neighbours are being asked for than the rate limits allow.
func (t *Table) Resolve(port packet.PortID, addr packet.Addr, now int64) (e *Entry, solicit bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e = t.Lookup(port, addr)
	if e == nil {
		if !t.allow(t.portOf(port), now) {
			return nil, false
		}
		if e = t.create(port, addr, now); e == nil {
			return nil, false
		}
		e.used.Store(1)
		t.startSolicited(e, now)
		return e, true
	}
	e.used.Store(1)
	if e.State() != Unresolved {
		return e, false
	}
	if t.allow(e.port, now) {
		t.startSolicited(e, now)
		return e, true
	}
	t.enter(e, packet.MAC{}, Incomplete, now, throttledRetry)
	return e, false
}

// startSolicited enters Incomplete with the first solicitation under way.
func (t *Table) startSolicited(e *Entry, now int64) {
	t.enter(e, packet.MAC{}, Incomplete, now, int64(t.cfg.RetransTimer))
	e.probes = 1
	t.stats.Solicited++
}

// Pin returns the entry of addr at port, made when there is none, and keeps it in the table until Unpin has been
// called as often. Limits do not apply: pinned entries are as many as the configuration names.
func (t *Table) Pin(port packet.PortID, addr packet.Addr) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.Lookup(port, addr)
	if e == nil {
		e = t.insert(port, addr, 0)
	}
	t.pin(e)
	return e
}

// Unpin takes back one Pin. An entry that nothing else asks for is forgotten in its own time.
func (t *Table) Unpin(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unpin(e)
}

func (t *Table) unpin(e *Entry) {
	if e.port == nil || e.pins == 0 {
		return
	}
	if e.pins--; e.pins > 0 {
		return
	}
	t.pinned--
	e.port.pinned--
	if e.State() == Unresolved {
		t.remove(e)
	}
}

func (t *Table) pin(e *Entry) {
	if e.pins++; e.pins == 1 {
		t.pinned++
		e.port.pinned++
	}
}

// SetPermanent configures a neighbour by hand: it is usable at once, pinned, and what is heard does not change it. It
// returns false, and does nothing, when mac is no unicast address.
func (t *Table) SetPermanent(port packet.PortID, addr packet.Addr, mac packet.MAC) bool {
	if !unicast(mac) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setPermanent(Static{port, addr, mac})
	return true
}

func (t *Table) setPermanent(s Static) *Entry {
	e := t.Lookup(s.Port, s.Addr)
	if e == nil {
		e = t.insert(s.Port, s.Addr, 0)
	}
	if e.State() == Permanent && e.mac() == s.MAC {
		return e
	}
	if e.State() != Permanent {
		t.pin(e)
	}
	t.stopTimer(e)
	e.set(s.MAC, Permanent)
	t.generation.Add(1)
	return e
}

// UnsetPermanent takes back SetPermanent; the neighbour is resolved again when it is asked for.
func (t *Table) UnsetPermanent(port packet.PortID, addr packet.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.Lookup(port, addr); e != nil && e.State() == Permanent {
		t.unsetPermanent(e)
	}
}

func (t *Table) unsetPermanent(e *Entry) {
	e.set(packet.MAC{}, Unresolved)
	t.unpin(e)
}

// Static is a configured neighbour.
type Static struct {
	Port packet.PortID
	Addr packet.Addr
	MAC  packet.MAC
}

// ReplacePermanent makes the permanent entries exactly these.
func (t *Table) ReplacePermanent(statics []Static) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := make(map[*Entry]bool, len(statics))
	for _, s := range statics {
		if unicast(s.MAC) {
			wanted[t.setPermanent(s)] = true
		}
	}
	for i := len(t.entries) - 1; i >= 0; i-- {
		if e := t.entries[i]; e.State() == Permanent && !wanted[e] {
			t.unsetPermanent(e)
		}
	}
}

// DropPort forgets what is known of a port's neighbours, as when its device has gone. Pinned entries stay, and are
// resolved again when asked for; permanent ones stay as they are.
func (t *Table) DropPort(port packet.PortID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.ports[port]
	if p == nil {
		return
	}
	for i := len(p.entries) - 1; i >= 0; i-- {
		e := p.entries[i]
		switch {
		case e.State() == Permanent:
		case e.pins > 0:
			t.stopTimer(e)
			e.set(packet.MAC{}, Unresolved)
		default:
			t.remove(e)
		}
	}
	t.generation.Add(1)
}

// Info is one entry as the CLI prints it.
type Info struct {
	Port   packet.PortID
	Addr   packet.Addr
	MAC    packet.MAC
	State  State
	Age    time.Duration // since reachability was last confirmed; negative when it never was
	Idle   time.Duration // since the entry was last seen in use; negative when it never was
	Pinned bool          // a route or the configuration names it
}

// All lists the entries, in no order.
func (t *Table) All(now int64) []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Info, 0, len(t.entries))
	for _, e := range t.entries {
		info := Info{Port: e.Port, Addr: e.Addr, MAC: e.mac(), State: e.State(), Age: -1, Idle: -1, Pinned: e.pins > 0}
		if e.confirmed != 0 {
			info.Age = time.Duration(now - e.confirmed)
		}
		if e.used.Load() != 0 {
			info.Idle = 0
		} else if e.lastUsed != 0 {
			info.Idle = time.Duration(now - e.lastUsed)
		}
		all = append(all, info)
	}
	return all
}

// Statistics returns the table's counters.
func (t *Table) Statistics() Statistics {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Entries = len(t.entries)
	return s
}

// create inserts an entry within the limits, at the cost of a less useful one where they are reached; nil when none
// may go.
func (t *Table) create(port packet.PortID, addr packet.Addr, now int64) *Entry {
	p := t.portOf(port)
	if len(p.entries)-p.pinned >= t.cfg.PerPortLimit && !t.evict(p.entries, &p.victim, now) {
		t.stats.Full++
		return nil
	}
	if len(t.entries)-t.pinned >= t.cfg.Limit && !t.evict(t.entries, &t.victim, now) {
		t.stats.Full++
		return nil
	}
	return t.insert(port, addr, now)
}

// evictionSweep bounds how many entries are looked at to find one that may go.
const evictionSweep = 64

// evict removes a failed entry, else the stale one longest unused, among the next few of list.
func (t *Table) evict(list []*Entry, hand *int, now int64) bool {
	var best *Entry
	for range min(evictionSweep, len(list)) {
		*hand = (*hand + 1) % len(list)
		e := list[*hand]
		inUse := e.touch(now)
		if e.pins > 0 {
			continue
		}
		if e.State() == Failed {
			best = e
			break
		}
		if e.State() == Stale && !inUse && (best == nil || e.lastUsed < best.lastUsed) {
			best = e
		}
	}
	if best == nil {
		return false
	}
	t.remove(best)
	t.stats.Evicted++
	return true
}

func (t *Table) portOf(port packet.PortID) *portEntries {
	p := t.ports[port]
	if p == nil {
		p = &portEntries{bucket: newBucket(t.cfg.PerPortSolicitRate)}
		t.ports[port] = p
	}
	return p
}

func (t *Table) insert(port packet.PortID, addr packet.Addr, now int64) *Entry {
	p := t.portOf(port)
	e := &Entry{Port: port, Addr: addr, since: now, timer: -1, slot: len(t.entries), portSlot: len(p.entries), port: p}
	t.entries = append(t.entries, e)
	p.entries = append(p.entries, e)
	head := t.chain(port, addr)
	e.next.Store(head.Load())
	head.Store(e)
	return e
}

// remove takes an entry out of the table. Its next pointer stays, for readers that stand on it.
func (t *Table) remove(e *Entry) {
	t.stopTimer(e)
	link := t.chain(e.Port, e.Addr)
	for link.Load() != e {
		link = &link.Load().next
	}
	link.Store(e.next.Load())

	last := t.entries[len(t.entries)-1]
	t.entries[e.slot], last.slot = last, e.slot
	t.entries[len(t.entries)-1] = nil
	t.entries = t.entries[:len(t.entries)-1]

	p := e.port
	last = p.entries[len(p.entries)-1]
	p.entries[e.portSlot], last.portSlot = last, e.portSlot
	p.entries[len(p.entries)-1] = nil
	p.entries = p.entries[:len(p.entries)-1]

	e.port = nil
	e.set(packet.MAC{}, Failed)
	t.generation.Add(1)
}

// timers is a heap of the entries whose timer runs, soonest first.
type timers []*Entry

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer, h[j].timer = i, j
}

// Push is for container/heap.
func (h *timers) Push(x any) {
	e := x.(*Entry)
	e.timer = len(*h)
	*h = append(*h, e)
}

// Pop is for container/heap.
func (h *timers) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.timer = -1
	return e
}

func (t *Table) setTimer(e *Entry, deadline int64) {
	e.deadline = deadline
	if e.timer < 0 {
		heap.Push(&t.timers, e)
		return
	}
	heap.Fix(&t.timers, e.timer)
}

func (t *Table) stopTimer(e *Entry) {
	if e.timer >= 0 {
		heap.Remove(&t.timers, e.timer)
	}
}
