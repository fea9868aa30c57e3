// SPDX-License-Identifier: Apache-2.0

package fragment

import "github.com/viaduct-net/viaduct/dataplane/verdict"

// Ticket numbers a fragment that waits: at least 1, and as small as those in use allow.
type Ticket uint16

// wait is a fragment that waits, or has waited and is due.
type wait struct {
	next   Ticket // that came behind it
	share  uint16 // of its port
	frames uint16
	reason verdict.Reason // when due: what became of its first
}

// queue is fragments in the order in which they came.
type queue struct{ first, last Ticket }

// Hold has a fragment wait for its datagram's first, for which Enter has said WaitingForFragment. Of the most frames
// that may wait in all it takes so many, and a port may have one in shareOf of them. It returns false where too many
// wait: too many in all or, what leaves other ports their room, of that port.
func (t *Table) Hold(n Datagram, frames, most int) (Ticket, bool) {
	d := &t.datagrams[n]
	s := &t.shares[shareOfPort(d.key.in)]
	switch {
	case t.held == t.limits.held || t.frames+frames > most:
		return 0, false
	case s.held == t.limits.heldPort || s.held > 0 && s.frames+frames > most/shareOf:
		return 0, false
	}
	ticket := t.ticket()
	w := &t.waits[ticket]
	*w = wait{share: shareOfPort(d.key.in), frames: uint16(frames)}
	t.push(&d.waits, ticket)
	t.held++
	t.frames += frames
	s.held++
	s.frames += frames
	return ticket, true
}

// Due takes out the next fragment that need not wait any longer, and returns what becomes of it: None where its first
// was let on, else why it is dropped. Its ticket is free with that.
func (t *Table) Due() (Ticket, verdict.Reason, bool) {
	ticket := t.due.first
	if ticket == 0 {
		return 0, verdict.None, false
	}
	w := &t.waits[ticket]
	if t.due.first = w.next; w.next == 0 {
		t.due.last = 0
	}
	s := &t.shares[w.share]
	t.held--
	t.frames -= int(w.frames)
	s.held--
	s.frames -= int(w.frames)
	w.next, t.spare = t.spare, ticket
	return ticket, w.reason, true
}

// Abandon has all that wait be dropped.
func (t *Table) Abandon(why verdict.Reason) {
	for t.waiting.oldest != 0 {
		t.settle(t.waiting.oldest, lost, why)
	}
}

// free makes those that wait for the datagram's first due.
func (t *Table) free(d *datagram, reason verdict.Reason) {
	for ticket := d.waits.first; ticket != 0; {
		next := t.waits[ticket].next
		t.waits[ticket].next, t.waits[ticket].reason = 0, reason
		t.push(&t.due, ticket)
		ticket = next
	}
	d.waits = queue{}
}

func (t *Table) push(q *queue, ticket Ticket) {
	if q.last == 0 {
		q.first = ticket
	} else {
		t.waits[q.last].next = ticket
	}
	q.last = ticket
}

// ticket returns a free ticket.
func (t *Table) ticket() Ticket {
	if ticket := t.spare; ticket != 0 {
		t.spare = t.waits[ticket].next
		return ticket
	}
	t.issued++
	return t.issued
}
