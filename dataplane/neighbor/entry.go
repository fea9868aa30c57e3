// SPDX-License-Identifier: Apache-2.0

package neighbor

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// State is where an entry stands in the state machine of RFC 4861 7.3.2, which serves ARP too.
type State uint8

// The states. From Reachable on the MAC may be used.
const (
	// Unresolved entries exist because a route names them; nobody has asked for their MAC.
	Unresolved State = iota
	// Incomplete entries have been solicited and have not answered.
	Incomplete
	// Failed entries did not answer; while they are asked for they are solicited again, ever more rarely.
	Failed
	// Reachable entries answered within ReachableTime.
	Reachable
	// Stale entries are used as they are, and verified when used.
	Stale
	// Delay entries were used while stale: they have DelayFirstProbe to be confirmed by other means.
	Delay
	// Probe entries are being solicited by unicast.
	Probe
	// Permanent entries are configured; nothing that is heard changes them.
	Permanent
)

// String returns the state's name as the CLI prints it.
func (s State) String() string {
	if s > Permanent {
		return "invalid"
	}
	return [...]string{
		"unresolved", "incomplete", "failed", "reachable", "stale", "delay", "probe", "permanent",
	}[s]
}

// Usable says whether packets may be sent to the entry's MAC.
func (s State) Usable() bool { return s >= Reachable }

// Entry is one neighbour: an address behind a port. It is shared by all workers; Port and Addr never change. An
// entry that the table has let go of is Failed for ever: whoever still holds it asks the table again.
type Entry struct {
	Port packet.PortID
	Addr packet.Addr

	word atomic.Uint64 // the MAC in the low 48 bits, first byte lowest; the State above
	used atomic.Uint32 // set by readers, folded into lastUsed by the table
	next atomic.Pointer[Entry]

	// What follows belongs to Table.mu.
	pins      int
	probes    int          // solicitations sent in this state
	backoff   int64        // wait before a failed entry is solicited again
	since     int64        // when the state was entered
	confirmed int64        // when reachability was last confirmed
	lastUsed  int64        // when the table last saw used set
	deadline  int64        // when the state's timer fires
	timer     int          // position in Table.timers, -1 when none runs
	slot      int          // position in Table.entries
	portSlot  int          // position in the port's list
	port      *portEntries // nil once the table has let go of the entry
}

// MAC returns the neighbour's link-layer address and whether it may be used. It marks the entry as in use, which is
// what keeps it verified. It neither locks nor allocates.
func (e *Entry) MAC() (packet.MAC, bool) {
	if e.used.Load() == 0 {
		e.used.Store(1)
	}
	w := e.word.Load()
	return unpackMAC(w), State(w>>48) >= Reachable
}

// Peek is MAC for who does not send to it: the entry is not in use for that.
func (e *Entry) Peek() (packet.MAC, bool) {
	w := e.word.Load()
	return unpackMAC(w), State(w>>48) >= Reachable
}

// State returns the entry's state at this moment.
func (e *Entry) State() State { return State(e.word.Load() >> 48) }

// Failed says whether the neighbour has been asked in vain, so that packets to it are answered with an error.
func (e *Entry) Failed() bool { return e.State() == Failed }

func (e *Entry) mac() packet.MAC { return unpackMAC(e.word.Load()) }

func (e *Entry) set(m packet.MAC, s State) { e.word.Store(packMAC(m) | uint64(s)<<48) }

// touch folds what readers marked into lastUsed and returns whether they had.
func (e *Entry) touch(now int64) bool {
	if e.used.Load() == 0 {
		return false
	}
	e.used.Store(0)
	e.lastUsed = now
	return true
}

func packMAC(m packet.MAC) uint64 {
	return uint64(binary.LittleEndian.Uint32(m[:4])) | uint64(binary.LittleEndian.Uint16(m[4:]))<<32
}

func unpackMAC(w uint64) (m packet.MAC) {
	binary.LittleEndian.PutUint32(m[:4], uint32(w))
	binary.LittleEndian.PutUint16(m[4:], uint16(w>>32))
	return m
}

// unicast says whether m can be the address of one station (IEEE 802: group bit clear, not all zero).
func unicast(m packet.MAC) bool { return !m.IsMulticast() && !m.IsZero() }
