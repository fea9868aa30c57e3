// SPDX-License-Identifier: Apache-2.0

package pipeline

import "github.com/viaduct-net/viaduct/dataplane/packet"

// The limits of what a worker says of its own accord. RFC 1812 4.3.2.8 and RFC 4443 2.4(f) ask for token buckets and
// leave the figures open: these let a traceroute and path MTU discovery through at once and keep a flood of
// unroutable packets from being answered by a flood of errors.
const (
	errorsPerSecond, errorBurst           = 1000, 200   // of a port
	errorsPerSecondTo, errorBurstTo       = 100, 20     // of a port to one destination (by hash)
	repliesPerSecond, replyBurst          = 20000, 2000 // echo, ARP and ND replies of a port
	limitPorts, limitDestinations         = 1024, 1024  // buckets, taken by remainder and by hash
	second                          int64 = 1e9
)

// limits are the token buckets of one worker.
type limits struct {
	errors       [limitPorts]bucket
	replies      [limitPorts]bucket
	destinations [limitDestinations]bucket
}

func (l *limits) error(port packet.PortID, to packet.Addr, now int64) bool {
	h := (to.Hi ^ to.Lo*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd >> 54
	return l.destinations[h].take(now, errorsPerSecondTo, errorBurstTo) &&
		l.errors[port%limitPorts].take(now, errorsPerSecond, errorBurst)
}

func (l *limits) reply(port packet.PortID, now int64) bool {
	return l.replies[port%limitPorts].take(now, repliesPerSecond, replyBurst)
}

// bucket is a token bucket kept as the time at which it will be full (the virtual scheduling algorithm of ITU-T
// I.371): a zero bucket is full.
type bucket struct{ full int64 }

func (b *bucket) take(now, rate, burst int64) bool {
	full := max(b.full, now) + second/rate
	if full-now > burst*(second/rate) {
		return false
	}
	b.full = full
	return true
}
