// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A pair is two addresses, each of a station of this node, of which the kernel carries all TCP that is not translated,
// whoever opens it and whatever its ports: policy lets all of it. The table has no entries of such connections, and
// they count for no limit. What of them comes to userspace all the same, as a packet that is too large, is passed on as
// it is (Seen.Paired).
//
// Two things have to be seen to. A flow that is translated may have the addresses of a pair on the way to its other
// end, whose answers the pair would take: see claim.go. And once a pair is withdrawn, its connections are to go on, if
// policy lets them. Those that the kernel remembers are restored as flows; others are taken up in mid-stream from
// either end, for a minute.
const takeUp = time.Minute

// AddressPair is two addresses of one family, in one order whoever speaks.
type AddressPair struct{ Lo, Hi packet.Addr }

// PairOf is the pair of two addresses.
func PairOf(a, b packet.Addr) AddressPair {
	var k key
	k.set(a, b, 0, 0, packet.ProtoTCP, 0, false)
	return AddressPair{k.lo, k.hi}
}

// EnteredPair is a pair and its record.
type EnteredPair struct {
	AddressPair
	Ref offload.Ref
}

// pairs is what the table knows of pairs.
type pairs struct {
	mu        sync.Mutex // of who enters or withdraws one
	entered   []EnteredPair
	dropped   []AddressPair                         // that had to go for want of room
	withdrawn atomic.Pointer[map[AddressPair]int64] // until when their connections are taken up, ns; nil: there are none
	claims    atomic.Int32                          // of ends behind translation, at least: see claim.go
	between   betweens
	lately    [lateCounters]atomic.Uint32 // connections between two addresses, by their hash
}

// busyFrom is how many connections between two addresses there are to be, between two calls of Ease, for a pair of them
// to be worth it. Fewer are seen one by one.
const (
	busyFrom     = 4
	lateCounters = 1 << 12
)

// Busy says whether so many connections between two addresses have been opened lately that they are worth a pair.
func (t *Table) Busy(a, b packet.Addr) bool { return t.pairs.opened(&t.keys, a, b).Load() >= busyFrom }

// CountOpened counts a connection between two addresses for Busy.
func (t *Table) CountOpened(a, b packet.Addr) { t.pairs.opened(&t.keys, a, b).Add(1) }

func (x *pairs) opened(keys *Seed, a, b packet.Addr) *atomic.Uint32 {
	pair := PairOf(a, b)
	return &x.lately[keys.hash(&key{lo: pair.Lo, hi: pair.Hi})%lateCounters]
}

// Ease has what was counted for Busy until now be forgotten.
func (t *Table) Ease() {
	for i := range t.pairs.lately {
		t.pairs.lately[i].Store(0)
	}
}

func (x *pairs) init(flows int, kernel *offload.Table) {
	x.between.init(flows)
	if kernel.Stats().Records > 0 { // another process has left them
		x.claims.Store(1)
	}
}

// IsPaired says whether the kernel carries all TCP between two addresses, of which packets from a come by a port.
func (t *Table) IsPaired(a, b packet.Addr, in packet.PortID) bool {
	if t.kernel == nil {
		return false
	}
	ref, _ := t.kernel.Pair(a, b, in)
	return ref != 0
}

// Pair has the kernel carry all TCP between two addresses, of which packets come and leave by the ways, those from a to
// b first. Policy of a generation lets all of it. It returns false where the kernel does not: for want of room, or
// while a translated flow that was there before has its packets between the two.
func (t *Table) Pair(a, b packet.Addr, ways *[2]offload.Way, generation uint32, now int64) bool {
	x := &t.pairs
	if t.kernel == nil || t.pairs.between.some(&t.keys, a, b) {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if ref, _ := t.kernel.Pair(a, b, ways[0].In); ref != 0 {
		return true
	}
	e := packet.Ends{Src: a, Dst: b}
	f := offload.Flow{Near: e, Far: e, Proto: packet.ProtoTCP, Generation: generation, Pair: true}
	ref, ok := t.kernel.Enter(0, &f, 0, &ways[0])
	if !ok {
		return false
	}
	// A flow that is opened from here on finds the pair and claims its ends; one that was opened until here is counted.
	if _, ok = t.kernel.Enter(ref, &f, 1, &ways[1]); ok && !t.pairs.between.some(&t.keys, a, b) {
		x.entered = append(x.entered, EnteredPair{PairOf(a, b), ref})
		return true
	}
	t.dropPair(ref, a, b, now)
	return false
}

// dropPair withdraws a pair at once. Who calls TakeDropped restores its connections. x.mu is held.
func (t *Table) dropPair(ref offload.Ref, a, b packet.Addr, now int64) {
	x := &t.pairs
	t.loosen([]AddressPair{PairOf(a, b)}, now)
	t.kernel.Remove(ref)
	x.dropped = append(x.dropped, PairOf(a, b))
}

// TakeEntered returns the pairs that were entered since the last call. Settle is to be called of them a moment later,
// when what was under way has arrived.
func (t *Table) TakeEntered() (list []EnteredPair) {
	t.pairs.mu.Lock()
	defer t.pairs.mu.Unlock()
	list, t.pairs.entered = t.pairs.entered, nil
	return list
}

// TakeDropped returns the pairs that the table has withdrawn since the last call.
func (t *Table) TakeDropped() (list []AddressPair) {
	t.pairs.mu.Lock()
	defer t.pairs.mu.Unlock()
	list, t.pairs.dropped = t.pairs.dropped, nil
	return list
}

// TakeUp has connections between pairs' addresses be taken up in mid-stream for a minute, as Config.Loose has all. It
// is called before a pair is withdrawn.
func (t *Table) TakeUp(list []AddressPair, now int64) {
	t.pairs.mu.Lock()
	defer t.pairs.mu.Unlock()
	t.loosen(list, now)
}

func (t *Table) loosen(list []AddressPair, now int64) {
	next := map[AddressPair]int64{}
	if was := t.pairs.withdrawn.Load(); was != nil {
		for pair, until := range *was {
			if until > now {
				next[pair] = until
			}
		}
	}
	for _, pair := range list {
		next[pair] = now + int64(takeUp)
	}
	t.pairs.withdrawn.Store(&next)
}

// loosely says whether connections between two addresses are taken up in mid-stream.
func (t *Table) loosely(a, b packet.Addr, now int64) bool {
	if now < t.loose {
		return true
	}
	withdrawn := t.pairs.withdrawn.Load()
	return withdrawn != nil && now < (*withdrawn)[PairOf(a, b)]
}

// paired says whether a segment of no flow is of a connection that the kernel carries by a pair. Where a translated
// flow has the same ends on the way to its other end, the pair has it not.
func (t *Table) paired(p *packet.Packet, in packet.PortID, s *Seen) bool {
	return !s.shared && t.IsPaired(p.Src, p.Dst, in)
}

// relatePair lets an error pass about a segment that the kernel carried by a pair, from the end that got it. Which of
// those there were nobody knows.
func (t *Table) relatePair(p *packet.Packet, about *inner, in packet.PortID, s *Seen) {
	if about.proto == packet.ProtoTCP && p.Src == about.dst && t.IsPaired(about.dst, about.src, in) {
		s.Status, s.Reason, s.Opener, s.Other = Related, verdict.None, in, in
	}
}
