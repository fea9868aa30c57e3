// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"iter"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Flows between ports of which neither is policed are in no other table: what becomes of a packet follows from its
// header alone. Their records are the table's own. They end when they have not been used for a while, when there is no
// room, and when the walk over them finds that they are led elsewhere.

// UntrackedFor is how long a record of a flow that is not tracked stays without use.
const UntrackedFor = time.Minute

// Untracked is a flow that the kernel carries and nobody tracks.
type Untracked struct {
	Ref  Ref
	Flow Flow
	Ways [2]Way
	Used int64 // when a packet was last carried, as in Carried
}

// EnterUntracked has the kernel carry packets with these ends that come by a port, of a flow that is not tracked. Where
// the answers are carried already both have one record. It returns false for want of room or of an egress, and where
// the packets are those of a flow that somebody tracks.
func (t *Table) EnterUntracked(e *packet.Ends, proto packet.IPProto, generation uint32, w *Way) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	to, ok := t.ports.of(w.Out)
	if !ok || to == 0 {
		t.stats.Unreachable++
		return false
	}
	if n, d := t.find(t.control.hash(e, proto, w.In), e, proto, w.In); n != 0 {
		return t.records[n-1].flags&untracked != 0 && t.enterWay(n, d, to, w)
	}
	back := e.Reverse()
	if n, d := t.find(t.control.hash(&back, proto, w.Out), &back, proto, w.Out); n != 0 &&
		t.records[n-1].flags&untracked != 0 {
		return t.enterWay(n, d^1, to, w)
	}
	n := t.take(w.In, false)
	if n == 0 {
		t.stats.Refused++
		return false
	}
	t.begin(n, &Flow{Near: *e, Far: *e, Proto: proto, Generation: generation, Untracked: true}, w.In)
	if !t.enterWay(n, 0, to, w) {
		t.end(n)
		return false
	}
	t.stats.Entered++
	return true
}

// Untracked iterates over the flows that are not tracked, and removes those that have not been used for a minute. It
// holds no lock meanwhile: what it tells of a flow was so a moment ago.
func (t *Table) Untracked() iter.Seq[Untracked] {
	return func(yield func(Untracked) bool) {
		if t.Stats().Untracked == 0 {
			return
		}
		oldest := t.kernel()>>tickShift - int64(UntrackedFor)>>tickShift
		for ref := range t.All() {
			flow, ways, ok := t.Flow(ref)
			if !ok || !flow.Untracked {
				continue
			}
			if t.usedSince(ref) < oldest {
				t.Remove(ref)
				continue
			}
			c, _ := t.Read(ref)
			if !yield(Untracked{Ref: ref, Flow: flow, Ways: ways, Used: c.Used}) {
				return
			}
		}
	}
}

func (t *Table) usedSince(ref Ref) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) == 0 {
		return 0
	}
	return t.used(ref.number())
}
