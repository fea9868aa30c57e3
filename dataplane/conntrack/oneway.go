// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A flow that somebody else answers directly is seen in one direction only. Its packets leave with the ends that they
// have, and its record says to whom (see Translation.Direct); nobody waits for an answer, and of TCP there are no
// windows to hold segments to. Whether they are right is for the node to say that sees both directions.

// followOneWay takes a segment into a connection of which only what the opener sends is seen. It is open from the first
// segment behind its SYN; FIN and RST shorten the time that it is remembered for, and a SYN behind them opens another.
// As anybody could send them, they count only right behind what was sent last.
func (sh *shard) followOneWay(n uint32, p *packet.Packet, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	if d != 0 { // it came by this node after all
		return verdict.None
	}
	var g segment
	g.read(p)
	next := e.state
	switch {
	case g.has(tcpSYN) && g.has(tcpACK):
		return verdict.TCPOutOfWindow
	case g.has(tcpSYN) && e.beginsAnew(0):
		return reopen
	case g.has(tcpSYN):
		if e.state == tcpSynSent { // again, or a new attempt
			e.end[0] = g.end
		}
	case g.flags&(tcpFIN|tcpRST) != 0 && e.closes(&g), e.state == tcpFinWait:
		next = tcpFinWait
	case e.state == tcpSynSent && !g.has(tcpRST):
		next = tcpOneWay
	}
	if !g.has(tcpSYN) && after(g.end, e.end[0]) && !after(g.seq, e.end[0]+leastWidth) {
		e.end[0] = g.end
	}
	sh.enter(n, next)
	e.refresh(tick)
	return verdict.None
}

// closes: a FIN or RST comes right behind what was sent last, or is repeated. A FIN may have data before it.
func (e *entry) closes(g *segment) bool { return !after(g.seq, e.end[0]) && !before(g.end, e.end[0]) }
