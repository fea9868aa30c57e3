// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"slices"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/worker"
)

// beatEvery is how often hooks are told that userspace is alive. They take it for absent after eight times as long
// (HEART_STOPS of xdpprog/bpf/shared.h).
const beatEvery = 100 * time.Millisecond

// freshenEvery is how often it is looked which neighbours carried flows go to, so that these are verified before they
// are forgotten; and whether flows are carried rightly, whatever may have been missed.
const freshenEvery = 10 * time.Second

// heart beats for as long as the workers get on with their work, and looks after what changes without a snapshot.
func (f *Forwarder) heart(stop <-chan struct{}) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	fresh := time.NewTicker(freshenEvery)
	defer fresh.Stop()
	var was []worker.Progress
	neighbors := f.neighbors.Generation()
	for {
		select {
		case <-stop:
			return
		case <-fresh.C:
			f.carrier.walk.freshen.Store(true)
			f.review()
		case <-beat.C:
			is := f.progress()
			if gotOn(was, is) {
				f.carrier.table.Load().Beat()
			}
			was = is
			if g := f.neighbors.Generation(); g != neighbors {
				neighbors = g
				f.review()
			}
		}
	}
}

// progress is how far the workers are.
func (f *Forwarder) progress() (list []worker.Progress) {
	if all := f.working.Load(); all != nil {
		for _, w := range *all {
			list = append(list, w.Progress())
		}
	}
	return list
}

// gotOn says whether there are workers and each of them has made a pass since it was looked at last, or sleeps.
func gotOn(was, is []worker.Progress) bool {
	if len(is) == 0 || len(was) != len(is) {
		return len(is) > 0
	}
	for i := range is {
		if !is[i].Since(was[i]) {
			return false
		}
	}
	return true
}

// publishWorkers lets heart and walker know the workers.
func (f *Forwarder) publishWorkers() {
	var list []*worker.Worker
	for _, t := range f.workers {
		list = append(list, t.worker)
	}
	list = slices.Clip(list)
	f.working.Store(&list)
}
