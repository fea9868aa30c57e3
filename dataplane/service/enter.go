// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// Enter is called when the table comes into force, in the place of the one before: backends that are gone are from then
// on. now is in monotonic nanoseconds. It costs what has changed since the table that was entered last.
func (t *Table) Enter(b *Backends, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick(now)
	var was, is sparse.Map[*Service]
	if b.entered != nil {
		was = b.entered.services
	}
	if t != nil {
		is = t.services
	}
	changes := 0
	for id := range sparse.Changed(was, is) {
		old, _ := was.Get(id)
		next, _ := is.Get(id)
		b.follow(old, next, now)
		changes++
	}
	b.entered = t
	b.forgetPending()
	b.reclaim(now, 64+2*changes)
}

// follow has the backends of a service come and go. Either version may be nil.
func (b *Backends) follow(old, next *Service, now int64) {
	var were, are []member
	var g *group
	if old != nil {
		were, g = old.members, old.group
	}
	if next != nil {
		are, g = next.members, next.group
		g.set(next.config)
	}
	newcomers := len(were) > 0 && len(are) > 0 && old.group == g
	for len(were) > 0 || len(are) > 0 {
		switch order := compareMembers(were, are); {
		case order < 0:
			b.leave(were[0], old.group, standingOf(cmp.Or(next, old)), now)
			were = were[1:]
		case order > 0:
			b.come(are[0], g, newcomers, now)
			are = are[1:]
		default:
			if old.group != g { // the number is another service's
				are[0].slot.recover()
				old.group.size.Add(-1)
				b.come(are[0], g, false, now)
			}
			were, are = were[1:], are[1:]
		}
	}
	if g.threshold.Load() == 0 && next != nil {
		for i := range next.members {
			next.members[i].slot.recover()
		}
	}
	if next == nil || old != nil && old.group != g {
		b.forgetGroup(old)
	}
}

// standingOf is what becomes of flows to a service's backends that are gone.
func standingOf(s *Service) Standing {
	if s.Reset {
		return Reset
	}
	return Draining
}

// compareMembers orders the heads of two lists of which one may be at its end.
func compareMembers(a, b []member) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	case a[0].addr.Hi != b[0].addr.Hi:
		return order(a[0].addr.Hi < b[0].addr.Hi)
	case a[0].addr.Lo != b[0].addr.Lo:
		return order(a[0].addr.Lo < b[0].addr.Lo)
	case a[0].port != b[0].port:
		return order(a[0].port < b[0].port)
	}
	return 0
}

func order(less bool) int {
	if less {
		return -1
	}
	return 1
}

// set takes over what a service says of its backends' health.
func (g *group) set(cfg *api.Service) {
	g.threshold.Store(cfg.EjectionFailures)
	g.handshakes.Store(cfg.Protocol != api.Protocol_PROTOCOL_UDP)
}

// come has a backend be in force.
func (b *Backends) come(m member, g *group, newcomer bool, now int64) {
	r, s := &b.records[m.number], m.slot
	if r.state == isGone && s.group.Load() == g {
		g.opened -= s.opened.Load()
	}
	if r.state != isLive && newcomer {
		s.since.Store(now)
	}
	r.state = isLive
	s.group.Store(g)
	s.standing.Store(uint32(InForce))
	g.size.Add(1)
}

// leave has a backend be gone.
func (b *Backends) leave(m member, g *group, as Standing, now int64) {
	r, s := &b.records[m.number], m.slot
	if r.state != isLive {
		return
	}
	s.recover()
	s.since.Store(0)
	s.handshake.Store(0)
	g.opened += s.opened.Load()
	g.size.Add(-1)
	r.state = isGone
	s.standing.Store(uint32(as))
	b.gone = append(b.gone, departed{m.number, now})
}

// forgetPending frees the numbers that tables gave which did not come into force.
func (b *Backends) forgetPending() {
	for _, n := range b.pending {
		if b.records[n].state == isPending {
			b.release(n)
		}
	}
	b.pending = b.pending[:0]
}

// grace is for how long, in nanoseconds, the number of a backend that is gone is nobody else's: a worker may still hold
// the table before, which takes it some packets to let go of.
const grace = int64(1e9)

// reclaim frees the numbers of backends that are gone and have no flows left. It looks at some of them each time.
func (b *Backends) reclaim(now int64, most int) {
	for range min(most, len(b.gone)) {
		d := b.gone[0]
		b.gone = b.gone[1:]
		switch {
		case b.records[d.number].state != isGone: // it came back
		case now-d.at <= grace || b.slot(d.number).flows() > 0:
			b.gone = append(b.gone, d)
		default:
			b.release(d.number)
		}
	}
}

// forgetGroup keeps the sums of a service that is gone.
func (b *Backends) forgetGroup(old *Service) {
	g := old.group
	b.past.add(g)
	if b.groups[g.id] == g {
		delete(b.groups, g.id)
	}
}
