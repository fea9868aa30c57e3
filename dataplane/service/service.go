// SPDX-License-Identifier: Apache-2.0

// Package service says which flows are a service's, and chooses who answers them.
package service

import (
	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Table is the services of one epoch. Nothing in it changes but the Backends' counts, which all epochs share. The nil
// Table has no services.
type Table struct{}

// Service is one port of a service, of one family.
type Service struct {
	ID     uint32
	Name   string // "default/web:http"
	Reset  bool   // TCP flows to backends that are gone are reset; else they go on
	Direct bool   // backends on other nodes answer outside clients themselves
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
	Now    int64 // nanoseconds, monotonic
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

// Dice is what one worker chooses with: random numbers and the turns of round robin. The zero value is ready.
type Dice struct{}

// Choose says what becomes of the flow that a packet begins. It allocates nothing. Many workers may call it at once,
// each with dice of its own.
func (t *Table) Choose(q *Query, d *Dice, c *Choice) { *c = Choice{} }

// Direct finds the service and the backend of a flow that another node has chosen to be answered here directly: it was
// sent to the frontend q.Dst and q.DstPort, and goes to the backend with the address.
func (t *Table) Direct(q *Query, backend packet.Addr, c *Choice) { *c = Choice{} }

// Empty says whether there are no services.
func (t *Table) Empty() bool { return true }

// InvalidError says what of a snapshot's services is at fault.
type InvalidError struct {
	Origin uint32 // of the object
	Field  string // path in the snapshot: "services[2].backends[0].port"
	Reason string // one line of lower case
}

// Error joins field and reason.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// Build makes the table of a snapshot's services, which are in the contract's order. Of prev, which may be nil, what has
// not changed is shared. The Backends change only when the table comes into force: see Enter.
func Build(prev *Table, snap *api.Snapshot, b *Backends) (*Table, error) { return &Table{}, nil }

// Update makes the table of next, which is prev's snapshot with a delta applied, at the cost of what the delta names.
func (t *Table) Update(next *api.Snapshot, d *api.Delta, b *Backends) (*Table, error) { return t, nil }

// Enter is called when the table comes into force, in the place of the one before: backends that are gone are from then
// on. now is in monotonic nanoseconds.
func (t *Table) Enter(b *Backends, now int64) {}
