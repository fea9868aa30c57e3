// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A flow that policy no longer lets is not forgotten: the next packet of its other end would open it the other way
// round, if policy lets that, and what is denied would go on as an answer. So the entry stays and keeps both ends
// quiet, until nobody has tried for a while, one of them begins anew (by SYN or INIT, which is judged like every
// beginning), or policy changes its mind.

// revokedFor is how long a revoked flow is remembered after its last packet: longer than most ends go on trying, TCP's
// being 15 minutes on Linux (tcp_retries2), but for the last two retransmissions, of two minutes each.
const revokedFor = 10 * time.Minute

var revokedTicks = ticks(int64(revokedFor))

// Revoke says that policy of a generation does not let the flow of a stale packet go on, and why.
func (t *Table) Revoke(s *Seen, generation uint32, why verdict.Reason) {
	sh := t.shard(s.hash)
	sh.lock.Lock()
	if sh.still(s) {
		sh.revoke(s.at, generation, why, s.tick)
	}
	sh.lock.Unlock()
}

func (sh *shard) revoke(n, generation uint32, why verdict.Reason, tick uint32) {
	e := &sh.entries[n-1]
	if e.flags&offloaded != 0 {
		sh.withdraw(n)
	}
	if e.flags&revoked == 0 {
		sh.count.revoked++
	}
	e.generation = generation
	e.flags = e.flags&^revokedEgress | revoked
	if why == verdict.EgressDenied {
		e.flags |= revokedEgress
	}
	e.expires = tick + revokedTicks
}

// trackRevoked is track for a packet of a revoked flow.
func (sh *shard) trackRevoked(n uint32, p *packet.Packet, in packet.PortID, d uint8, tick, generation uint32,
	s *Seen) bool {
	e := &sh.entries[n-1]
	if begins(p) {
		return false
	}
	e.expires = tick + revokedTicks
	s.at, s.Rule, s.Reply, s.Moved, s.tick = n, e.rule, d != 0, e.moved(in, d), tick
	if e.generation != generation {
		s.Status, s.Tuple = Stale, sh.tuple(n)
		if e.flags&translated != 0 {
			sh.translate(n, p, d, s)
		}
		return true
	}
	if e.flags&translated != 0 {
		s.Backend = sh.records[n-1].answerer()
	}
	s.Reason = e.denied()
	return true
}

// begins: the packet opens a connection, and belongs to none that there was.
func begins(p *packet.Packet) bool {
	switch {
	case p.L4 == 0 || p.Flags&(packet.Fragment|packet.FirstFragment) == packet.Fragment:
		return false
	case p.Proto == packet.ProtoTCP:
		var g segment
		g.read(p)
		return g.flags&(tcpSYN|tcpACK) == tcpSYN
	case p.Proto == packet.ProtoSCTP:
		return opensSCTP(p)
	}
	return false
}

// denied is why a revoked flow may not go on.
func (e *entry) denied() verdict.Reason {
	if e.flags&revokedEgress != 0 {
		return verdict.EgressDenied
	}
	return verdict.IngressDenied
}
