// SPDX-License-Identifier: Apache-2.0

package service

// Backends is what is known of all backends, whichever epoch's: the flows that they have, how they answer, and which
// are gone. Its methods may be called by any worker at any time; they take no lock.
type Backends struct{}

// NewBackends returns room for as many backends as 2^20.
func NewBackends() *Backends { return &Backends{} }

// Standing is whether a backend may have flows.
type Standing uint8

// The standings.
const (
	InForce  Standing = iota
	Draining          // it is gone: TCP flows that it has go on, others do not
	Reset             // it is gone: flows that it has are to be ended
)

// Standing of a backend.
func (b *Backends) Standing(number uint32) Standing { return InForce }

// Opened says that a flow was sent to a backend.
func (b *Backends) Opened(number uint32) {}

// Left says that a flow has ended, and whether the backend had answered it.
func (b *Backends) Left(number uint32, answered bool) {}

// Answered says after how many nanoseconds a backend answered a TCP handshake; 0: of other protocols.
func (b *Backends) Answered(number uint32, after int64) {}

// Refused says that a backend refused a flow, by RST or by an ICMP error, at time now.
func (b *Backends) Refused(number uint32, now int64) {}
