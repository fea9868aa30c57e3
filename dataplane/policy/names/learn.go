// SPDX-License-Identifier: Apache-2.0

package names

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// How long addresses are known.
const (
	// grace is how long an address is known beyond its TTL: a station may connect at the TTL's last moment, after a
	// resolver of its own that counts from when the answer came there, and tries several addresses one after the other,
	// for seconds each. So an answer with TTL 0, which is for the one connection that it was asked for, is of use.
	grace = 60 * time.Second
	// maxTTL is the longest TTL that is believed: a day, as resolvers do (RFC 8767 4 names a week as the cap).
	maxTTL = 24 * time.Hour
)

// Bounds on what is read of one message.
const (
	maxRecords  = 128 // of the answer section
	maxAliases  = 16  // CNAMEs one after the other
	maxPatterns = 32  // that one message's names fit
)

// chain is the names that a question's name leads to, itself included, and the patterns that they fit.
type chain struct {
	patterns [maxPatterns]uint64
	count    int
	ttl      uint32 // the least on the way, seconds
	last     name
}

// Learn reads a DNS message that a station, the one behind the port, got as an answer, and remembers the addresses of
// names that fit patterns: of the name that was asked for, and of those that it is an alias of. A message that is
// malformed teaches nothing. now is in nanoseconds, monotonic. Several workers may call it; the first answer to a port
// allocates what is known of it.
func (s *Store) Learn(p *Patterns, port packet.PortID, message []byte, now int64) {
	if p == nil || len(message) < headerSize {
		return
	}
	var c chain
	r := reader{message: message}
	records, ok := r.begin(&c.last)
	if !ok {
		return
	}
	answers := r
	if !c.follow(p, answers, records) || c.count == 0 {
		return
	}
	s.learnAddresses(&c, port, &r, records, now)
}

// begin reads the header and the question: one, and an answer without error. What of it was cut off is asked for again,
// and what is there holds.
func (r *reader) begin(question *name) (records int, ok bool) {
	r.uint16()
	flags, questions := r.uint16(), r.uint16()
	records = int(r.uint16())
	r.take(4)
	if flags&flagResponse == 0 || flags&(maskOpcode|maskRcode) != 0 || questions != 1 || records > maxRecords {
		return 0, false
	}
	r.name(question)
	kind, class := r.uint16(), r.uint16()
	return records, !r.failed && (kind == typeA || kind == typeAAAA) && class == classIN
}

// record is the fixed part of a resource record (RFC 1035 3.2.1).
type record struct {
	kind, class uint16
	ttl         uint32
	size        int
}

func (r *reader) record(owner *name) record {
	r.name(owner)
	rec := record{r.uint16(), r.uint16(), r.uint32(), int(r.uint16())}
	if rec.ttl>>31 != 0 {
		rec.ttl = 0 // RFC 2181 8
	}
	return rec
}

// follow goes along the aliases of the question, whose name is in last. It returns false for a malformed message, one
// that is not whole included, and for one whose aliases do not end.
func (c *chain) follow(p *Patterns, answers reader, records int) bool {
	c.ttl = ^uint32(0)
	for range maxAliases + 1 {
		c.match(p)
		alias, ok := c.step(answers, records)
		if !ok {
			return false
		}
		if !alias {
			return true
		}
	}
	return false
}

func (c *chain) match(p *Patterns) {
	c.count = len(p.match(c.patterns[:c.count], c.last.bytes()))
}

// step goes to the name that last is an alias of, if it is one.
func (c *chain) step(r reader, records int) (alias, ok bool) {
	var owner name
	for range records {
		rec := r.record(&owner)
		if r.failed {
			return false, false
		}
		if rec.kind != typeCNAME || rec.class != classIN || !owner.equal(&c.last) {
			r.take(rec.size)
			continue
		}
		end := r.at + rec.size
		r.name(&c.last)
		c.ttl = min(c.ttl, rec.ttl)
		return true, !r.failed && r.at == end
	}
	return false, !r.failed
}

// learnAddresses remembers the addresses of the chain's last name.
func (s *Store) learnAddresses(c *chain, port packet.PortID, r *reader, records int, now int64) {
	var owner name
	for range records {
		rec := r.record(&owner)
		if rec.class != classIN || rec.kind != typeA && rec.kind != typeAAAA || !owner.equal(&c.last) {
			r.take(rec.size)
			continue
		}
		a, ok := r.address(rec.kind, rec.size)
		if !ok {
			continue
		}
		ttl := min(time.Duration(min(c.ttl, rec.ttl))*time.Second, maxTTL)
		s.put(port, a, c.patterns[:c.count], now+int64(ttl+grace))
	}
}
