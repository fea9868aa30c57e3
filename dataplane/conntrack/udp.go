// SPDX-License-Identifier: Apache-2.0

package conntrack

import "time"

// streamAfter is the age at which an answered UDP flow that goes on is taken for a stream, no more for a question and
// its answer, as in the kernel (nf_conntrack_proto_udp.c).
const streamAfter = 2 * time.Second

var streamTicks = ticks(int64(streamAfter))

func (sh *shard) followUDP(n uint32, d uint8, tick uint32) {
	e := &sh.entries[n-1]
	switch {
	case e.state == udpUnreplied && d != 0:
		sh.enter(n, udpReplied)
	case e.state == udpReplied && tick-e.opened >= streamTicks:
		sh.enter(n, udpStream)
	}
	e.refresh(tick)
}
