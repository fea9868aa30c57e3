// SPDX-License-Identifier: Apache-2.0

package offload

import "github.com/viaduct-net/viaduct/dataplane/packet"

// A record counts for the port behind which the flow's opener is. Two rules keep a few ports from having the table
// alone:
//
//   - a port has no more than Limit says: from there on its own records make way, those that have not been used for
//     longest;
//   - in a full table, where nothing is unused, a port takes the place of one that has more than twice as many.
//
// Neither looks for anything: a port's records are a ring, which a hand goes round.

// maxPorts is the number of ports that have a share of their own, by the low bits of PortID: ports of a node are
// numbered from below. Further ones share them.
const maxPorts = 1 << 14

// leastLimit is the least that a port may have where Limit chooses.
const leastLimit = 64

// Share is what a port has of the table. What counts events counts since New, or Depart.
type Share struct {
	Records uint32
	Evicted uint64 // records that made way since the port had enough, or more than twice as many as another
	Refused uint64 // records that were not entered since the port had enough
}

type share struct {
	Share
	hand     uint32 // one of the port's records, the next that is looked at; 0: it has none
	frontier bool   // see Frontier
}

// place is where a record is in its port's ring.
type place struct {
	next, previous uint32 // records
	owner          uint16 // share
}

func (t *Table) shareOf(port packet.PortID) *share { return &t.shares[port%maxPorts] }

// Limit says how many records a port may have; 0: a quarter of the table. Before the first call there is no limit.
func (t *Table) Limit(perPort uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit = perPort; perPort == 0 {
		t.limit = max(t.stats.Capacity/4, leastLimit)
	}
}

// Frontier says whether behind a port are many, as behind an uplink or the host's: Limit does not hold for it.
func (t *Table) Frontier(port packet.PortID, is bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shareOf(port).frontier = is
}

// Depart says that a port is gone: what counts events of it counts for the next one of its number.
func (t *Table) Depart(port packet.PortID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shareOf(port)
	s.frontier, s.Evicted, s.Refused = false, 0, 0
}

// Share is what a port has of the table.
func (t *Table) Share(port packet.PortID) Share {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shareOf(port).Share
}

// openerOf is the port behind which a flow's opener is, of which a direction is entered; 0: it is not known.
func openerOf(d uint8, w *Way) packet.PortID {
	if d&1 == 0 {
		return w.In
	}
	return w.Out
}

// opener is openerOf for a record that is there.
func (t *Table) opener(r *record) packet.PortID {
	if r.way[0].from != 0 {
		return packet.PortID(r.way[0].from)
	}
	return t.ports.port(r.way[1].to)
}

// own has a record be a port's, the last that its hand comes by.
func (t *Table) own(n uint32, port packet.PortID) {
	s, p := t.shareOf(port), &t.places[n-1]
	p.owner = uint16(port % maxPorts)
	s.Records++
	if s.hand == 0 {
		s.hand, p.next, p.previous = n, n, n
		return
	}
	hand := &t.places[s.hand-1]
	p.next, p.previous = s.hand, hand.previous
	t.places[p.previous-1].next, hand.previous = n, n
}

// disown has a record be nobody's.
func (t *Table) disown(n uint32) {
	p := &t.places[n-1]
	s := &t.shares[p.owner]
	s.Records--
	t.places[p.next-1].previous, t.places[p.previous-1].next = p.previous, p.next
	switch {
	case s.Records == 0:
		s.hand = 0
	case s.hand == n:
		s.hand = p.next
	}
}

// full: the port has as many records as it may.
func (t *Table) full(s *share) bool { return t.limit != 0 && !s.frontier && s.Records >= t.limit }

// leastUsedOf is the record of a port's own that makes way, of a few; 0: none does.
func (t *Table) leastUsedOf(s *share) (least uint32) {
	oldest := t.oldest()
	for range min(looked, s.Records) {
		n := s.hand
		s.hand = t.places[n-1].next
		if !t.movable(n) {
			continue
		}
		if used := t.used(n); used <= oldest {
			least, oldest = n, used
		}
	}
	return least
}

// richer: a record's port has so many more records than another that it makes way for it.
func (t *Table) richer(n uint32, than *share) bool {
	return t.shares[t.places[n-1].owner].Records/2 > than.Records
}
