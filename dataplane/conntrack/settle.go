// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Connection is one of TCP that is not translated, as its opener sends.
type Connection struct {
	Tuple   Tuple
	In, Out packet.PortID // the opener is behind In, the other end behind Out
}

// Settle frees the entries of connections between pairs' addresses that are not wholly seen: of which the pair carries
// one direction at least, or did. It returns those that may go on. What the kernel carries in both directions by a
// record of its own keeps its entry. It looks at all of the table, some milliseconds, and holds each lock in turn.
//
// It is called once a pair has been entered, lest handshakes that were under way count as unanswered, and connections
// that have ended stand for a day; and as a pair is withdrawn, lest what is left of them be believed.
func (t *Table) Settle(of map[AddressPair]bool) (list []Connection) {
	for i := range t.shards {
		list = t.shards[i].settle(of, list)
	}
	return list
}

func (sh *shard) settle(of map[AddressPair]bool, list []Connection) []Connection {
	sh.lock.Lock()
	defer sh.lock.Unlock()
	left := len(sh.entries) - int(sh.counts[free])
	for i := 0; left > 0; i++ {
		e, n := &sh.entries[i], uint32(i+1)
		if e.state == free {
			continue
		}
		left--
		if e.key.proto() != packet.ProtoTCP || e.flags&translated != 0 || !of[AddressPair{e.key.lo, e.key.hi}] {
			continue
		}
		if e.flags&offloaded != 0 && sh.carriages[i].entered == bothWays {
			continue
		}
		if !e.state.closed() {
			list = append(list, Connection{e.tuple(), packet.PortID(uint32(e.ports)), packet.PortID(e.ports >> 32)})
		}
		sh.free(n, causePaired)
	}
	return list
}

// bothWays are the bits of both directions.
const bothWays = 3

// RestoreConnection puts in a connection that a pair has carried, open for so long and with sequence numbers that
// nobody knows; or revoked, if why says so. That is also what becomes of one that has been taken up meanwhile as if its
// other end had opened it, as ports may have told. Errors are those of Restore.
func (t *Table) RestoreConnection(c *Connection, generation, rule uint32, why verdict.Reason, age time.Duration,
	now int64) error {
	u := &c.Tuple
	e := packet.Ends{Src: u.Src, Dst: u.Dst, SrcPort: u.SrcPort, DstPort: u.DstPort}
	expires := states[tcpEstablished].timeout
	if why != verdict.None {
		expires = revokedFor
	}
	err := t.Restore(&Saved{
		Near: e, Far: e, Proto: packet.ProtoTCP, In: c.In, Out: c.Out, State: states[tcpEstablished].name,
		Generation: generation, Rule: rule, Revoked: why, Age: age, Expires: expires,
		TCP: SavedTCP{Unknown: bothWays, Adrift: bothWays, Scales: [2]uint8{unknownScale, unknownScale}},
	}, now)
	if errors.Is(err, errTaken) && why != verdict.None && t.revokeTurned(u, generation, why, tickOf(now)) {
		return nil
	}
	return err
}

// revokeTurned revokes a flow that has the ends of a connection, and another opener.
func (t *Table) revokeTurned(u *Tuple, generation uint32, why verdict.Reason, tick uint32) bool {
	var k key
	from := k.set(u.Src, u.Dst, u.SrcPort, u.DstPort, u.Proto, 0, false)
	hash := t.keys.hash(&k)
	sh := t.shard(hash)
	sh.lock.Lock()
	defer sh.lock.Unlock()
	n := sh.find(hash, &k)
	if n == 0 || sh.entries[n-1].flags&(translated|revoked) != 0 || sh.entries[n-1].opener() == from {
		return false
	}
	sh.revoke(n, generation, why, tick)
	return true
}
