// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// rendezvous takes, for a client's address, the member with the highest score (Thaler and Ravishankar, IEEE/ACM ToN 6,
// 1998), weighted as -w/ln(u) of a uniform u. A client's member changes only where its own goes, or one comes that
// scores higher. All nodes agree.
func (p *pool) rendezvous(s *Service, q *Query) *member {
	client := hashAddr(q.Src)
	var best *member
	var bestHash uint64
	bestScore := -1.0
	for i := range p.members {
		m := &p.members[i]
		switch s.state(m, q.Now) {
		case unfit:
			continue
		case onTrial:
			return m
		}
		h := mix(client ^ m.hash())
		if p.even {
			if best == nil || h > bestHash {
				best, bestHash = m, h
			}
			continue
		}
		u := (float64(h>>11) + 0.5) / (1 << 53)
		if score := -float64(m.weight) / math.Log(u); score > bestScore {
			best, bestScore = m, score
		}
	}
	if best == nil {
		return &p.members[client%uint64(len(p.members))]
	}
	return best
}

// hash is the same on every node, for as long as the backend has its address and port.
func (m *member) hash() uint64 {
	return m.addr.Lo*0x9e3779b97f4a7c15 + m.addr.Hi*0xc2b2ae3d27d4eb4f + uint64(m.port)*0x165667b19e3779f9
}

func hashAddr(a packet.Addr) uint64 { return mix(mix(a.Hi+0x9e3779b97f4a7c15) ^ a.Lo) }

// mix spreads every bit over all of them: the finalizer of MurmurHash3, with the constants of Stafford's variant 13.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
