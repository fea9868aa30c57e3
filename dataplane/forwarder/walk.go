// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sync"
	"sync/atomic"
	"time"

	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
)

// The walk goes over the flows that the kernel carries, after each change of tables or neighbours, and takes out those
// that policy denies by now, or to whose packets something else is to be done. It holds what it has to: no flow is
// carried under a verdict that has not been true for 100 ms, of 100,000 flows.
//
// It begins once no packet is judged by earlier tables any more, for such a packet could enter a flow behind its back.
// Changes that come meanwhile are walked for together. Once it is over, records of earlier generations of policy do not
// count any more; nor do they once it has taken long, of many more flows or on a CPU that others have: what it has not
// come by yet goes through userspace then, until it has.

// walk is what is known of walks.
type walk struct {
	wanted  chan struct{}
	since   atomic.Int64 // when the first change came that was not walked for, ns; 0: there was none
	freshen atomic.Bool  // neighbours of flows that are used are to be marked

	reviewer pipeline.Reviewer // the walker's

	mu   sync.Mutex
	done walked
}

// walked is what walks have come to.
type walked struct {
	walks         uint64
	flows         uint64 // of the last one
	last, longest time.Duration
	settled       time.Duration // from the change to the end of the last one
	denied, anew  uint64
}

// patience is for how long after a change what was let in by earlier policy is carried on unseen.
const patience = 60 * time.Millisecond

// restAtMost is for how long the walker leaves the CPU to others after a walk, though there be changes.
const restAtMost = 20 * time.Millisecond

func (w *walk) init() {
	w.wanted = make(chan struct{}, 1)
	w.reviewer.Fresh = never
}

// never is later than any time.
const never = 1<<63 - 1

// review has carried flows looked at, since something changed.
func (f *Forwarder) review() {
	w := &f.carrier.walk
	if w.wanted == nil { // nothing is carried
		return
	}
	w.since.CompareAndSwap(0, f.clock())
	select {
	case w.wanted <- struct{}{}:
	default:
	}
}

func (f *Forwarder) walker(stop <-chan struct{}) {
	w := &f.carrier.walk
	for {
		select {
		case <-stop:
			return
		case <-w.wanted:
		}
		took := f.walkOver(stop)
		select {
		case <-stop:
			return
		case <-time.After(min(took, restAtMost)):
		}
	}
}

// walkOver is one walk. It returns how long it took.
func (f *Forwarder) walkOver(stop <-chan struct{}) time.Duration {
	w, flows := &f.carrier.walk, f.flows.Load()
	since := w.since.Swap(0)
	if since == 0 { // what it was for was walked for already
		since = f.clock()
	}
	if flows == nil || !f.quiesce(stop, since) {
		return 0
	}
	begin := f.clock()
	r := &w.reviewer
	r.Tables, r.Names, r.Now, r.Fresh = f.tables.Load(), f.dns, begin, never
	if w.freshen.Swap(false) {
		r.Fresh = begin - int64(2*freshenEvery)
	}
	var done walked
	f.reviewPairs(r, flows)
	strict := false // records of other generations do not count
	for flow := range flows.Carried() {
		done.flows++
		reviewFlow(r, flows, &flow, &done)
		if done.flows%1024 == 0 && f.clock()-since > int64(patience) && !strict {
			f.carrier.table.Load().SetGeneration(r.Tables.Policy.Generation)
			strict = true
		}
	}
	f.reviewUntracked(r, &done)
	f.carrier.table.Load().SetGeneration(r.Tables.Policy.Generation)
	now := f.clock()
	w.note(&done, time.Duration(now-begin), time.Duration(now-since))
	return time.Duration(now - begin)
}

func reviewFlow(r *pipeline.Reviewer, flows *conntrack.Table, flow *conntrack.CarriedFlow, done *walked) {
	is, asked, v := r.Review(flow)
	generation := r.Tables.Policy.Generation
	switch {
	case is == pipeline.Denied:
		flows.Judge(flow.ID, v.Reason, r.Now, generation, uint32(v.Rule))
		done.denied++
	case is == pipeline.Anew:
		flows.Uncarry(flow.ID)
		done.anew++
	case asked:
		flows.Judge(flow.ID, v.Reason, r.Now, generation, uint32(v.Rule))
	}
}

func (f *Forwarder) reviewUntracked(r *pipeline.Reviewer, done *walked) {
	table := f.carrier.table.Load()
	for u := range table.Untracked() {
		done.flows++
		if r.ReviewUntracked(&u) != pipeline.Stays {
			table.Remove(u.Ref)
			done.anew++
			continue
		}
		table.Keep(u.Ref, r.Tables.Policy.Generation)
	}
}

// quiesce waits until no worker judges packets by tables before those in force, which came at a time. Where one does
// not get on, what was let in by earlier policy is not carried on meanwhile. It returns false when it is to stop.
func (f *Forwarder) quiesce(stop <-chan struct{}, since int64) bool {
	was := f.progress()
	strict := false
	for i := range was {
		for {
			is := f.progress()
			if len(is) != len(was) || is[i].Since(was[i]) {
				break
			}
			if !strict && f.clock()-since > int64(patience) {
				f.carrier.table.Load().SetGeneration(f.tables.Load().Policy.Generation)
				strict = true
			}
			select {
			case <-stop:
				return false
			case <-time.After(20 * time.Microsecond):
			}
		}
	}
	return true
}

func (w *walk) note(is *walked, took, settled time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &w.done
	d.walks++
	d.flows, d.last, d.longest, d.settled = is.flows, took, max(d.longest, took), settled
	d.denied += is.denied
	d.anew += is.anew
}

// describe says what walks have come to.
func (w *walk) describe(o *dataplaneapi.Offload) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &w.done
	o.Walks, o.LastWalkFlows, o.WalkDenied, o.WalkAnew = d.walks, d.flows, d.denied, d.anew
	o.LastWalkNanoseconds, o.LongestWalkNanoseconds = uint64(d.last), uint64(d.longest)
	o.LastSettleNanoseconds = uint64(d.settled)
}
