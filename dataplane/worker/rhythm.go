// SPDX-License-Identifier: Apache-2.0

package worker

// To be woken takes a worker some 60 µs, in which a connection's first packet waits, and two CPUs work that could do
// better. Where packets keep coming within a few hundred microseconds, one a visit, as the SYNs of short connections
// do, it stays awake for the next one: as KVM polls for a guest that is halted (virt/kvm/kvm_main.c, halt_poll_ns). It
// does not where they come less often, nor where it would not sleep in any case.
const (
	longestSpin = int64(500e3) // ns
	longestGap  = int64(400e3) // between packets, on average, for which the worker stays awake
	gapWeight   = 8            // of how many gaps the average is
)

// rhythm is how packets have come lately: the smoothed time between passes that had some, in nanoseconds.
type rhythm struct {
	gap, last int64
}

// saw takes a pass at time now into account that had packets.
func (r *rhythm) saw(now int64) {
	gap := min(now-r.last, 2*longestGap) // one that is long is forgotten soon
	r.gap += (gap - r.gap) / gapWeight
	r.last = now
}

// spin is for how long to wait for the next packet awake, where otherwise it were for least. Who is never to do so, or
// always, is not asked.
func (r *rhythm) spin(least int64) int64 {
	if least <= 0 || r.gap > longestGap {
		return least
	}
	return max(least, min(2*r.gap, longestSpin))
}
