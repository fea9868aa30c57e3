// SPDX-License-Identifier: Apache-2.0

// Package denial remembers which flows policy has denied lately, and which it would have if staged policies were
// enforced: for people who ask why something does not work.
package denial

import (
	"cmp"
	"slices"
	"sync"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Denial is a flow that was not let in, or not let go on.
type Denial struct {
	Tuple   conntrack.Tuple // as its opener sent it
	In, Out packet.PortID   // the opener is behind In
	Reason  verdict.Reason  // None: the flow was let in, and a staged policy would have it denied
	Staged  bool            // what is said is what staged policies would make of it
	Rule    policy.RuleID   // that decided
	First   int64           // when the first packet came, and the last: monotonic nanoseconds
	Last    int64
	Packets uint64 // in that time
}

// size is how many flows are remembered: a power of two.
const size = 1024

// Log is the denials of one worker, the latest of each of its places. The zero value is ready; memory is taken with
// the first denial.
type Log struct {
	mu     sync.Mutex
	places *[size]Denial
}

// Note notes a packet of a denied flow; d's times and number are Note's to fill in. Where another flow has its place,
// that one is forgotten. It allocates the first time only.
func (l *Log) Note(d *Denial, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places == nil {
		l.places = new([size]Denial)
	}
	at := &l.places[place(&d.Tuple)]
	if at.Tuple != d.Tuple || at.Staged != d.Staged || at.Packets == 0 {
		*at = *d
		at.First, at.Packets = now, 0
	}
	at.In, at.Out, at.Reason, at.Rule, at.Last = d.In, d.Out, d.Reason, d.Rule, now
	at.Packets++
}

// place is a hash of a tuple. Who makes flows meet there hides no more than who denies many.
func place(t *conntrack.Tuple) uint64 {
	h := t.Src.Hi ^ t.Src.Lo*0x9e3779b97f4a7c15 ^ t.Dst.Hi*3 ^ t.Dst.Lo*0xc2b2ae3d27d4eb4f ^
		uint64(t.SrcPort)<<32 ^ uint64(t.DstPort)<<16 ^ uint64(t.Proto)
	return h * 0xff51afd7ed558ccd >> 54 % size
}

// List returns what is remembered, the latest first.
func (l *Log) List() (list []Denial) {
	var all [size]Denial
	l.mu.Lock() // for no longer than a copy takes: a worker may wait for it
	if l.places != nil {
		all = *l.places
	}
	l.mu.Unlock()
	for i := range all {
		if all[i].Packets > 0 {
			list = append(list, all[i])
		}
	}
	slices.SortFunc(list, func(a, b Denial) int { return cmp.Compare(b.Last, a.Last) })
	return list
}
