// SPDX-License-Identifier: Apache-2.0

package tables

import "sync/atomic"

// Bucket is a token bucket that says when a packet may leave, instead of whether: the virtual scheduling algorithm of
// ITU-T I.371, as with the earliest departure times of Linux's fq. All workers share it, without a lock.
type Bucket struct {
	perByte float64 // nanoseconds
	burst   int64   // nanoseconds that the burst's bytes take
	next    atomic.Int64
}

// How long a packet may have to wait, in nanoseconds: some round trips, so that TCP fills the rate, and no more than
// people bear. At rates so low that this is less than two packets, two packets wait.
const (
	maxWait     = int64(50e6)
	longestWait = int64(1e9)
)

// newBucket returns a full bucket, nil for no rate.
func newBucket(bitsPerSecond, burstBytes uint64) *Bucket {
	if bitsPerSecond == 0 {
		return nil
	}
	perByte := 8e9 / float64(bitsPerSecond)
	return &Bucket{perByte: perByte, burst: int64(perByte * float64(max(burstBytes, minBurst)))}
}

// Take returns when a packet of so many bytes that comes now, in monotonic nanoseconds, may leave: at once, unless
// those before it have used the burst up. It returns false, and takes nothing, when that is too far away.
func (b *Bucket) Take(bytes int, now int64) (leave int64, ok bool) {
	cost := int64(b.perByte * float64(bytes))
	most := min(max(maxWait, 2*cost), longestWait)
	for {
		was := b.next.Load()
		begin := max(was, now-b.burst) // what was not used beyond the burst is lost
		leave = max(begin, now)
		if leave-now > most {
			return 0, false
		}
		if b.next.CompareAndSwap(was, begin+cost) {
			return leave, true
		}
	}
}
