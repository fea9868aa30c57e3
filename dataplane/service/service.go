// SPDX-License-Identifier: Apache-2.0

// Package service says which flows are a service's, and chooses who answers them.
//
// A flow goes through the files in this order:
//
//	service.go   Choose: what is asked, and what is said
//	index.go     finds the frontend that the flow was sent to; frontend.go is what one is, filter.go what none is,
//	             find.go says it to people
//	affinity.go  the backend that the client's last flow went to
//	pool.go      the backends of a service that may be chosen, and which of them are ready
//	dice.go      what a worker chooses with
//	random.go, roundrobin.go, connections.go, rendezvous.go, maglev.go, bounded.go: the algorithms
//	backends.go  what is known of a backend, whichever epoch's; health.go takes those away for a while that fail
//
// foresee.go has what Choose reads fetched ahead, of a batch. Tables are made by build.go, with check.go for what a
// snapshot may say; enter.go has the backends follow the table in force; list.go is what people read.
package service

import (
	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// Table is the services of one epoch. Nothing in it changes but the Backends' counts, which all epochs share. The nil
// Table has no services.
type Table struct {
	services sparse.Map[*Service] // by id
	index    index
	backends *Backends

	announced *announced // nil: none
}

// Service is one port of a service, of one family.
type Service struct {
	// What Choose reads comes first, and fills two lines of the cache.
	few    [1]frontend // where the frontend lies of a service that has no more
	ID     uint32
	Reset  bool // TCP flows to backends that are gone are reset; else they go on
	Direct bool // backends on other nodes answer outside clients themselves

	algorithm api.Service_Algorithm
	affinity  int64 // nanoseconds; 0: none
	ramp      int64 // nanoseconds of slow start; 0: none
	group     *group
	cluster   pool // those for any node's clients

	Name      string   // "default/web:http"
	members   []member // in order of address and port
	local     pool     // those on this node; empty where no frontend asks for them
	frontends []frontend
	config    *api.Service
}

// Query is the first packet of a flow.
type Query struct {
	Src, Dst         packet.Addr
	SrcPort, DstPort uint16
	Proto            packet.IPProto
	// Inside: the client is of the cluster. What traffic policies say of clients outside does not hold for it.
	Inside bool
	// ToNode: Dst is an address of the node at which node ports, and host ports of all addresses, are.
	ToNode bool
	// Stray: the packet begins no flow, and is asked about to be answered. It is Refused where there are backends, of
	// which it takes no turn.
	Stray bool
	Now   int64 // nanoseconds, monotonic
}

// Outcome is what becomes of a flow.
type Outcome uint8

// The outcomes.
const (
	NoService    Outcome = iota // it is no service's: it goes where it is addressed to
	Chosen                      // it goes to the backend
	Refused                     // nobody answers, and the client is to be told so at once
	NoLocal                     // nobody on this node answers: it is dropped
	SourceDenied                // the client may not come: it is dropped
	NoSuchPort                  // the address is of services alone, and none has the port: the client is to be told so
)

// Choice is what Choose says.
type Choice struct {
	Outcome Outcome
	Service *Service // nil of NoService and NoSuchPort
	Backend packet.Addr
	Port    uint16
	Number  uint32 // the backend's among Backends, not 0
	Outside bool   // the frontend is for clients outside the cluster: no cluster address
}

// Choose says what becomes of the flow that a packet begins. It allocates nothing. Many workers may call it at once,
// each with dice of its own.
func (t *Table) Choose(q *Query, d *Dice, c *Choice) {
	*c = Choice{}
	if t == nil {
		return
	}
	f := t.find(q)
	if f == nil {
		if t.owns(q) {
			c.Outcome = NoSuchPort
		}
		return
	}
	s := f.service
	c.Service, c.Outside = s, f.outside()
	p, outcome := f.pool(q)
	if outcome != Chosen {
		c.Outcome = outcome
		s.group.count(outcome)
		return
	}
	if q.Stray {
		c.Outcome = Refused
		return
	}
	t.backends.tick(q.Now)
	c.set(t.choose(s, p, q, d))
}

// Has says whether a service has the flow that a packet begins.
func (t *Table) Has(q *Query) bool { return t != nil && t.find(q) != nil }

// choose takes one of a pool that is not empty.
func (t *Table) choose(s *Service, p *pool, q *Query, d *Dice) *member {
	if s.affinity == 0 {
		return p.pick(s, q, d)
	}
	a := t.backends.affinity.Load()
	k := affinityKey{q.Src, s.ID}
	if m := p.numbered(a.get(k, q.Now)); m != nil && s.state(m, q.Now) != unfit {
		a.put(k, m.number, q.Now, q.Now+s.affinity)
		return m
	}
	m := p.pick(s, q, d)
	a.put(k, m.number, q.Now, q.Now+s.affinity)
	return m
}

func (c *Choice) set(m *member) {
	c.Outcome, c.Backend, c.Port, c.Number = Chosen, m.addr, m.port, m.number
}

// Direct finds the service and the backend of a flow that another node has chosen to be answered here directly: it was
// sent to the frontend q.Dst and q.DstPort, be it a node port at any node, and goes to the backend with the address.
// Where there is no such backend the flow is refused.
func (t *Table) Direct(q *Query, backend packet.Addr, c *Choice) {
	*c = Choice{}
	if t == nil {
		return
	}
	f := t.index.get(key{q.Dst, q.DstPort, q.Proto, atAddress})
	if f == nil {
		f = t.index.get(key{anyAddress(!q.Dst.Is4()), q.DstPort, q.Proto, atNodePort})
	}
	if f == nil {
		return
	}
	c.Service, c.Outside, c.Outcome = f.service, f.outside(), Refused
	for i := range f.service.members {
		if m := &f.service.members[i]; m.addr == backend {
			c.set(m)
			return
		}
	}
}

// Empty says whether there are no services.
func (t *Table) Empty() bool { return t == nil || t.services.Len() == 0 }

// Number is that of the backend to which a flow went that was sent to q.Dst and q.DstPort; 0: it is not there.
func (t *Table) Number(q *Query, backend packet.Addr, port uint16) uint32 {
	if t == nil {
		return 0
	}
	whatever := anyAddress(!q.Dst.Is4())
	for _, k := range [3]key{
		{q.Dst, q.DstPort, q.Proto, atAddress},
		{whatever, q.DstPort, q.Proto, atHostPort}, {whatever, q.DstPort, q.Proto, atNodePort},
	} {
		f := t.index.get(k)
		if f == nil {
			continue
		}
		for i := range f.service.members {
			if m := &f.service.members[i]; m.addr == backend && m.port == port {
				return m.number
			}
		}
	}
	return 0
}
