// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Table is the kernel's flow table. Its methods may be called by anybody at any time.
type Table struct {
	buckets  []bucket
	records  []record
	egresses []egress
	control  *control
	clock    func() int64 // monotonic ns, of the dataplane
	kernel   func() int64 // CLOCK_MONOTONIC

	mu      sync.Mutex
	free    []Ref
	numbers map[packet.PortID]uint32 // of egresses
}

// Config is how a table is used.
type Config struct {
	Memory
	// Clock gives the dataplane's monotonic nanoseconds, Kernel those of CLOCK_MONOTONIC.
	Clock, Kernel func() int64
}

// Enter says that the kernel may carry a flow's direction d, 0 the opener's, from now on. ref is the flow's record, or 0
// for one that has none. It returns the record, 0 where there is no room.
func (t *Table) Enter(ref Ref, f *Flow, d uint8, w *Way) Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	panic("TODO")
}

// Remove takes a record out, and returns what is known of it.
func (t *Table) Remove(ref Ref) Carried { panic("TODO") }

// Read returns what is known of a record.
func (t *Table) Read(ref Ref) Carried { panic("TODO") }

// Flow returns what a record is for, and its ways: zero those that are not carried.
func (t *Table) Flow(ref Ref) (Flow, [2]Way, bool) { panic("TODO") }

// Keep says that policy of a generation lets a record's flow go on.
func (t *Table) Keep(ref Ref, generation uint32) { panic("TODO") }

// All iterates over the records.
func (t *Table) All() iter.Seq[Ref] { panic("TODO") }

// Find returns the record, and direction, of packets with these ends that come by a port; 0: none.
func (t *Table) Find(e packet.Ends, proto packet.IPProto, in packet.PortID) (Ref, uint8) { panic("TODO") }

// SetEgress says how a port's packets leave. Of None there is nothing that leads there any more.
func (t *Table) SetEgress(port packet.PortID, e Egress) error { panic("TODO") }

// SetCarry switches the whole on or off.
func (t *Table) SetCarry(on bool) { panic("TODO") }

// SetGeneration says of what generation of policy on records count.
func (t *Table) SetGeneration(oldest uint32) { panic("TODO") }

// SetOnAbsence says what packets for userspace get once it is silent.
func (t *Table) SetOnAbsence(pass bool) { panic("TODO") }

// Beat says that userspace is alive.
func (t *Table) Beat() { atomic.StoreUint64(&t.control.heart, uint64(t.kernel())) }

// Stats are those of the table.
type Stats struct {
	Records, Pairs, Capacity uint32
	Entered, Removed         uint64
	Refused, Evicted         uint64 // for want of room
}

var _ = fmt.Sprint
var _ = binary.BigEndian
var _ = bits.Len
var _ = unsafe.Sizeof(0)
