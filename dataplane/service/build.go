// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// builder makes a table of another one, at the cost of what changes.
type builder struct {
	services *sparse.Editor[*Service]
	index    *indexEditor
	backends *Backends

	announced *announced
	announces bool // announced is this builder's own
}

// Build makes the table of a snapshot's services, which are in the contract's order. Of prev, which may be nil, what
// has not changed is shared. The Backends change only when the table comes into force: see Enter.
func Build(prev *Table, snap *api.Snapshot, b *Backends) (*Table, error) {
	if prev != nil && prev.backends != b {
		prev = nil
	}
	var set []numbered
	were := map[uint32]bool{}
	if prev != nil {
		for id := range prev.services.All() {
			were[id] = true
		}
	}
	for i, cfg := range snap.GetServices() {
		if was := prev.get(cfg.GetId()); was == nil || !proto.Equal(was.config, cfg) {
			set = append(set, numbered{i, cfg})
		}
		delete(were, cfg.GetId())
	}
	var removed []uint32
	for id := range were {
		removed = append(removed, id)
	}
	slices.Sort(removed)
	return prev.change(set, removed, b)
}

// Update makes the table of next, which is prev's snapshot with a delta applied, at the cost of what the delta names.
func (t *Table) Update(next *api.Snapshot, d *api.Delta, b *Backends) (*Table, error) {
	services, removed := d.GetSet().GetServices(), d.GetRemovedServices()
	if t == nil {
		return Build(nil, next, b)
	}
	if len(services)+len(removed) == 0 {
		return t, nil
	}
	set := make([]numbered, len(services))
	for i, cfg := range services {
		set[i] = numbered{i, cfg}
	}
	return t.change(set, removed, b)
}

// numbered is a service with its place in the list that it came in.
type numbered struct {
	at  int
	cfg *api.Service
}

// change makes a table of t with some services set and some removed.
func (t *Table) change(set []numbered, removed []uint32, b *Backends) (*Table, error) {
	if t == nil {
		t = &Table{}
	} else if len(set)+len(removed) == 0 && t.backends == b {
		return t, nil
	}
	for _, n := range set {
		if err := check(fmt.Sprintf("services[%d]", n.at), n.cfg); err != nil {
			return nil, err
		}
	}
	frontends := 0
	for _, n := range set {
		frontends += len(n.cfg.Frontends) + 1
	}
	e := &builder{services: t.services.Edit(), index: t.index.edit(frontends), backends: b, announced: t.announced}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, id := range removed {
		was, there := e.services.Get(id)
		if !there {
			return nil, invalid(0, fmt.Sprintf("removed_services[%d]", i), "there is no service %d", id)
		}
		e.unset(was)
		e.announce(was, nil)
		e.services.Delete(id)
	}
	for _, n := range set {
		if err := e.set(n); err != nil {
			return nil, err
		}
	}
	return &Table{services: e.services.Map(), index: e.index.index, backends: b, announced: e.announced}, nil
}

// set enters a service in the place of the one with its id.
func (e *builder) set(n numbered) error {
	s, err := e.service(n)
	if err != nil {
		return err
	}
	was, there := e.services.Get(s.ID)
	if there {
		e.unset(was)
	}
	e.announce(was, s)
	e.services.Set(s.ID, s)
	for i := range s.frontends {
		f := &s.frontends[i]
		e.index.set(f.key, f)
		if !f.outside() {
			e.index.set(key{addr: f.key.addr, place: clusterAddress}, f)
		}
	}
	if s.affinity > 0 && e.backends.affinity.Load() == nil {
		e.backends.affinity.Store(newAffinity())
	}
	return nil
}

// unset takes the frontends of a service out.
func (e *builder) unset(s *Service) {
	for i := range s.frontends {
		f := &s.frontends[i]
		e.index.unset(f.key, s)
		if !f.outside() {
			e.index.unset(key{addr: f.key.addr, place: clusterAddress}, s)
		}
	}
}

const second = int64(1e9)

// service makes a service that was checked.
func (e *builder) service(n numbered) (*Service, error) {
	cfg := n.cfg
	s := &Service{
		ID: cfg.Id, Name: cfg.Name, Reset: cfg.Removal == api.Service_REMOVAL_RESET, Direct: cfg.DirectReturn,
		algorithm: cfg.Algorithm, affinity: int64(cfg.AffinitySeconds) * second, ramp: int64(cfg.SlowStartSeconds) * second,
		group: e.backends.group(cfg.Id, cfg.Name), config: cfg,
		members: make([]member, len(cfg.Backends)),
	}
	if s.frontends = s.few[:]; len(cfg.Frontends) > len(s.few) {
		s.frontends = make([]frontend, len(cfg.Frontends))
	}
	s.frontends = s.frontends[:len(cfg.Frontends)]
	for i, b := range cfg.Backends {
		a, _ := address(b.Address, cfg.Ipv6)
		m := member{addr: packet.AddrFrom(a), port: uint16(b.Port), weight: uint16(b.Weight)}
		var err error
		if m.number, err = e.backends.number(backendKey{m.addr, s.ID, m.port}, s.group); err != nil {
			return nil, invalid(cfg.Origin, fmt.Sprintf("services[%d].backends[%d]", n.at, i), "%s", err)
		}
		m.slot = e.backends.slot(m.number)
		s.members[i] = m
	}
	local := false
	for i, f := range cfg.Frontends {
		s.frontends[i] = s.frontendOf(f)
		local = local || f.LocalOnly
	}
	s.cluster.members, s.cluster.id = s.those((*api.Backend).GetCluster), 2*s.ID
	s.cluster.prepare(s.algorithm)
	if local {
		s.local.members, s.local.id = s.those((*api.Backend).GetLocal), 2*s.ID+1
		s.local.prepare(s.algorithm)
	}
	return s, nil
}

// those returns the members that are wanted: all of them by the same memory.
func (s *Service) those(wanted func(*api.Backend) bool) []member {
	n := 0
	for _, b := range s.config.Backends {
		if wanted(b) {
			n++
		}
	}
	if n == len(s.members) {
		return s.members
	}
	list := make([]member, 0, n)
	for i, b := range s.config.Backends {
		if wanted(b) {
			list = append(list, s.members[i])
		}
	}
	return list
}

func (t *Table) get(id uint32) *Service {
	if t == nil {
		return nil
	}
	s, _ := t.services.Get(id)
	return s
}
