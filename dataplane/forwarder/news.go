// SPDX-License-Identifier: Apache-2.0

package forwarder

import "time"

// Flows hear every newsEvery what the kernel has carried of their beginnings and ends; every newsSeldom where nothing
// has happened for a while, or until something begins.
const (
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
			next.Reset(newsEvery)
			continue
		case <-next.C:
		}
		flows, now := f.flows.Load(), f.clock()
		if flows != nil && flows.Kernel() != nil && (flows.TakeNews() > 0 || flows.Kernel().HasYoung()) {
			last = now
		}
		if now-last < int64(newsQuiet) {
			next.Reset(newsEvery)
			continue
		}
		if flows != nil {
			roused = flows.Rest()
		}
		next.Reset(newsSeldom)
	}
}
