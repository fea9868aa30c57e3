// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/offload"
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

// Reviewer reviews carried flows. It does to none of their packets what Judge would do; it asks the same questions.
type Reviewer struct {
	Tables *tables.Tables
	Names  *names.Store // as Init has them
	Now    int64        // monotonic nanoseconds
	Log    *denial.Log  // of those denied
}

// Review says what becomes of a flow that is carried by the ways, of which those without In are not. The rule is what
// of policy decided, where it was asked, since the flow was let in by another generation of it.
func (r *Reviewer) Review(f *conntrack.Flow, ways *[2]offload.Way) (is Review, rule policy.RuleID, why verdict.Reason) {
	rule = policy.RuleID(f.Rule)
	opener, responder := r.Tables.Port(f.In), r.Tables.Port(f.Out)
	if opener == nil || responder == nil || r.backendGone(f) {
		return Anew, rule, verdict.None
	}
	if f.Generation != r.Tables.Policy.Generation {
		if rule, why = r.consult(f, opener, responder); why != verdict.None {
			return Denied, rule, why
		}
	}
	near, far := endsOf(f)
	to := [2]packet.Addr{far.Dst, near.Src}
	from := [2]packet.Ends{near, far.Reverse()}
	for d := range ways {
		if is := &ways[d]; is.In != 0 {
			now, ok := wayOf(r.Tables, is.In, &from[d], f.Tuple.Proto, to[d])
			if !ok || now != *is || r.bounces(is, f, to[d]) {
				return Anew, rule, verdict.None
			}
		}
	}
	return Stays, rule, verdict.None
}

// backendGone says whether the flow's backend is gone and the flow with it: see follow.
func (r *Reviewer) backendGone(f *conntrack.Flow) bool {
	standing := r.Tables.Backends.Standing(f.Backend)
	return standing == service.Reset || standing != service.InForce && f.Tuple.Proto != packet.ProtoTCP
}

// consult asks policy about the flow as Pipeline.judgeAgain does.
func (r *Reviewer) consult(f *conntrack.Flow, opener, responder *tables.Port) (policy.RuleID, verdict.Reason) {
	u := f.Tuple
	if f.Translated {
		u.Dst, u.DstPort = f.Ends.Dst, f.Ends.DstPort
	}
	q := query(r.Tables, opener, responder, &u)
	q.Names, q.Now, q.Existing = r.Names, r.Now, true
	v := r.Tables.Policy.Judge(&q)
	noteIn(r.Log, &u, opener, responder, &v, r.Now)
	return v.Rule, v.Reason
}

// bounces is Pipeline.bounces, of a direction of a flow that is not translated.
func (r *Reviewer) bounces(w *offload.Way, f *conntrack.Flow, to packet.Addr) bool {
	return !f.Translated && w.In == w.Out && r.Tables.Port(w.In).Host && !r.Tables.IsHost(to)
}

// endsOf are those of what the opener sends, and of what the other end gets of it.
func endsOf(f *conntrack.Flow) (near, far packet.Ends) {
	near = packet.Ends{Src: f.Tuple.Src, Dst: f.Tuple.Dst, SrcPort: f.Tuple.SrcPort, DstPort: f.Tuple.DstPort}
	if f.Translated {
		return near, f.Ends
	}
	return near, near
}
