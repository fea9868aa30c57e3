// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/cacheline"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// A table of a million flows is in no cache: Track waits for the index, then for the entry, and of a flow that is
// translated for another index and another entry. A worker that has a batch calls Guess for each of its packets and
// Foresee for all: those waits overlap, and Track then finds everything in the cache. Nothing but time depends on it,
// so that guesses may be wrong.

// Guess is what is foreseen of a packet's flow. The zero value: nothing.
type Guess struct {
	DstPort uint16
	Proto   packet.IPProto

	hash  uint64
	open  uint64 // the hash that the flow would have which the packet opens; 0: nothing is foreseen of it
	alias *alias
}

// Unknown says that, to judge by what Foresee has seen, no flow is known that the packet is of.
func (g *Guess) Unknown() bool { return g.hash != 0 }

// Opens says that what it needs to open a flow has been foreseen.
func (g *Guess) Opens() bool { return g.open != 0 }

// Guess hashes the flow of an untagged TCP, UDP or SCTP packet without options, an Ethernet frame, without checking
// anything. Of others nothing is foreseen.
func (t *Table) Guess(b []byte) (g Guess) {
	x, proto := peekEnds(b)
	if proto != 0 {
		g.Proto, g.DstPort, g.hash = proto, x.DstPort, t.guess(&x, proto)
	}
	return g
}

func (t *Table) guess(x *packet.Ends, proto packet.IPProto) uint64 {
	var k key
	k.set(x.Src, x.Dst, x.SrcPort, x.DstPort, proto, 0, false)
	return t.keys.hash(&k)
}

// peekEnds reads the ends of an untagged packet without options; the protocol is 0 of what is none.
func peekEnds(b []byte) (x packet.Ends, proto packet.IPProto) {
	const ethernet = 14
	if len(b) < ethernet+ipv4Header+4 {
		return x, 0
	}
	ip := b[ethernet:]
	switch packet.EtherType(binary.BigEndian.Uint16(b[12:])) {
	case packet.EtherTypeIPv4:
		x.Src, x.Dst = packet.Addr4(binary.BigEndian.Uint32(ip[12:])), packet.Addr4(binary.BigEndian.Uint32(ip[16:]))
		proto, ip = packet.IPProto(ip[9]), ip[ipv4Header:]
	case packet.EtherTypeIPv6:
		if len(ip) < ipv6Header+4 {
			return x, 0
		}
		x.Src = packet.Addr{Hi: binary.BigEndian.Uint64(ip[8:]), Lo: binary.BigEndian.Uint64(ip[16:])}
		x.Dst = packet.Addr{Hi: binary.BigEndian.Uint64(ip[24:]), Lo: binary.BigEndian.Uint64(ip[32:])}
		proto, ip = packet.IPProto(ip[6]), ip[ipv6Header:]
	default:
		return x, 0
	}
	x.SrcPort, x.DstPort = binary.BigEndian.Uint16(ip), binary.BigEndian.Uint16(ip[2:])
	return x, proto
}

// Foresee brings what Track needs of the flows that were guessed into the cache: first the indices of all, then the
// entries. All are loops of loads that do not wait for each other. It returns a number of no meaning, so that they are
// made.
func (t *Table) Foresee(guesses []Guess) (touched uint64) {
	aliases := t.aliases.Load()
	for i := range guesses {
		h := guesses[i].hash
		sh := t.shard(h)
		touched += atomic.LoadUint64(&sh.slots[uint32(h)&uint32(len(sh.slots)-1)])
		if aliases {
			sh.aliases.slots.fetch(h)
		}
	}
	for i := range guesses {
		g := &guesses[i]
		sh := t.shard(g.hash)
		if n := sh.slots.peek(g.hash); n != 0 {
			sh.fetch(n, aliases)
			g.hash = 0
		}
	}
	if aliases {
		t.foreseeAliases(guesses)
	}
	return touched
}

// foreseeAliases follows the aliases of those of which there is no entry.
func (t *Table) foreseeAliases(guesses []Guess) {
	for i := range guesses {
		g := &guesses[i]
		if g.hash == 0 {
			continue
		}
		a := &t.shard(g.hash).aliases
		if n := a.slots.peek(g.hash); n != 0 {
			g.alias = &a.all[n-1]
			cacheline.Fetch(unsafe.Pointer(g.alias))
		}
	}
	for i := range guesses {
		g := &guesses[i]
		if g.alias == nil {
			continue
		}
		sh := t.shard(atomic.LoadUint64(&g.alias.hash))
		if n := atomic.LoadUint32(&g.alias.n); n != 0 && int(n) <= len(sh.entries) { // it may be another's by now
			sh.fetch(n, true)
			g.hash = 0
		}
	}
}

// GuessOpen begins to foresee the flow that a packet which Guess has read would open, if its source remained: it goes
// to dst and port.
func (t *Table) GuessOpen(g *Guess, b []byte, dst packet.Addr, port uint16) {
	x, proto := peekEnds(b)
	if proto == 0 {
		return
	}
	x.Dst, x.DstPort = dst, port
	g.open = t.guess(&x, proto)
	t.shard(g.open).fetchHead()
	one, other := t.limits.source(x.Src)
	cacheline.Fetch(unsafe.Pointer(one))
	cacheline.Fetch(unsafe.Pointer(other))
}

// ForeseeOpen has fetched what Open, or OpenTranslated, will write for those that GuessOpen was called for.
func (t *Table) ForeseeOpen(guesses []Guess) {
	for i := range guesses {
		g := &guesses[i]
		if g.open == 0 {
			continue
		}
		t.shard(g.open).foreseeFill(g.open)
		if g.open != g.hash {
			t.shard(g.hash).aliases.foreseeAdd()
		}
	}
}

// ForeseeThis is GuessOpen and ForeseeOpen for a packet that Track has found to be of a NewFlow: it is called once the
// destination is known, for policy to be asked meanwhile.
func (t *Table) ForeseeThis(s *Seen, p *packet.Packet, dst packet.Addr, port uint16) {
	var k key
	k.set(p.Src, dst, p.SrcPort, port, p.Proto, s.kind, false)
	h := t.keys.hash(&k)
	t.shard(h).foreseeFill(h)
	t.shard(s.hash).aliases.foreseeAdd()
}

// fetchHead has the lines fetched that who opens a flow needs of a shard.
func (sh *shard) fetchHead() {
	cacheline.Fetch(unsafe.Pointer(&sh.lock))
	cacheline.Fetch(unsafe.Pointer(&sh.lists))
	cacheline.Fetch(unsafe.Pointer(&sh.records))
	cacheline.Fetch(unsafe.Pointer(&sh.counts))
	cacheline.Fetch(unsafe.Pointer(&sh.aliases))
}

// foreseeFill has an entry fetched that a flow with a hash is likely to take, and its place.
func (sh *shard) foreseeFill(hash uint64) {
	sh.slots.fetch(hash)
	translated := sh.table.aliases.Load()
	if translated {
		sh.aliases.slots.fetch(hash)
	}
	if n := atomic.LoadUint32(&sh.likely); n != 0 {
		sh.fetch(n, translated)
		cacheline.Fetch(unsafe.Pointer(&sh.links[n]))
	}
}

// foreseeAdd has an alias fetched that a flow is likely to take.
func (a *aliases) foreseeAdd() {
	if n := atomic.LoadUint32(&a.likely); n != 0 {
		cacheline.Fetch(unsafe.Pointer(&a.all[n-1]))
	}
}

// fetch has what is kept of a flow fetched.
func (sh *shard) fetch(n uint32, translated bool) {
	e := unsafe.Pointer(&sh.entries[n-1])
	cacheline.Fetch(e)
	cacheline.Fetch(unsafe.Add(e, cacheLine))
	if translated {
		cacheline.Fetch(unsafe.Pointer(&sh.records[n-1]))
	}
}

// foreseeCarried has the CPU fetch the entries and records of so many flows, which are where no cache has them.
func (sh *shard) foreseeCarried(at, end, some int) {
	for ; at < end && some > 0; at++ {
		if sh.carriages[at].entered != 0 {
			cacheline.Fetch(unsafe.Pointer(&sh.entries[at]))
			sh.table.kernel.Fetch(sh.carriages[at].ref)
			some--
		}
	}
}
