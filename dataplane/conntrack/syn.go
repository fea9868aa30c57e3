// SPDX-License-Identifier: Apache-2.0

package conntrack

import "time"

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
