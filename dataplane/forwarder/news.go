// SPDX-License-Identifier: Apache-2.0

package forwarder

import "time"

// Flows hear of what the kernel has carried of their beginnings and ends newsSoon after something began, and for as
// long as there is news, since who counts connections is to choose by those that are; else every newsEvery, for the
// ends of those that last longer, and every newsSeldom where nothing has happened for a while.
const (
	newsSoon   = time.Millisecond
	newsEvery  = 10 * time.Millisecond
	newsSeldom = 100 * time.Millisecond
	newsQuiet  = time.Second
)

// newsReader has connections that begin and end in the kernel be what they are in userspace, too.
func (f *Forwarder) newsReader(stop <-chan struct{}) {
	next := time.NewTimer(newsEvery)
	defer next.Stop()
	last := f.clock()
	var roused <-chan struct{}
	for {
		select {
		case <-stop:
			return
		case <-roused:
			last = f.clock()
			next.Reset(newsSoon)
			continue
		case <-next.C:
		}
		flows, now := f.flows.Load(), f.clock()
		if flows == nil || flows.Kernel() == nil {
			next.Reset(newsSeldom)
			continue
		}
		if flows.TakeNews() > 0 {
			last = now
			next.Reset(newsSoon)
			continue
		}
		roused = flows.Rest()
		if flows.Kernel().HasYoung() {
			last = now
		}
		if now-last < int64(newsQuiet) {
			next.Reset(newsEvery)
		} else {
			next.Reset(newsSeldom)
		}
	}
}
