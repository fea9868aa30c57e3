// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// hash is key_hash of xdpprog/bpf/flow_table.h, of a packet with these ends that came by a port.
func (c *control) hash(e *packet.Ends, proto packet.IPProto, in packet.PortID) uint64 {
	const first, next = 0x6a09e667f3bcc909, 0xbb67ae8584caa73b
	mix := func(h, word uint64) uint64 {
		h = (h ^ word) * first
		return h ^ h>>29
	}
	src, dst := addressOf(e.Src), addressOf(e.Dst)
	h := mix(c.seed[0], src[0])
	h = mix(h, src[1])
	h = mix(h, dst[0])
	h = mix(h, dst[1])
	ports := uint64(bits.ReverseBytes16(e.SrcPort)) | uint64(bits.ReverseBytes16(e.DstPort))<<16
	h = mix(h, ports|uint64(in)<<32|uint64(proto)<<56)
	h = (h ^ c.seed[1]) * next
	return h ^ h>>32
}

// places are the buckets that a hash may be in.
func (c *control) places(hash uint64) [2]uint32 {
	first := uint32(hash) & c.bucketMask
	return [2]uint32{first, (first ^ (uint32(hash>>33) | 1)) & c.bucketMask}
}

// slotOf is what is in the bucket of a record's direction.
func slotOf(hash uint64, d uint8, n uint32) uint64 {
	return hash>>33<<33 | uint64(d&1)<<32 | uint64(n)
}

// insert puts a slot into the bucket that has more room, the first one of equals; false: both are full.
func (t *Table) insert(hash, slot uint64) bool {
	var place *uint64
	most := 0
	for _, b := range t.control.places(hash) {
		room := 0
		var free *uint64
		for i := range t.buckets[b] {
			if s := &t.buckets[b][i]; *s == 0 {
				room++
				free = s
			}
		}
		if room > most {
			place, most = free, room
		}
	}
	if place == nil {
		return false
	}
	atomic.StoreUint64(place, slot)
	return true
}

func (t *Table) remove(hash, slot uint64) {
	for _, b := range t.control.places(hash) {
		for i := range t.buckets[b] {
			if s := &t.buckets[b][i]; *s == slot {
				atomic.StoreUint64(s, 0)
				return
			}
		}
	}
}

// find is find_flow, for one who holds the lock.
func (t *Table) find(hash uint64, e *packet.Ends, proto packet.IPProto, in packet.PortID) (uint32, uint8) {
	for _, b := range t.control.places(hash) {
		for _, s := range t.buckets[b] {
			if s == 0 || s>>33 != hash>>33 {
				continue
			}
			n, d := uint32(s), uint8(s>>32)&1
			r := &t.records[n-1]
			if r.proto == proto && r.way[d].from == uint32(in) && r.ends(d) == *e {
				return n, d
			}
		}
	}
	return 0, 0
}
