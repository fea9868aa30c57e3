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
	shared    atomic.Uint32     // the port that is many stations', whose flows are not limited; 0: none
	ports     []atomic.Int32    // by the low bits of PortID: ports of a node are numbered from below
	sources   [2][]atomic.Int32 // a count-min sketch: counts of two hashes of an address, the lower one counts
}

// maxPorts is the number of ports that have counters of their own; further ones share them.
const maxPorts = 1 << 14

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
	l.ports = make([]atomic.Int32, maxPorts)
	// Were all flows unanswered and of as many sources, a counter would show 8, far from any limit.
	n := ceilPower(max(flows/8, 64))
	for i := range l.sources {
		l.sources[i] = make([]atomic.Int32, n)
	}
}

// portEnters counts a flow that a port opens, unless it has as many as it may.
func (l *limits) portEnters(port uint32) bool {
	c := &l.ports[port%maxPorts]
	if c.Add(1) > l.perPort && port != l.shared.Load() {
		c.Add(-1)
		return false
	}
	return true
}

func (l *limits) portLeaves(port uint32) { l.ports[port%maxPorts].Add(-1) }

func (l *limits) portFull(port uint32) bool {
	return l.ports[port%maxPorts].Load() >= l.perPort && port != l.shared.Load()
}

// Share says that behind a port are all who are not of this node: it may have opened any number of flows. 0: none is.
func (t *Table) Share(port packet.PortID) { t.limits.shared.Store(uint32(port)) }

func (l *limits) source(e Tuple) (a, b *atomic.Int32) {
	h := l.keys.source(e.Src)
	mask := uint32(len(l.sources[0]) - 1)
	return &l.sources[0][uint32(h)&mask], &l.sources[1][uint32(h>>32)&mask]
}

// sourceFull says whether the opener has as many unanswered flows as it may.
func (l *limits) sourceFull(t Tuple) bool {
	a, b := l.source(t)
	return min(a.Load(), b.Load()) >= l.perSource
}

func (l *limits) sourceEnters(t Tuple) {
	a, b := l.source(t)
	a.Add(1)
	b.Add(1)
}

func (l *limits) sourceLeaves(e *entry) {
	a, b := l.source(e.tuple())
	a.Add(-1)
	b.Add(-1)
}
