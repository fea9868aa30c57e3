// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/worker"
)

// beatEvery is how often hooks are told that userspace is alive. They take it for absent after eight times as long
// (HEART_STOPS of xdpprog/bpf/shared.h).
const beatEvery = 100 * time.Millisecond

// freshenEvery is how often it is looked which neighbours carried flows go to, so that these are verified before they
// are forgotten; and whether flows are carried rightly, whatever may have been missed.
const freshenEvery = 10 * time.Second

// hungAfter is for how many beats a worker does not get on that hangs: hooks would take userspace for absent.
const hungAfter = 8

// heart beats for as long as a worker gets on with its work, says which do not, and looks after what changes without a
// snapshot.
func (f *Forwarder) heart(stop <-chan struct{}) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	fresh := time.NewTicker(freshenEvery)
	defer fresh.Stop()
	var p pulse
	neighbors := f.neighbors.Generation()
	for {
		select {
		case <-stop:
			return
		case <-fresh.C:
			f.carrier.walk.freshen.Store(true)
			f.review()
		case <-beat.C:
			alive := p.take(f.progress())
			if f.hang(p.hung()); alive {
				f.carrier.table.Load().Beat()
			}
			if g := f.neighbors.Generation(); g != neighbors {
				neighbors = g
				f.review()
			}
		}
	}
}

// beat tells hooks, out of turn, that userspace is alive.
func (f *Forwarder) beat() {
	if table := f.carrier.table.Load(); table != nil {
		table.Beat()
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

// pulse is which workers get on.
type pulse struct {
	was    []worker.Progress
	missed []int // by worker: beats since it was seen to get on
}

// take looks how far the workers are, and says whether one of them has made a pass since it was looked at last, or
// sleeps.
func (p *pulse) take(is []worker.Progress) (some bool) {
	if len(p.was) != len(is) {
		p.was, p.missed = is, make([]int, len(is))
		return len(is) > 0
	}
	for i := range is {
		if p.missed[i]++; is[i].Since(p.was[i]) {
			p.missed[i], some = 0, true
		}
	}
	p.was = is
	return some
}

// hung are the workers that hang.
func (p *pulse) hung() (list []int) {
	for i, n := range p.missed {
		if n >= hungAfter {
			list = append(list, i)
		}
	}
	return list
}

// hang has hooks keep from workers that hang what is for their queues; where a queue of that number is another worker's
// on another device, what is for that too.
func (f *Forwarder) hang(workers []int) {
	var queues uint64
	if all := f.working.Load(); all != nil {
		for _, i := range workers {
			if i < len(*all) {
				queues |= (*all)[i].Queues()
			}
		}
	}
	f.carrier.table.Load().Hang(queues)
	before := f.hung.Swap(&workers)
	if before == nil || !slices.Equal(*before, workers) {
		if len(workers) > 0 {
			f.log.Error("workers hang, and hooks keep from them what is for their queues", zap.Ints("workers", workers))
		}
	}
}

// hangs says whether a worker does.
func (f *Forwarder) hangs(i int) bool {
	list := f.hung.Load()
	return list != nil && slices.Contains(*list, i)
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
