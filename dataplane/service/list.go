// SPDX-License-Identifier: Apache-2.0

package service

import (
	"iter"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Totals count what became of flows to services.
type Totals struct {
	Opened       uint64 // flows that were sent to a backend
	Refused      uint64 // for want of any
	NoLocal      uint64 // for want of one on this node
	SourceDenied uint64
	Ejections    uint64
}

func (t *Totals) add(g *group) {
	t.Refused += g.refused.Load()
	t.NoLocal += g.noLocal.Load()
	t.SourceDenied += g.denied.Load()
	t.Ejections += g.ejections.Load()
}

// Totals are those of all services since the Backends were made.
func (b *Backends) Totals() Totals {
	b.mu.Lock()
	defer b.mu.Unlock()
	sum := b.past
	for n := range b.records {
		if b.records[n].state != isFree {
			sum.Opened += b.slot(uint32(n)).opened.Load()
		}
	}
	for _, g := range b.groups {
		sum.add(g)
	}
	return sum
}

// Affinities is how many clients the table of affinity knows, and how many it has forgotten before their time for want
// of room.
func (b *Backends) Affinities(now int64) (entries int, evictions uint64) {
	a := b.affinity.Load()
	if a == nil {
		return 0, 0
	}
	return a.size(now), a.evictions.Load()
}

// Ejected is how many backends are ejected.
func (b *Backends) Ejected() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.groups {
		n += int(g.ejected.Load())
	}
	return n
}

// All iterates over the services in the order of their ids.
func (t *Table) All() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		if t == nil {
			return
		}
		for _, s := range t.services.All() {
			if !yield(s) {
				return
			}
		}
	}
}

// Len is how many services there are.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return t.services.Len()
}

// Config is the service as the snapshot has it, not to be changed.
func (s *Service) Config() *api.Service { return s.config }

// TotalsOf are the service's, since it is known. Ejections are those of backends that are there and gone.
func (b *Backends) TotalsOf(s *Service) Totals {
	b.mu.Lock()
	sum := Totals{Opened: s.group.opened}
	b.mu.Unlock()
	sum.add(s.group)
	for i := range s.members {
		sum.Opened += s.members[i].slot.opened.Load()
	}
	return sum
}

// Backend is one who answers for a service.
type Backend struct {
	Number    uint32
	Config    *api.Backend
	Ejected   bool
	Active    uint64 // flows that it has
	Opened    uint64
	Failed    uint64
	Ejections uint64
	Handshake uint64 // smoothed time from a SYN to its answer, nanoseconds; 0: not known
}

// Backends are the service's, in the contract's order.
func (s *Service) Backends() []Backend {
	list := make([]Backend, len(s.members))
	for i := range s.members {
		slot := s.members[i].slot
		list[i] = Backend{
			Number: s.members[i].number, Config: s.config.Backends[i], Ejected: slot.health.Load() != healthy,
			Active: slot.flows(), Opened: slot.opened.Load(), Failed: uint64(slot.failed.Load()),
			Ejections: uint64(slot.ejections.Load()), Handshake: uint64(slot.handshake.Load()),
		}
	}
	return list
}

// Gone are the backends that are gone and still have flows, by the id of their service, which is in force. They have no
// weight, and their Config says that none may choose them.
func (b *Backends) Gone() map[uint32][]Backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[uint32][]Backend)
	seen := make(map[uint32]bool) // one that came back and went again is among them twice
	for _, d := range b.gone {
		r, s := &b.records[d.number], b.slot(d.number)
		id := r.key.service
		if r.state == isGone && s.flows() > 0 && s.group.Load() == b.groups[id] && !seen[d.number] {
			seen[d.number] = true
			all[id] = append(all[id], Backend{
				Number: d.number, Config: &api.Backend{Address: r.key.addr.Netip().AsSlice(), Port: uint32(r.key.port)},
				Active: s.flows(), Opened: s.opened.Load(), Failed: uint64(s.failed.Load()),
				Ejections: uint64(s.ejections.Load()),
			})
		}
	}
	return all
}

// Conflict is a frontend that two services ask for. The one has it whose name comes first.
type Conflict struct {
	Kind    api.Frontend_Kind // as the loser has it
	Address packet.Addr       // zero and 0.0.0.0: every address of the node
	Port    uint16
	Proto   packet.IPProto
	Winner  *Service
	Loser   *Service
}

// Contested is how many conflicts there are.
func (t *Table) Contested() int {
	if t == nil {
		return 0
	}
	return t.index.contested
}

// Conflicts lists them, in no order.
func (t *Table) Conflicts() (list []Conflict) {
	if t == nil || t.index.contested == 0 {
		return nil
	}
	for _, p := range t.index.pages {
		for _, bucket := range p {
			for i := range bucket {
				list = append(list, bucket[i].conflicts()...)
			}
		}
	}
	return list
}

func (e *entry) conflicts() (list []Conflict) {
	if e.key.place == clusterAddress {
		return nil
	}
	for _, loser := range e.losers {
		list = append(list, Conflict{
			loser.kind, e.key.addr, e.key.port, e.key.proto, e.front.service, loser.service,
		})
	}
	return list
}
