// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/bits"

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
func (c *control) places(hash uint64) [2]uint32 { return placesOf(hash, c.bucketMask) }

func placesOf(hash uint64, mask uint32) [2]uint32 {
	first := uint32(hash) & mask
	return [2]uint32{first, other(first, hash, mask)}
}

// other is the bucket, beside b, that a hash may be in, or a slot of that hash.
func other(b uint32, slot uint64, mask uint32) uint32 { return (b ^ (uint32(slot>>33) | 1)) & mask }

// slotOf is what is in the bucket of a record's direction.
func slotOf(hash uint64, d uint8, n uint32) uint64 {
	return hash>>33<<33 | uint64(d&1)<<32 | uint64(n)
}

// insert puts a slot into the first bucket of its hash, where hooks look first, or into the other one; false: both are
// full, and none of the first one's slots can be elsewhere.
func (t *Table) insert(hash, slot uint64) bool {
	t.growIndex()
	places := t.control.places(hash)
	b, i := places[0], freeIn(&t.buckets[places[0]])
	if i < 0 {
		b, i = places[1], freeIn(&t.buckets[places[1]])
	}
	if i < 0 {
		b, i = places[0], t.makeRoom(places[0])
	}
	if i < 0 {
		return false
	}
	t.fill(b, i, hash, slot)
	t.slots++
	return true
}

// freeIn is an empty slot's place in a bucket; -1: there is none.
func freeIn(b *bucket) int {
	for i := range b {
		if b[i] == 0 {
			return i
		}
	}
	return -1
}

// makeRoom moves one of a full bucket's slots to the other bucket that it may be in, and returns its place; -1: none
// can be moved.
func (t *Table) makeRoom(b uint32) int {
	for i, s := range t.buckets[b] {
		if t.isLeftOver(b, i) {
			t.empty(b, i)
			return i
		}
		to := other(b, s, t.control.bucketMask)
		if at := freeIn(&t.buckets[to]); at >= 0 {
			t.fill(to, at, t.hashOf(s), s)
			t.empty(b, i)
			return i
		}
	}
	return -1
}

func (t *Table) remove(hash, slot uint64) {
	for _, b := range t.control.places(hash) {
		for i, s := range t.buckets[b] {
			if s == slot {
				t.empty(b, i)
				t.slots--
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
