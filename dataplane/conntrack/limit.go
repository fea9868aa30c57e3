// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"math"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// limits counts what ports and sources have of the whole table.
type limits struct {
	keys      Seed
	perPort   int32
	perSource int32
	perFlood  int32
	ports     []ofPort          // by the low bits of PortID: ports of a node are numbered from below
	sources   [2][]atomic.Int32 // a count-min sketch: counts of two hashes of an address, the lower one counts
}

// ofPort is what a port has.
type ofPort struct {
	opened     atomic.Int32
	handshakes atomic.Int32 // of them TCP's that are not over
	shared     atomic.Bool  // behind it are many: what it opens is not limited
}

// maxPorts is the number of ports that have counters of their own; further ones share them.
const maxPorts = 1 << 14

// floodShare is the reciprocal of the share of the table from which on handshakes that are not over are a flood.
const floodShare = 64

// defaultShare is the reciprocal of the share of the table that a source's unanswered flows may have.
const defaultShare = 16

func (l *limits) init(cfg Config, flows int, keys *Seed) {
	l.keys = *keys
	l.perPort, l.perSource = int32(min(cfg.PerPort, math.MaxInt32)), int32(min(cfg.PerSource, math.MaxInt32))
	if cfg.PerPort <= 0 {
		l.perPort = int32(max(flows/4, 1))
	}
	if cfg.PerSource <= 0 {
		l.perSource = int32(max(flows/defaultShare, 1))
	}
	if l.perFlood = int32(min(cfg.Handshakes, math.MaxInt32)); cfg.Handshakes <= 0 {
		l.perFlood = int32(max(flows/floodShare, 64))
	}
	l.ports = make([]ofPort, maxPorts)
	// Were all flows unanswered and of as many sources, a counter would show 8, far from any limit.
	n := ceilPower(max(flows/8, 64))
	for i := range l.sources {
		l.sources[i] = make([]atomic.Int32, n)
	}
}

// portEnters counts a flow that a port opens, unless it has as many as it may.
func (l *limits) portEnters(port uint32) bool {
	p := &l.ports[port%maxPorts]
	if p.opened.Add(1) > l.perPort && !p.shared.Load() {
		p.opened.Add(-1)
		return false
	}
	return true
}

func (l *limits) portLeaves(port uint32) { l.ports[port%maxPorts].opened.Add(-1) }

func (l *limits) portFull(port uint32) bool {
	p := &l.ports[port%maxPorts]
	return p.opened.Load() >= l.perPort && !p.shared.Load()
}

// handshakes counts a TCP flow of a port's that begins its handshake, or ends it.
func (l *limits) handshakes(port uint32, by int32) { l.ports[port%maxPorts].handshakes.Add(by) }

// floods says whether a port has begun so many connections that nobody answers that it is a flood: see repeat.go.
func (l *limits) floods(port uint32) bool {
	return l.ports[port%maxPorts].handshakes.Load() >= l.perFlood
}

// begins says whether a port has so many handshakes under way that only those that are answered are to be carried.
func (l *limits) begins(port uint32) bool {
	return l.ports[port%maxPorts].handshakes.Load() > l.perFlood/earlyShare
}

// Share says whether behind a port are many, as behind an uplink or the host's: it may have opened any number of flows.
func (t *Table) Share(port packet.PortID, is bool) { t.limits.ports[port%maxPorts].shared.Store(is) }

func (l *limits) source(opener packet.Addr) (a, b *atomic.Int32) {
	h := l.keys.source(opener)
	mask := uint32(len(l.sources[0]) - 1)
	return &l.sources[0][uint32(h)&mask], &l.sources[1][uint32(h>>32)&mask]
}

// sourceFull says whether the opener has as many unanswered flows as it may; half as many, where others would have it
// open one more.
func (l *limits) sourceFull(opener packet.Addr, byOthers bool) bool {
	most := l.perSource
	if byOthers {
		most /= 2
	}
	a, b := l.source(opener)
	return min(a.Load(), b.Load()) >= most
}

func (l *limits) sourceEnters(opener packet.Addr) {
	a, b := l.source(opener)
	a.Add(1)
	b.Add(1)
}

func (l *limits) sourceLeaves(opener packet.Addr) {
	a, b := l.source(opener)
	a.Add(-1)
	b.Add(-1)
}
