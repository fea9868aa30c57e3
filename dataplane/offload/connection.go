// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"
	"sync/atomic"
)

// A connection may be carried from its handshake on. Until userspace knows that it stands its record is young: hooks
// carry the answer to the SYN, which has to acknowledge just that, and what comes behind it, and have userspace look at
// the record for each of these packets. Of a SYN that nobody has answered a record is worth little: those have a share
// of the table, and make way first.

// youngShare is the reciprocal of the share of the table that young records without an answer may have.
const youngShare = 8

// youngUnused is for how long a young record without an answer is kept from making way, in ticks: 1 s, after which its
// opener repeats the SYN (RFC 6298 2.1).
const youngUnused = 1e9 >> tickShift

// EnterYoung says that the kernel may carry both directions of a TCP flow that has no record yet, and whose handshake
// goes on as f.Young says. It returns the flow's record, 0 where it has none: for want of room or of egresses, or
// where there are too many such flows.
func (t *Table) EnterYoung(f *Flow, ways *[2]Way) Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !f.Answered && uint32(t.unborn.Load()) >= t.stats.Capacity/youngShare {
		t.stats.Refused++
		return 0
	}
	var to [2]uint32
	for d := range ways {
		var ok bool
		if to[d], ok = t.ports.of(ways[d].Out); !ok {
			t.stats.Unreachable++
			return 0
		}
	}
	opener := openerOf(0, &ways[0])
	n := t.take(opener, false)
	if n == 0 {
		t.stats.Refused++
		return 0
	}
	t.begin(n, f, opener)
	t.beYoung(n, &f.Young)
	for d := range ways {
		if !t.enterWay(n, uint8(d), to[d], &ways[d]) {
			t.end(n)
			return 0
		}
	}
	t.stats.Entered++
	return t.ref(n)
}

// beYoung writes what is known of a handshake into a record that nothing leads to yet.
func (t *Table) beYoung(n uint32, y *Young) {
	r := &t.records[n-1]
	r.write(func() {
		expects := &r.way[1].ack
		if r.flags |= young; y.Answered {
			expects = &r.way[0].ack
			if r.way[1].answered = answered; y.Scaled {
				r.way[1].answered |= answeredScale | uint16(y.Scale)
			}
		}
		atomic.StoreUint32(expects, bits.ReverseBytes32(y.Expects))
	})
	if !y.Answered {
		t.unborn.Add(1)
		t.waits[n-1] = true
	}
}

// Grown says that the flow's handshake is over, as far as userspace is concerned.
func (t *Table) Grown(ref Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(ref) != 0 { // one byte, and the same flow's: the version stays
		t.grow(ref.number())
	}
}

func (t *Table) grow(n uint32) {
	if r := &t.records[n-1]; r.flags&young != 0 {
		r.flags &^= young
	}
	if t.waits[n-1] {
		t.waits[n-1] = false
		t.unborn.Add(-1)
	}
}

// waitsInVain says of a young record whether it may make way although it has not been idle for long.
func (t *Table) waitsInVain(n uint32) bool {
	return t.waits[n-1] && t.records[n-1].way[1].hasAnswered() == 0 &&
		t.kernel()>>tickShift-t.extend(t.entered[n-1]) > youngUnused
}

// youth is what a record says of its handshake.
func (r *record) youth() (y Young) {
	if r.flags&young == 0 {
		return y
	}
	a := r.way[1].hasAnswered()
	y = Young{Is: true, Answered: a&answered != 0, Scaled: a&answeredScale != 0, Scale: uint8(a & scaleBits)}
	expects := &r.way[1].ack
	if y.Answered {
		expects = &r.way[0].ack
	}
	y.Expects = bits.ReverseBytes32(atomic.LoadUint32(expects))
	return y
}

// endings are the flags of a record whose flow ends as hooks may see it.
func endings(f *Flow) (flags uint8) {
	if f.Whole {
		flags |= whole
	}
	for d, is := range f.Closed {
		if is {
			flags |= closed << d
		}
	}
	return flags
}
