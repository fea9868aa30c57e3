// SPDX-License-Identifier: Apache-2.0

package conntrack

import "github.com/viaduct-net/viaduct/dataplane/verdict"

// cause is why an entry was given back.
type cause uint8

const (
	causeExpired cause = iota
	causeReopened
	causeForgotten
	causeWithdrawn
	causePaired
	causeEvictedDone
	causeEvictedHalf
	causeEvictedIdle
	numCauses
)

// counters of a shard, kept under its lock.
type counters struct {
	marked     uint64
	recalled   uint64
	unrepeated uint64
	revoked    uint64
	closed     [numCauses]uint64
	refused    [5]uint64 // FlowTableFull, FlowLimit, SourceLimit, NATPortsExhausted, NATCollision
	opened     uint64    // last, on one line with the shard's counts
}

func (c *counters) refuse(r verdict.Reason) {
	switch r {
	case verdict.FlowTableFull:
		c.refused[0]++
	case verdict.FlowLimit:
		c.refused[1]++
	case verdict.SourceLimit:
		c.refused[2]++
	case verdict.NATPortsExhausted:
		c.refused[3]++
	case verdict.NATCollision:
		c.refused[4]++
	}
}

// Stats is the table in numbers. Opened less Closed is Entries.
type Stats struct {
	Capacity int
	Entries  int
	HalfOpen int            // of Entries: nobody has answered them yet
	States   map[string]int // Entries by the name of their state, those with none left out

	Opened    uint64
	Expired   uint64
	Reopened  uint64 // flows that were over, or revoked, and gave way to a new one between the same ends
	Forgotten uint64 // flows of ports that are gone, or of backends
	Withdrawn uint64 // translated flows that another worker had opened, or with no room for an alias
	Paired    uint64 // flows that a pair has come to carry
	Revoked   uint64 // flows that policy no longer let; they are entries still

	EvictedDone     uint64 // flows that were over and gave way to others
	EvictedHalfOpen uint64
	EvictedIdle     uint64

	Fingerprints uint64 // SYNs that got no entry
	Answered     uint64 // of which as many opened a flow after all
	Unrepeated   uint64 // SYNs under a flood that have to be repeated

	RefusedFull, RefusedPort, RefusedSource uint64

	Translated int    // of Entries
	Aliases    int    // as many as Translated, but for those left over and those that translation leaves as they are
	Exhausted  uint64 // flows that found no source port
	Collided   uint64 // flows whose ends were another's already
}

// Closed is how many flows are no more, for whatever cause.
func (s *Stats) Closed() uint64 {
	return s.Expired + s.Reopened + s.Forgotten + s.Withdrawn + s.Paired + s.EvictedDone + s.EvictedHalfOpen +
		s.EvictedIdle
}

// Entries is how many there are. It does not allocate.
func (t *Table) Entries() (n int) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.lock.Lock()
		n += len(sh.entries) - int(sh.counts[free])
		sh.lock.Unlock()
	}
	return n
}

// Stats adds up the shards, each at a moment of its own. It allocates.
func (t *Table) Stats() Stats {
	s := Stats{States: map[string]int{}}
	for i := range t.shards {
		sh := &t.shards[i]
		sh.lock.Lock()
		counts, c := sh.counts, sh.count
		s.Translated += int(sh.translated)
		s.Aliases += int(sh.aliases.used)
		sh.lock.Unlock()
		s.Capacity += len(sh.entries)
		for st := free + 1; st < numStates; st++ {
			if counts[st] == 0 {
				continue
			}
			s.Entries += int(counts[st])
			s.States[states[st].name] += int(counts[st])
			if classes[st] == classHalf {
				s.HalfOpen += int(counts[st])
			}
		}
		s.add(&c)
	}
	return s
}

func (s *Stats) add(c *counters) {
	s.Opened += c.opened
	s.Expired += c.closed[causeExpired]
	s.Reopened += c.closed[causeReopened]
	s.Forgotten += c.closed[causeForgotten]
	s.Withdrawn += c.closed[causeWithdrawn]
	s.Paired += c.closed[causePaired]
	s.Revoked += c.revoked
	s.EvictedDone += c.closed[causeEvictedDone]
	s.EvictedHalfOpen += c.closed[causeEvictedHalf]
	s.EvictedIdle += c.closed[causeEvictedIdle]
	s.Fingerprints += c.marked
	s.Answered += c.recalled
	s.Unrepeated += c.unrepeated
	s.RefusedFull += c.refused[0]
	s.RefusedPort += c.refused[1]
	s.RefusedSource += c.refused[2]
	s.Exhausted += c.refused[3]
	s.Collided += c.refused[4]
}
