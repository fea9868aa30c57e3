// SPDX-License-Identifier: Apache-2.0

// Package fragment remembers what became of the first fragment of each datagram, so that the same becomes of the later
// ones, which have no ports to be judged by; and it keeps the order of those that wait for their first.
//
// A Table belongs to one worker: the hooks lead all fragments of a datagram to the same one. It holds no frames: a
// fragment that waits has a Ticket, and the worker has the frames. The files: fragment.go (what comes and what is said
// of it), seen.go (what of a datagram has come), wait.go (those that wait), table.go (where datagrams are kept).
//
// A fragment that overlaps others spoils its datagram, of either family: none of what follows is let on (RFC 5722 4,
// RFC 8200 4.5; for IPv4 the attacks of RFC 1858 and RFC 3128 ask for the same). Networks do repeat packets: a fragment
// of which every byte has come already is dropped alone, as RFC 8200 4.5 allows for exact duplicates and Linux does for
// all that lie within one run (inet_frag_queue_insert in net/ipv4/inet_fragment.c). The first copy of a byte is the
// only one that is let on, so that nothing that was judged can be overwritten.
//
// Where the first fragment is translated, so are the later ones: they have no ports, and take its addresses.
package fragment

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

const (
	second = int64(1e9)
	// waitTime is how long fragments wait for their first, in nanoseconds: they hold frames, and what sends the later
	// ones first sends the first one at once behind them.
	waitTime = 1 * second
	// keepTime is how long a datagram is remembered from the verdict on, in nanoseconds: what Linux gives reassembly
	// (IP_FRAG_TIME in include/net/ip.h), where RFC 8200 4.5 has 60 s at most.
	keepTime = 30 * second
)

// key is what all fragments of a datagram share: addresses, identification, protocol (RFC 791 3.2) and the port that
// they came in by. The protocol is none of IPv6's, of which only the first fragment tells it (RFC 8200 4.5); the
// family is in the addresses.
type key struct {
	src, dst packet.Addr
	id       uint32 // of IPv4 with the protocol above the identification's 16 bits
	in       packet.PortID
}

func keyOf(p *packet.Packet, piece packet.Piece) key {
	k := key{src: p.Src, dst: p.Dst, id: piece.ID, in: p.In}
	if p.Flags&packet.IPv6 == 0 {
		k.id |= uint32(p.Proto) << 16
	}
	return k
}

// state is what is known of a datagram.
type state uint8

const (
	waiting state = iota // its first fragment has not come
	judged               // its first fragment had reason
	spoiled              // its fragments overlap: reason is what becomes of all others
	lost                 // its first did not come in time, or there was no room to wait: reason says which
	done                 // judged, and all of it has come: what comes is another datagram's
)

// Addresses are those that the fragments of a datagram are to have; zero: their own. With a Dst and no Src they keep
// theirs, and are led to Dst in an outer header.
type Addresses struct{ Src, Dst packet.Addr }

// Enter notes a fragment that came in and returns its datagram, valid until the next call of Enter or Advance, and
// what is to become of it. Verdict None of a first fragment is to be followed by Judge; of a later one it is what Judge
// said, and Translated is what it is to have. WaitingForFragment asks for Hold.
func (t *Table) Enter(p *packet.Packet) (Datagram, verdict.Reason) {
	t.translated = Addresses{}
	piece := p.Piece()
	k := keyOf(p, piece)
	first := p.Flags&packet.FirstFragment != 0
	n := t.find(k)
	if n != 0 && (t.datagrams[n].state == done || first && t.datagrams[n].state == lost) {
		t.remove(n) // another one with the same identification, or too late for the rest
		n = 0
	}
	if n == 0 {
		n = t.open(k)
	}
	d := &t.datagrams[n]
	if d.state == spoiled || d.state == lost {
		return n, d.reason
	}
	switch d.seen.add(piece) {
	case repeated:
		return n, verdict.FragmentOverlap
	case contrary:
		t.settle(n, spoiled, verdict.FragmentOverlap)
		return n, verdict.FragmentOverlap
	}
	switch {
	case first:
		return n, verdict.None
	case d.state == waiting:
		return n, verdict.WaitingForFragment
	}
	reason := d.reason
	t.translated = d.translated
	t.end(n)
	return n, reason
}

// Translated are the addresses that the fragment is to have about which Enter or Again was asked last.
func (t *Table) Translated() Addresses { return t.translated }

// Judge says what became of the datagram's first fragment, and sets those free that wait for it.
func (t *Table) Judge(n Datagram, reason verdict.Reason) { t.JudgeTranslated(n, reason, Addresses{}) }

// JudgeTranslated is Judge for a first fragment that has got other addresses.
func (t *Table) JudgeTranslated(n Datagram, reason verdict.Reason, to Addresses) {
	t.datagrams[n].translated = to
	t.settle(n, judged, reason)
	t.end(n)
}

// end forgets the datagram if all of it has come. One that is translated is kept for those of its fragments that wait
// for something else: see Again.
func (t *Table) end(n Datagram) {
	switch d := &t.datagrams[n]; {
	case !d.seen.whole():
	case d.translated == Addresses{}:
		t.remove(n)
	default:
		d.state = done
	}
}

// Again returns what is to become of a fragment that was let on once and comes to be judged again, after it waited for
// something else. What is no longer known goes on: a datagram of which all has come is forgotten if it is not
// translated.
func (t *Table) Again(p *packet.Packet) (Datagram, verdict.Reason) {
	t.translated = Addresses{}
	n := t.find(keyOf(p, p.Piece()))
	if n == 0 {
		return 0, verdict.None
	}
	switch d := &t.datagrams[n]; {
	case d.state == spoiled:
		return n, d.reason
	case d.state != judged && d.state != done: // of another datagram with the same identification
		return 0, verdict.None
	case p.Flags&packet.FirstFragment == 0:
		t.translated = d.translated
		return n, d.reason
	}
	return n, verdict.None
}

// JudgeAgain says what became of a first fragment this time; nothing where Again found no datagram.
func (t *Table) JudgeAgain(n Datagram, reason verdict.Reason, to Addresses) {
	if n != 0 {
		t.datagrams[n].reason, t.datagrams[n].translated = reason, to
	}
}

// Advance sets the time, in monotonic nanoseconds, lets go of those that have waited too long, and forgets what is old.
func (t *Table) Advance(now int64) {
	t.now = now
	for n := t.waiting.oldest; n != 0 && now-t.datagrams[n].since >= waitTime; n = t.waiting.oldest {
		t.settle(n, lost, verdict.FragmentTimeout)
	}
	for n := t.settled.oldest; n != 0 && now-t.datagrams[n].since >= keepTime; n = t.settled.oldest {
		t.remove(n)
	}
}

// settle ends the datagram's time of waiting, if it does wait.
func (t *Table) settle(n Datagram, s state, reason verdict.Reason) {
	d := &t.datagrams[n]
	if d.state == waiting {
		t.unlink(&t.waiting, byAge, n)
		t.link(&t.settled, byAge, n)
		d.since = t.now
		t.free(d, reason)
	}
	d.state, d.reason = s, reason
}
