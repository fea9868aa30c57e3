// SPDX-License-Identifier: Apache-2.0

package fragment

import (
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// piece is a fragment as the tests write it: bytes [from, to) of its datagram.
type piece struct {
	from, to int
	more     bool
}

// craft writes a fragment of UDP, of either family, with the identification and a source that ends in host.
func craft(t testing.TB, v6 bool, host byte, id uint32, a piece) *packet.Packet {
	t.Helper()
	b := make([]byte, 14, 14+48+a.to-a.from)
	if v6 {
		b[12], b[13] = 0x86, 0xdd
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(8+a.to-a.from))
		b = append(b, 44, 64)
		b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host)
		b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)
		b = append(b, 17, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(a.from)|bit(a.more))
		b = binary.BigEndian.AppendUint32(b, id)
	} else {
		b[12] = 8
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+a.to-a.from))
		b = binary.BigEndian.AppendUint16(b, uint16(id))
		b = binary.BigEndian.AppendUint16(b, uint16(a.from/8)|bit(a.more)<<13)
		b = append(b, 64, 17, 0, 0, 10, 0, 0, host, 10, 0, 1, 0)
		binary.BigEndian.PutUint16(b[24:], ^packet.Fold(packet.Sum(b[14:34], 0)))
	}
	payload := make([]byte, a.to-a.from)
	if a.from == 0 && len(payload) >= 8 {
		copy(payload, []byte{0, 1, 0, 2, 0, 100, 0, 0}) // a UDP header
	}
	b = append(b, payload...)
	p := &packet.Packet{Frame: b, End: len(b)}
	if r := p.Parse(); r != verdict.None || p.Flags&packet.Fragment == 0 {
		t.Fatalf("%+v does not parse as a fragment: %v", a, r)
	}
	p.In = packet.PortID(host)
	return p
}

func bit(is bool) uint16 {
	if is {
		return 1
	}
	return 0
}

// rig is a table, and what the worker would do around it.
type rig struct {
	testing.TB
	Table
	verdict verdict.Reason // of first fragments
	tickets map[Ticket]int // what waits, by the order in which it came
	came    int
}

func newRig(t testing.TB, l limits) *rig {
	r := &rig{TB: t, tickets: make(map[Ticket]int)}
	r.limits = l
	r.Advance(1e12)
	return r
}

// pass is what became of a fragment, by the order in which it came.
type pass struct {
	number int
	reason verdict.Reason
}

// enter has a fragment come, and returns what became of it and of those that it set free.
func (r *rig) enter(p *packet.Packet) (all []pass) {
	r.Helper()
	r.came++
	n, reason := r.Enter(p)
	switch {
	case reason == verdict.WaitingForFragment:
		ticket, ok := r.Hold(n, 1, 1<<20)
		if !ok {
			reason = verdict.FragmentQueueFull
			break
		}
		if _, twice := r.tickets[ticket]; twice || ticket == 0 {
			r.Fatalf("ticket %d was given out twice", ticket)
		}
		r.tickets[ticket] = r.came
	case reason == verdict.None && p.Flags&packet.FirstFragment != 0:
		reason = r.verdict
		r.Judge(n, reason)
	}
	all = append(all, pass{r.came, reason})
	return append(all, r.left()...)
}

// left takes out what need not wait any longer.
func (r *rig) left() (all []pass) {
	for {
		ticket, reason, ok := r.Due()
		if !ok {
			return all
		}
		all = append(all, pass{r.tickets[ticket], reason})
		delete(r.tickets, ticket)
	}
}

// check fails where the table's counts and lists do not agree with each other.
func (r *rig) check() {
	r.Helper()
	if r.datagrams == nil {
		return
	}
	used, ofPorts, waits := 0, 0, 0
	for _, l := range []list{r.waiting, r.settled} {
		since := int64(0)
		for n := l.oldest; n != 0; n = r.datagrams[n].links[byAge].newer {
			d := &r.datagrams[n]
			if d.since < since || r.find(d.key) != n || (d.state == waiting) != (l == r.waiting) {
				r.Fatalf("datagram %d is out of order: %+v", n, d)
			}
			for t := d.waits.first; t != 0; t = r.waits[t].next {
				waits++
			}
			since = d.since
			used++
		}
	}
	held := 0
	for i := range r.shares {
		s := &r.shares[i]
		count := 0
		for n := s.datagrams.oldest; n != 0; n = r.datagrams[n].links[byPort].newer {
			count++
		}
		if count != s.count || count > r.limits.datagramsPort || s.held > r.limits.heldPort || s.frames != s.held {
			r.Fatalf("share %d: %+v with %d datagrams", i, s, count)
		}
		ofPorts += count
		held += s.held
	}
	if used != r.inUse || ofPorts != used || used > r.limits.datagrams || waits != r.held || held != waits ||
		len(r.tickets) != waits || r.frames != waits {
		r.Fatalf("%d datagrams, %d of ports, %d counted; %d wait, %d counted, %d of ports, %d tickets, %d frames",
			used, ofPorts, r.inUse, waits, r.held, held, len(r.tickets), r.frames)
	}
}
