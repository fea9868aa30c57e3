// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"iter"
	"sync"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Table is the kernel's flow table. Its methods may be called by anybody at any time. They take no lock but the
// table's own, and call nobody but the clocks.
type Table struct {
	buckets  []bucket
	records  []record
	egresses []egress
	news     []uint64 // a bit for each record, which hooks set
	control  *control
	clock    func() int64 // monotonic ns, of the dataplane
	kernel   func() int64 // CLOCK_MONOTONIC
	tick     atomic.Int64 // of the kernel's clock, about: what records' times of 32 bits are near to

	pairs  atomic.Int32    // records of pairs
	unborn atomic.Int32    // young records whose SYN nobody is known to have answered
	stamps []atomic.Uint32 // by record; odd: it is somebody's. Changes whenever the record changes hands

	mu      sync.Mutex
	entered []uint32        // by record: when, in ticks of the kernel's clock
	waits   []bool          // by record: it is counted in unborn
	free    []uint32        // numbers of records, the last is taken first
	resting [resting]uint32 // those that became free last, a ring: the next goes to place rest
	rest    uint32
	hand    uint32 // see room.go
	limit   uint32 // of records a port; 0: none
	shares  []share
	places  []place // by record
	victims []victim
	waiting atomic.Int32 // victims
	ports   egressNumbers
	slots   int // of the index that are taken
	growth  growth
	stats   Stats
}

// Config is how a table is used.
type Config struct {
	Memory
	// Clock gives the dataplane's monotonic nanoseconds, Kernel those of CLOCK_MONOTONIC. They go at one pace.
	Clock, Kernel func() int64
}

// Stats are those of the table.
type Stats struct {
	Records, Pairs, Capacity uint32
	Untracked                uint32 // records of flows that nobody else knows
	Entered, Removed         uint64 // records, since New
	Refused, Evicted         uint64 // for want of room
	RefusedShare             uint64 // of those, since the port had as many as it may
	EvictedShare             uint64 // of those, since the port had too many
	Displaced                uint64 // for another flow had come to have the same packets
	Unreachable              uint64 // directions that led to ports of no egress
	Mended                   uint64 // what New found half written: records and slots
}

// New is the table in the memory, with the records that are there.
func New(cfg Config) (*Table, error) {
	t := &Table{clock: cfg.Clock, kernel: cfg.Kernel}
	if err := t.open(cfg.Memory); err != nil {
		return nil, err
	}
	t.tick.Store(t.kernel() >> tickShift)
	t.stamps = make([]atomic.Uint32, len(t.records))
	t.entered = make([]uint32, len(t.records))
	t.waits = make([]bool, len(t.records))
	t.free = make([]uint32, 0, len(t.records))
	t.shares, t.places = make([]share, maxPorts), make([]place, len(t.records))
	t.victims = make([]victim, 0, maxVictims)
	t.stats.Capacity = uint32(len(t.records))
	t.adopt()
	t.Hang(0)
	return t, nil
}

// Enter says that the kernel may carry a flow's direction d, 0 the opener's, from now on, or that it carries it
// another way. ref is the flow's record, or 0 for one that has none; of one that has, f is not looked at. It returns
// the flow's record, 0 where it has none (any more), and whether the direction was entered: it is not for want of
// room or of an egress, or because the record has been evicted.
//
// What was entered last counts: a record of another flow with the same packets is evicted.
func (t *Table) Enter(ref Ref, f *Flow, d uint8, w *Way) (Ref, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to, ok := t.ports.of(w.Out)
	if !ok {
		t.stats.Unreachable++
		return t.alive(ref), false
	}
	if ref != 0 {
		if ref = t.alive(ref); ref != 0 {
			ok = t.enterWay(ref.number(), d, to, w)
		}
		return ref, ref != 0 && ok
	}
	opener := openerOf(d, w)
	n := t.take(opener, f.Pair)
	if n == 0 {
		t.stats.Refused++
		return 0, false
	}
	t.begin(n, f, opener)
	if !t.enterWay(n, d, to, w) {
		t.end(n)
		return 0, false
	}
	t.stats.Entered++
	return t.ref(n), true
}

// Remove takes a record out, and returns what is known of it. It knows that of records, too, that were evicted and
// that TakeEvicted has not told of; of others it returns false.
func (t *Table) Remove(ref Ref) (Carried, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) == 0 {
		return t.forgetVictim(ref)
	}
	return t.removed(ref.number()), true
}

// Withdraw is Remove for a record whose ways are no longer right. Where one of them leads to userspace by intent
// (Way.Out is 0), the record stays, and all its ways lead there: there may be a pair that would carry the packets.
// stays says so, and what is known of the record goes on to count. known is as of Remove.
func (t *Table) Withdraw(ref Ref) (c Carried, stays, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := ref.number()
	if t.alive(ref) == 0 {
		c, known = t.forgetVictim(ref)
		return c, false, known
	}
	r := &t.records[n-1]
	if r.flags&claimed == 0 {
		return t.removed(n), false, true
	}
	r.write(func() {
		for d := range r.way {
			if w := &r.way[d]; w.from != 0 {
				t.ports.uses(w.to, -1)
				w.to = 0
			}
		}
	})
	return t.carried(n), true, true
}

func (t *Table) removed(n uint32) Carried {
	t.withdraw(n)
	c := t.carried(n)
	t.end(n)
	t.stats.Removed++
	return c
}

// Read returns what is known of a record, and whether there is such a record still.
func (t *Table) Read(ref Ref) (Carried, bool) {
	if !t.lives(ref) {
		return Carried{}, false
	}
	c := t.carried(ref.number())
	return c, t.lives(ref)
}

// Flow returns what a record is for, and its ways: zero those that are not carried. Of a way to an egress that has
// been changed since, Out is 0.
func (t *Table) Flow(ref Ref) (Flow, [2]Way, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) == 0 {
		return Flow{}, [2]Way{}, false
	}
	r := &t.records[ref.number()-1]
	var ways [2]Way
	for d := range ways {
		ways[d] = t.way(&r.way[d])
	}
	return r.flow(), ways, true
}

// Keep says that policy of a generation lets a record's flow go on.
func (t *Table) Keep(ref Ref, generation uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) != 0 { // one word, and the same flow's: the version stays
		atomic.StoreUint32(&t.records[ref.number()-1].generation, generation)
	}
}

// Close says that an end has sent a FIN, for one who takes over the table.
func (t *Table) Close(ref Ref, d uint8) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) != 0 { // one byte, and the same flow's: the version stays
		t.records[ref.number()-1].flags |= closed << (d & 1)
	}
}

// All iterates over the records, in no order. It holds no lock: of records that come and go meanwhile it may tell or
// not.
func (t *Table) All() iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		for i := range t.stamps {
			if stamp := t.stamps[i].Load(); stamp&1 != 0 && !yield(refOf(uint32(i+1), stamp)) {
				return
			}
		}
	}
}

// Find returns the record, and direction, of packets with these ends that come by a port; 0: none.
func (t *Table) Find(e packet.Ends, proto packet.IPProto, in packet.PortID) (Ref, uint8) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, d := t.find(t.control.hash(&e, proto, in), &e, proto, in)
	if n == 0 {
		return 0, 0
	}
	return t.ref(n), d
}

// Stats returns the table's.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Pairs = uint32(t.pairs.Load())
	return s
}

// SetCarry switches the whole on or off.
func (t *Table) SetCarry(on bool) { atomic.StoreUint32(&t.control.carry, word(on)) }

// SetGeneration says of what generation of policy on records count.
func (t *Table) SetGeneration(oldest uint32) { atomic.StoreUint32(&t.control.generation, oldest) }

// NewestGeneration is that of the record which policy has judged last; false: there is no record.
func (t *Table) NewestGeneration() (newest uint32, found bool) {
	for i := range t.stamps {
		if t.stamps[i].Load()&1 == 0 {
			continue
		}
		if g := atomic.LoadUint32(&t.records[i].generation); !found || int32(g-newest) > 0 {
			newest, found = g, true
		}
	}
	return newest, found
}

// SetOnAbsence says whether packets for userspace pass, once it is silent, to the host's own stack by its port, and
// from there to pods. By port 0 pods' packets do not pass.
func (t *Table) SetOnAbsence(pass bool, host packet.PortID) {
	atomic.StoreUint32(&t.control.hostPort, uint32(host))
	atomic.StoreUint32(&t.control.onAbsence, word(pass))
}

// Hang says which queues' packets are not taken though userspace is alive, by QueueBit: they are treated as if it were
// not. New takes all for taken.
func (t *Table) Hang(queues uint64) { atomic.StoreUint64(&t.control.hung, queues) }

// QueueBit stands for a queue, and for those whose numbers are equal to its modulo 64.
func QueueBit(queue int) uint64 { return 1 << (queue & 63) }

// Beat says that userspace is alive. It is to be called every 100 ms.
func (t *Table) Beat() {
	now := t.kernel()
	t.tick.Store(now >> tickShift)
	atomic.StoreUint64(&t.control.heart, uint64(now))
}

func word(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}
