// SPDX-License-Identifier: Apache-2.0

package service

import (
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// announced are addresses that the uplink's link is told of, and how many services announce each. It does not change:
// tables share one for as long as none of them comes or goes.
type announced struct{ by map[packet.Addr]int }

// Announces says whether a service announces an address.
func (t *Table) Announces(a packet.Addr) bool {
	return t != nil && t.announced != nil && t.announced.by[a] > 0
}

// Announced are the addresses that services announce, in no order.
func (t *Table) Announced() []packet.Addr {
	if t == nil || t.announced == nil {
		return nil
	}
	return slices.Collect(maps.Keys(t.announced.by))
}

// SameAnnounced says whether two tables are certain to announce the same.
func (t *Table) SameAnnounced(o *Table) bool {
	return t == o || t != nil && o != nil && t.announced == o.announced
}

// announces are the addresses that a service announces, each once and in order.
func (s *Service) announces() (list []packet.Addr) {
	if s == nil {
		return nil
	}
	for i, f := range s.config.Frontends {
		if f.Announced && !slices.Contains(list, s.frontends[i].key.addr) {
			list = append(list, s.frontends[i].key.addr)
		}
	}
	return list
}

// announce has a service take the place of another one; either may be nil.
func (e *builder) announce(was, is *Service) {
	before, after := was.announces(), is.announces()
	if slices.Equal(before, after) {
		return
	}
	if !e.announces {
		next := &announced{by: make(map[packet.Addr]int)}
		if e.announced != nil {
			next.by = maps.Clone(e.announced.by)
		}
		e.announced, e.announces = next, true
	}
	by := e.announced.by
	for _, a := range after {
		by[a]++
	}
	for _, a := range before {
		if by[a]--; by[a] == 0 {
			delete(by, a)
		}
	}
}
