// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Between two pods of this node of which policy lets all TCP nobody has to be asked about a connection. Where there are
// many the kernel carries the pair of addresses, and connections that are opened later never come here. What policy
// said is not remembered: a plain pair is asked about once, and one that is not costs each of its connections half a
// microsecond.

// pair has the kernel carry all TCP between the packet's addresses. It returns false where it is to carry the packet's
// flow alone.
func (l *Pipeline) pair(p *packet.Packet, in, out *tables.Port) bool {
	switch {
	case p.Proto != packet.ProtoTCP || l.seen.Translated || l.seen.Reply || !isPod(in) || !isPod(out):
		return false
	case l.flows.IsPaired(p.Src, p.Dst, in.ID):
		return true
	case !l.flows.Busy(p.Src, p.Dst):
		return false
	}
	ways, ok := pairWays(l.t, in, out, p.Src, p.Dst)
	return ok && l.flows.Pair(p.Src, p.Dst, &ways, l.t.Policy.Generation, l.now)
}

// pairWays are the ways of all TCP between two addresses behind two ports, those from the first to the second first; ok
// is false where it is not to be carried as a whole.
func pairWays(t *tables.Tables, a, b *tables.Port, from, to packet.Addr) (ways [2]offload.Way, ok bool) {
	if !isPod(a) || !isPod(b) || a.ID == b.ID || t.Services.Alone(from) || t.Services.Alone(to) {
		return ways, false
	}
	q := tables.Query(a, b, from, to, packet.ProtoTCP, 0)
	if !t.Policy.Plain(&q) {
		return ways, false
	}
	there := packet.Ends{Src: from, Dst: to}
	back := there.Reverse()
	if ways[0], _, ok = wayOf(t, a.ID, &there, packet.ProtoTCP, to); !ok || ways[0].Out != b.ID {
		return ways, false
	}
	ways[1], _, ok = wayOf(t, b.ID, &back, packet.ProtoTCP, from)
	return ways, ok && ways[1].Out == a.ID
}

// Paired says whether the kernel may carry all TCP between two addresses behind two ports.
func Paired(t *tables.Tables, a, b *tables.Port, from, to packet.Addr) bool {
	_, ok := pairWays(t, a, b, from, to)
	return ok
}

// ReviewPair says whether a pair is to be carried on by its ways.
func (r *Reviewer) ReviewPair(f *offload.Flow, ways *[2]offload.Way) bool {
	a, b := r.Tables.Port(ways[0].In), r.Tables.Port(ways[1].In)
	if a == nil || b == nil {
		return false
	}
	is, ok := pairWays(r.Tables, a, b, f.Near.Src, f.Near.Dst)
	return ok && is == *ways
}

// ReviewConnection says what policy says of a connection that a pair has carried; false: its ends are not where they
// were.
func (r *Reviewer) ReviewConnection(c *conntrack.Connection) (policy.Verdict, bool) {
	opener, responder := r.Tables.Port(c.In), owner(r.Tables, c.Tuple.Dst)
	if opener == nil || responder == nil || !opener.Station.Has(c.Tuple.Src) {
		return policy.Verdict{Reason: verdict.NoRoute}, false
	}
	c.Out = responder.ID
	return r.consult(&c.Tuple, opener, responder), true
}
