// SPDX-License-Identifier: Apache-2.0

package service

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
)

// Found is what Choose goes by, for people.
type Found struct {
	Outcome Outcome // what Choose would say
	// Service has the flow; empty of NoSuchPort.
	Service   string
	Kind      api.Frontend_Kind
	LocalOnly bool // its frontend is for backends of this node alone, where traffic policies hold for the client
	// Backends are those that may be chosen, whether they are fit or not: one of them where the outcome is Chosen.
	Backends []netip.AddrPort
}

// Find says by what Choose would decide about a flow, without deciding: nothing is counted, and nobody's turn is taken.
// It is nil where no service has the flow, and the address is not of services alone.
func (t *Table) Find(q *Query) *Found {
	if t == nil {
		return nil
	}
	f := t.find(q)
	switch {
	case f == nil && !t.owns(q):
		return nil
	case f == nil:
		return &Found{Outcome: NoSuchPort}
	}
	found := &Found{Service: f.service.Name, Kind: f.kind, LocalOnly: f.local}
	var p *pool
	if p, found.Outcome = f.pool(q); p != nil {
		for i := range p.members {
			m := &p.members[i]
			found.Backends = append(found.Backends, netip.AddrPortFrom(m.addr.Netip(), m.port))
		}
	}
	return found
}
