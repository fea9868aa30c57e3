// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Under a flood of SYNs, an allowed SYN gets no entry but a fingerprint: 8 bytes in a fixed array. The SYN-ACK that
// answers it opens the flow; SYNs that nobody answers cost nothing, and push out nothing but other fingerprints.
//
// A fingerprint is, from the top: 44 bits of a keyed hash of the flow, the direction and the sequence number, 16 bits
// of time in units of 2^27 ns (0.13 s, which wrap after 2.4 hours), 4 bits of the window scale that was offered. A
// SYN-ACK of nothing passes for an answer once in 2^44 times the fingerprints of a bucket, and is then judged by the
// policy of its opener.
const (
	markTag      = ^uint64(1<<20 - 1)
	markTime     = 0xffff
	markUnit     = 27 // bits of a time in ns
	markWays     = 8  // fingerprints in a bucket: a cache line
	markLife     = 8 * time.Second
	markUnscaled = 15
)

const markLifeUnits = uint16(markLife >> markUnit)

// anew is a segment with SYN on a connection that stands. Both ends may have forgotten it, as when they were cut off
// from each other: the opener's SYN is then answered by a SYN-ACK, not by a challenge, and the flow begins once more.
// Who asked is still the one that policy let.
func (sh *shard) anew(n uint32, p *packet.Packet, g *segment, d uint8, tick uint32) verdict.Reason {
	e, now := &sh.entries[n-1], duration(tick)
	keys := &sh.limits.keys
	hash := keys.hash(&e.key)
	answer := g.has(tcpACK)
	switch {
	case d == 0 && !answer:
		sh.remember(keys.mark(hash, e.opener(), g.seq), offered(p), now)
	case d != 0 && answer:
		place, scale := sh.recall(keys.mark(hash, e.opener(), g.ack-1), now)
		if place == nil {
			break
		}
		*place = 0
		if e.flags&offloaded != 0 {
			sh.withdraw(n)
			sh.carriages[n-1].know()
		}
		e.shift, e.window = [2]uint8{}, [2]uint16{}
		sh.enter(n, tcpSynSent)
		return sh.answered(n, p, g, scale, tick)
	}
	return verdict.None
}

// offered is the window scale of a SYN as a fingerprint has it.
func offered(p *packet.Packet) uint8 {
	if scale, scaled := scaleOf(p); scaled {
		return scale
	}
	return markUnscaled
}

// answered sets the bounds by the SYN-ACK to a SYN that is no more: its sequence number is what was acknowledged, and
// its window as large as it can have been.
func (sh *shard) answered(n uint32, p *packet.Packet, g *segment, scale uint8, tick uint32) verdict.Reason {
	asked := segment{seq: g.ack - 1, end: g.ack, window: 0xffff, flags: tcpSYN, whole: true}
	sh.entries[n-1].begin(&asked, 0, scale&dirScale, scale != markUnscaled)
	return sh.synAck(n, p, g, 1, tick)
}

// synShare is the reciprocal of the share of a shard's entries that TCP flows may have before their handshake is over.
const synShare = 8

// flooded: the next SYN gets a fingerprint.
func (sh *shard) flooded() bool {
	half := sh.counts[tcpSynSent] + sh.counts[tcpSynSent2] + sh.counts[tcpSynReceived]
	return half > uint32(len(sh.entries)/synShare)
}

func (sh *shard) bucket(mark uint64) []uint64 {
	ways := min(markWays, len(sh.marks))
	at := int(uint32(mark>>20)) & (len(sh.marks) - 1) &^ (ways - 1)
	return sh.marks[at : at+ways]
}

func markAge(m uint64, now int64) uint16 { return uint16(now>>markUnit) - uint16(m>>4) }

// remember puts a fingerprint first in its bucket, over its own last one, an empty place, or the oldest.
func (sh *shard) remember(mark uint64, scale uint8, now int64) {
	bucket := sh.bucket(mark)
	at := 0
	for at < len(bucket)-1 && bucket[at] != 0 && (bucket[at]^mark)&markTag != 0 {
		at++
	}
	copy(bucket[1:at+1], bucket[:at])
	bucket[0] = mark&markTag | uint64(now>>markUnit)&markTime<<4 | uint64(scale&markUnscaled)
}

// recall finds a fingerprint that is not too old, and its window scale.
func (sh *shard) recall(mark uint64, now int64) (place *uint64, scale uint8) {
	bucket := sh.bucket(mark)
	for i := range bucket {
		m := bucket[i]
		if m != 0 && (m^mark)&markTag == 0 && markAge(m, now) <= markLifeUnits {
			return &bucket[i], uint8(m & markUnscaled)
		}
	}
	return nil, 0
}
