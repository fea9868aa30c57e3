// SPDX-License-Identifier: Apache-2.0

package service

import "github.com/viaduct-net/viaduct/control/api"

// A backend that fails some times in a row is ejected: no flow is sent to it for a while. Then one flow tries it: when
// it answers the backend is back, and when it fails it is ejected for longer. Envoy calls this outlier detection.

// health of a backend, in its slot.
const (
	healthy uint32 = iota
	ejected        // until its time
	tried          // a flow was sent to it; when nothing is heard until its time, another one may be
)

const (
	ejection     = int64(10e9) // the first one, in nanoseconds; the n-th one in a row takes n times as long
	longest      = int64(300e9)
	trial        = int64(10e9) // for how long a trial may go unanswered
	maxEjections = uint32(longest / ejection)
)

// fitness is whether a flow may be sent to a backend.
type fitness uint8

const (
	well fitness = iota
	unfit
	onTrial // it may: this flow is the one that tries it
)

// state says whether a flow may be sent to a member. Where none of the service's is ejected its own line of the cache
// need not be read.
func (s *Service) state(m *member, now int64) fitness {
	if s.group.ejected.Load() == 0 || m.slot.health.Load() == healthy {
		return well
	}
	return s.group.tries(m.slot, now)
}

// tries is state for one that is not healthy. Where more than half of the service's are not, since others went, all of
// them get flows.
func (g *group) tries(s *slot, now int64) fitness {
	if 2*g.ejected.Load() > g.size.Load() {
		return well
	}
	was, until := s.health.Load(), s.until.Load()
	switch {
	case was == healthy:
		return well
	case now < until || !s.until.CompareAndSwap(until, now+trial):
		return unfit
	}
	s.health.CompareAndSwap(was, tried)
	return onTrial
}

// fail counts a failure, and ejects the backend that has had too many.
func (s *slot) fail(g *group, now int64) {
	s.failed.Add(1)
	row, threshold := s.row.Add(1), g.threshold.Load()
	if threshold == 0 {
		return
	}
	switch s.health.Load() {
	case tried:
		s.until.Store(now + s.span())
		if s.health.CompareAndSwap(tried, ejected) {
			g.ejections.Add(1)
		}
	case healthy:
		if row < threshold || !g.room() {
			return
		}
		s.until.Store(now + s.span())
		if s.health.CompareAndSwap(healthy, ejected) {
			g.ejections.Add(1)
			return
		}
		g.ejected.Add(-1) // another worker did it
	}
}

// span is how long the next ejection takes.
func (s *slot) span() int64 {
	s.ejections.Add(1)
	n := min(s.again.Add(1), maxEjections)
	return int64(n) * ejection
}

// room takes a place among the half of the backends that may be ejected, if there is one.
func (g *group) room() bool {
	if 2*g.ejected.Add(1) <= g.size.Load() {
		return true
	}
	g.ejected.Add(-1)
	return false
}

// Awaits says whether who answers a flow of the service, and when, makes a difference to those that follow.
func (s *Service) Awaits() bool {
	g := s.group
	return s.algorithm == api.Service_ALGORITHM_TWO_CHOICES || g.threshold.Load() != 0 || g.ejected.Load() != 0
}

// succeed counts an answer, and takes the backend back.
func (s *slot) succeed() {
	if s.row.Load() != 0 {
		s.row.Store(0)
	}
	if s.health.Load() == healthy {
		return
	}
	s.recover()
}

// recover takes a backend back that is ejected.
func (s *slot) recover() {
	if was := s.health.Swap(healthy); was == healthy {
		return
	}
	s.again.Store(0)
	s.row.Store(0)
	if g := s.group.Load(); g != nil {
		g.ejected.Add(-1)
	}
}
