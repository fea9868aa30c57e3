// SPDX-License-Identifier: Apache-2.0

// Package conntrack follows flows: which packets belong to one that was let in, and in which state it is. It does no
// I/O, allocates nothing after New and never takes more memory than Config says.
//
// A packet goes through the files in this order:
//
//	table.go     Track: finds the flow and says what the packet is to it
//	key.go       the flow's two ends in one order, whichever way the packet goes
//	hash.go      a keyed hash of them, which chooses the shard and the place in its index
//	shard.go     a part of the table behind one lock: index (index.go), entries, lists
//	alias.go     how a flow that is translated is found by what its opener sends
//	follow.go    the flow's state, by protocol: tcp.go with segment.go and window.go, oneway.go, udp.go, icmp.go, sctp.go
//	inner.go     the packet that an ICMP error is about
//	syn.go       fingerprints: what is kept of a SYN under a flood, and on what stands
//	repeat.go    SYNs that have to be repeated, under a flood
//	revoke.go    what becomes of a flow that policy no longer lets
//	carriage.go  what becomes of a flow that the kernel carries (carry.go, handshake.go: who has it do so)
//	open.go      Open: a new flow, if limits (limit.go) and memory (room.go, memory.go) let it in
//	translate.go OpenTranslated: one whose packets are to have other ends; source.go finds it a source port
//	pair.go      what the kernel carries whoever opens it; claim.go, settle.go: what becomes of flows beside that
//	sweep.go     frees what has expired
//	stats.go, flows.go, foresee.go, restore.go: what others ask
//
// entry.go is what is kept of a flow, record.go what besides of one that is translated, state.go the states with their
// timeouts.
//
// A flow is remembered with the generation of policy that let it in. Policy that changes has to touch no flow: the
// next packet finds the flow stale, its opener's tuple is judged again, and Keep or Revoke says what came of it.
package conntrack

import (
	"math/bits"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// DefaultFlows is how many entries a table has where Config names no number: 42 MB of memory, and 40 MB where flows are
// translated.
const DefaultFlows = 262144

// Config is how large a table is and what it lets in.
type Config struct {
	// Flows is how many entries there are at most; 0: DefaultFlows.
	Flows int
	// PerPort is how many flows one port may have opened; 0: a quarter of Flows, so that no pod fills the table.
	PerPort int
	// PerSource is how many unanswered flows one address may have; 0: a sixteenth of Flows. An answer takes
	// milliseconds, so that who has so many is asking for no answers.
	PerSource int
	// Handshakes is how many TCP handshakes that are not over make a port one that floods (see repeat.go); 0: a 64th of
	// Flows, and 64 at least.
	Handshakes int
	// Loose is until when, in monotonic nanoseconds, a TCP segment of a flow that nobody knows may open it from either
	// end (see Seen.Either): what was open before the dataplane began. 0: never.
	Loose int64
	// Left is told of the backend of a translated flow that is over, though its entry may wait; and whether the backend
	// had answered, or was not waited for to the end, since the flow was given up or made way: a flood is no backend's
	// failure. It is told once for each that OpenTranslated has returned None for, which may be before it does. It is
	// called with a lock held, and must not call the table. Nil: nobody is told.
	Left func(backend uint32, answered bool)
	// Offload is what the kernel carries of flows; nil: nothing.
	Offload *offload.Table
	// Seed keys the hash; nil: random.
	Seed *Seed
}

// Table is the flows of all workers. Its methods may be called by any of them at any time.
type Table struct {
	keys   Seed
	shift  uint // of a hash, so that its shard's number is left
	shards []shard
	limits limits
	loose  int64
	left   func(backend uint32, answered bool)
	kernel *offload.Table // nil: there is none
	pairs  pairs
	rest   rest

	aliases atomic.Bool // there are some, or were
}

// shardFlows is how many entries a shard has about: so many that the hash fills shards evenly (within 5 % of them at
// three standard deviations), so few that workers seldom meet at one.
const (
	shardFlows = 4096
	maxShards  = 1024
)

// New returns an empty table with all the memory that it will ever have.
func New(cfg Config) *Table {
	flows := cfg.Flows
	if flows <= 0 {
		flows = DefaultFlows
	}
	t := &Table{loose: cfg.Loose, left: cfg.Left, rest: rest{roused: make(chan struct{}, 1)}}
	if cfg.Seed != nil {
		t.keys = *cfg.Seed
	} else {
		t.keys = randomSeed()
	}
	t.limits.init(cfg, flows, &t.keys)
	n := min(floorPower(max(flows/shardFlows, 1)), maxShards)
	t.shift = uint(64 - bits.TrailingZeros(uint(n)))
	t.shards = make([]shard, n)
	each := max(flows/n, 1)
	slots := ceilPower(2 * each)
	m := reserve(n, each, slots)
	for i := range t.shards {
		t.shards[i].init(t, m, i, each, slots)
	}
	if cfg.Offload != nil {
		t.SetOffload(cfg.Offload)
	}
	return t
}

// SetOffload is Config.Offload for a table that nobody uses yet: to make one takes time, in which the kernel's may be
// looked for.
func (t *Table) SetOffload(kernel *offload.Table) {
	t.kernel = kernel
	t.pairs.init(len(t.shards)*len(t.shards[0].entries), kernel)
	for i := range t.shards {
		t.shards[i].carriedFrom = &carriedFrom
	}
}

// floorPower and ceilPower are the next powers of two.
func floorPower(n int) int { return 1 << (bits.Len(uint(n)) - 1) }
func ceilPower(n int) int  { return 1 << bits.Len(uint(n-1)) }

// Status is what a packet is to the flows that are known.
type Status uint8

// The statuses. The zero value lets nothing through.
const (
	// Invalid: the packet belongs to no flow and may open none, or breaks its flow's rules.
	Invalid Status = iota
	// NewFlow: no flow is known and the packet may open one, if policy lets it.
	NewFlow
	// Known: of a flow that was let in under this generation of policy.
	Known
	// Stale: Known or Related, but of a flow that was let in under another generation. The caller judges Tuple again,
	// and calls Keep or Revoke.
	Stale
	// Related: an ICMP error about a packet of a known flow.
	Related
)

// String returns the status in lower case.
func (s Status) String() string {
	if s > Related {
		return "out of range"
	}
	return [...]string{"invalid", "new", "known", "stale", "related"}[s]
}

// Seen is what Track found.
type Seen struct {
	// Tuple is the opener's, of NewFlow and Stale.
	Tuple Tuple
	// Rule, of Known, Stale and Related, is what Open or Keep was told last.
	Rule   uint32
	Status Status
	// Reason, of Invalid, is why the packet is to be dropped.
	Reason verdict.Reason
	// Reply: the packet goes from the end that was asked to the one that opened the flow, or would.
	Reply bool
	// Either, of NewFlow: who opened the flow is not known; policy is to let it by the tuple and by the reverse (Turn).
	Either bool
	// Moved, of Known and Stale: the packet came by another port than its end is known to be behind. Where that port or
	// this one has a station, it is not from there.
	Moved bool
	// Error, of Stale: the packet is an ICMP error, which may come from anywhere. The flow is to be judged between
	// Opener and Other.
	Error bool
	// Opener and Other, of ICMP errors, are the ports that the flow's ends are known to be behind.
	Opener, Other packet.PortID

	// Translated, of Known, Stale and Related: the flow's packets are translated, and this one is to have Ends. Of Related
	// it is the packet that the error quotes that is to have them, and Quoted are those that it has. Open and
	// OpenTranslated set both of NewFlow.
	Translated bool
	kind       uint8 // of the key, without kindHi
	// Backend is the Translation's; 0: none. It is told of what a revoked flow refuses, too.
	Backend uint32
	// Direct, of Translated, is who answers the flow directly: the packet keeps its ends, as Ends says, and is to be
	// brought there. Zero: nobody.
	Direct packet.Addr
	// Waited, of the packet that first answers a translated flow, is since when it was waited for, in nanoseconds. So it
	// is of an error about what the opener has sent, for as long as nobody has answered.
	Waited int64
	// Carry, of Known: as far as the flow goes the kernel may carry what comes in this direction, and does not. Who has
	// sent the packet on calls Table.Carry, if nothing else speaks against it.
	Carry bool

	// Begins: the packet is a SYN by which Open or OpenTranslated has opened a flow, or the SYN-ACK to it, and as far as
	// the flow goes the kernel may carry all of the connection from here on. Who has sent the packet on calls
	// Table.CarryBoth, if nothing else speaks against it.
	Begins bool

	// Paired, of NewFlow: the segment is of a connection that the kernel carries by a pair. Open does nothing.
	Paired bool
	shared bool // its ends are those of a translated flow, on the way to the other end

	tick uint32 // when it was seen; of Stale
	at   uint32 // number of the entry, and 1; 0: none
	hash uint64

	Ends, Quoted packet.Ends
}

// Turn takes the flow's other end for the opener.
func (s *Seen) Turn() {
	s.Tuple = s.Tuple.reverse()
	s.Reply = !s.Reply
}

// Excuse has a SYN that would have to be repeated go on as a new flow's: its source is known to be none of a flood's.
func (t *Table) Excuse(s *Seen) {
	sh := t.shard(s.hash)
	sh.lock.Lock()
	sh.count.unrepeated--
	sh.lock.Unlock()
	s.Status, s.Reason = NewFlow, verdict.None
}

func (s *Seen) refuse(r verdict.Reason) { s.Status, s.Reason = Invalid, r }

// Track finds the flow of a packet that Parse took and that came by a port, and follows the flow's state. now is in
// monotonic nanoseconds. Of fragments behind the first, the caller has filled in SrcPort, DstPort and ICMPType as in
// the first; they change no state.
//
// What is found is written to where s lies: to copy it would cost more than to find it.
func (t *Table) Track(p *packet.Packet, in packet.PortID, now int64, generation uint32, s *Seen) {
	*s = Seen{}
	var k key
	answer := false // of an ICMP query
	switch p.Proto {
	case packet.ProtoTCP:
		if !tcpFlagsValid(p) {
			s.Reason = verdict.BadTCPFlags
			return
		}
	case packet.ProtoICMP, packet.ProtoICMPv6:
		q := queryOf(p.Proto, p.ICMPType)
		if q.kind == 0 {
			t.trackError(p, in, now, generation, s)
			return
		}
		s.kind, answer = q.kind, q.answer
	}
	src, dst := portsOf(p, s.kind)
	from := k.set(p.Src, p.Dst, src, dst, p.Proto, s.kind, answer)
	s.hash = t.keys.hash(&k)
	sh := t.shard(s.hash)
	tick := tickOf(now)
	sh.lock.Lock()
	if n := sh.find(s.hash, &k); n != 0 {
		e := &sh.entries[n-1]
		switch d := from ^ e.opener(); {
		case sh.expired(n, tick):
			sh.free(n, causeExpired)
		case e.flags&aliased != 0 && d == 0: // in this order, for d alone is mispredicted
			s.shared = true // it is not the opener of this flow who has sent it: see translate.go
		case sh.track(n, p, in, d, tick, generation, s):
			sh.lock.Unlock()
			return
		}
	}
	if sh.aliases.used != 0 && t.trackAlias(sh, p, in, &k, from, now, generation, s) {
		return
	}
	t.unknown(sh, p, in, &k, from, now, s)
	sh.lock.Unlock()
}

// track is Track for a packet of a flow, in direction d. It returns false when the packet opens the flow anew.
func (sh *shard) track(n uint32, p *packet.Packet, in packet.PortID, d uint8, tick uint32, generation uint32,
	s *Seen) bool {
	e := &sh.entries[n-1]
	if e.flags&revoked != 0 {
		return sh.trackRevoked(n, p, in, d, tick, generation, s)
	}
	if e.flags&offloaded != 0 {
		sh.catchUp(n)
	}
	reason := sh.follow(n, p, in, d, tick)
	if reason != verdict.None {
		if reason == reopen {
			return false
		}
		s.Reason = reason
		return true
	}
	e.packets[d&1]++
	e.bytes[d&1] += uint64(p.L3Len)
	s.at, s.Rule, s.Reply, s.Moved = n, e.rule, d != 0, e.moved(in, d)
	s.Status = Known
	if e.generation != generation {
		s.Status, s.Tuple, s.tick = Stale, sh.tuple(n), tick
	} else if e.packets[d&1] >= sh.carriedFrom[e.state&31] {
		s.Carry = !s.Moved && sh.mayCarry(n, d) && plain(p)
	} else if e.state == tcpSynReceived {
		s.Begins = !s.Moved && sh.mayBegin(n, p, d)
	}
	if e.flags&translated != 0 {
		sh.translate(n, p, d, s)
	}
	return true
}

// unknown says whether a packet of no flow may open one.
func (t *Table) unknown(sh *shard, p *packet.Packet, in packet.PortID, k *key, from uint8, now int64, s *Seen) {
	s.Status, s.Tuple = NewFlow, k.tuple(from)
	switch {
	case p.Proto == packet.ProtoTCP:
		t.unknownTCP(sh, p, in, from, now, s)
	case p.Proto == packet.ProtoSCTP && !opensSCTP(p):
		s.refuse(verdict.SCTPWithoutFlow)
	case s.kind != 0 && queryOf(p.Proto, p.ICMPType).answer:
		s.refuse(verdict.ICMPWithoutFlow)
	}
}

func (t *Table) shard(hash uint64) *shard { return &t.shards[hash>>(t.shift&127)] }

// Keep says that policy of a generation lets the flow of a stale packet go on, by a rule.
func (t *Table) Keep(s *Seen, generation, rule uint32) {
	sh := t.shard(s.hash)
	sh.lock.Lock()
	if sh.still(s) {
		sh.keep(s.at, generation, rule, s.tick)
	}
	sh.lock.Unlock()
}

func (sh *shard) keep(n, generation, rule, tick uint32) {
	e := &sh.entries[n-1]
	e.generation, e.rule = generation, rule
	if e.flags&offloaded != 0 {
		sh.table.kernel.Keep(sh.carriages[n-1].ref, generation)
	}
	if e.flags&revoked != 0 {
		e.flags &^= revoked | revokedEgress
		e.refresh(tick)
	}
}

// still: the entry of a stale Seen is the flow's, and no other has taken its place.
func (sh *shard) still(s *Seen) bool {
	if s.Status != Stale || s.at == 0 {
		return false
	}
	e := &sh.entries[s.at-1]
	return e.state != free && sh.tuple(s.at) == s.Tuple && e.key.kind() == s.kind
}
