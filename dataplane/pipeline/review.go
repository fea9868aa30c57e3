// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Review is what becomes of a flow that the kernel carries, under tables that came into force since.
type Review uint8

const (
	// Stays: the pipeline would do with its packets what the kernel does.
	Stays Review = iota
	// Anew: the next packet of it is for the pipeline.
	Anew
	// Denied: policy does not let it go on.
	Denied
)

// Reviewer asks of flows that are carried what Judge would ask of their packets. Its fields may change between two
// calls of Review. It is not for concurrent use.
type Reviewer struct {
	Tables *tables.Tables
	Names  *names.Store // as Init has them
	Now    int64        // monotonic nanoseconds
	// Fresh is since when a packet has to have been carried for the next hop's neighbour to be in use.
	Fresh int64
	Log   denial.Log // of those denied; any goroutine may read it
}

// Review says what becomes of a flow. What policy says is valid where it was asked, since the flow was let in by
// another generation of it.
func (r *Reviewer) Review(f *conntrack.CarriedFlow) (is Review, asked bool, v policy.Verdict) {
	opener, responder := r.Tables.Port(f.In), r.Tables.Port(f.Out)
	if opener == nil || responder == nil || r.backendGone(f) {
		return Anew, false, v
	}
	if asked = f.Generation != r.Tables.Policy.Generation; asked {
		if v = r.consult(&f.Tuple, opener, responder); v.Reason != verdict.None {
			return Denied, true, v
		}
	}
	back := f.Far.Reverse()
	if r.mayTellNames(f) || !r.sameWay(f, 0, &f.Near, f.Far.Dst) || !r.sameWay(f, 1, &back, f.Near.Src) {
		return Anew, asked, v
	}
	return Stays, asked, v
}

// backendGone says whether the flow's backend is gone and the flow is to end with it, or to find another one: see
// follow.
func (r *Reviewer) backendGone(f *conntrack.CarriedFlow) bool {
	if f.Backend == 0 {
		return false
	}
	standing := r.Tables.Backends.Standing(f.Backend)
	return standing == service.Reset || standing != service.InForce && f.Tuple.Proto != packet.ProtoTCP
}

// consult asks policy about the flow as Pipeline.judgeAgain does.
func (r *Reviewer) consult(u *conntrack.Tuple, opener, responder *tables.Port) policy.Verdict {
	q := query(r.Tables, opener, responder, u)
	q.Names, q.Now, q.Existing = r.Names, r.Now, true
	v := r.Tables.Policy.Judge(&q)
	noteIn(&r.Log, u, opener, responder, &v, r.Now)
	return v
}

// sameWay says whether the packets of a direction, which come with these ends and are led to an address, have the way
// that is carried still. Where none is there is nothing to lose.
func (r *Reviewer) sameWay(f *conntrack.CarriedFlow, d int, e *packet.Ends, to packet.Addr) bool {
	is := &f.Ways[d]
	if is.In == 0 {
		return true
	}
	w, n, ok := wayOf(r.Tables, is.In, e, f.Tuple.Proto, to)
	if !ok || w != *is {
		return false
	}
	if n != nil && f.Used >= r.Fresh {
		n.MAC() // marks it
	}
	bounces := w.In == w.Out && r.Tables.Port(w.In).Host && f.Near == f.Far && !r.Tables.IsHost(to) // as in forward
	return !bounces
}
