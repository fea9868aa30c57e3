// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// A table of a million flows is in no cache: Track waits for the index, then for the entry. A worker that has a batch
// calls Guess for each of its packets and Foresee for all: those waits overlap, and Track then finds everything in the
// cache. Nothing but time depends on it, so that guesses may be wrong.

// Guess hashes the flow of an untagged TCP, UDP or SCTP packet without options, an Ethernet frame, without checking
// anything. It is 0 for others.
func (t *Table) Guess(b []byte) uint64 {
	const ethernet = 14
	if len(b) < ethernet+ipv4Header+4 {
		return 0
	}
	var k key
	ip := b[ethernet:]
	switch packet.EtherType(binary.BigEndian.Uint16(b[12:])) {
	case packet.EtherTypeIPv4:
		src := packet.Addr4(binary.BigEndian.Uint32(ip[12:]))
		dst := packet.Addr4(binary.BigEndian.Uint32(ip[16:]))
		k.set(src, dst, binary.BigEndian.Uint16(ip[20:]), binary.BigEndian.Uint16(ip[22:]), packet.IPProto(ip[9]), 0, false)
	case packet.EtherTypeIPv6:
		if len(ip) < ipv6Header+4 {
			return 0
		}
		src := packet.Addr{Hi: binary.BigEndian.Uint64(ip[8:]), Lo: binary.BigEndian.Uint64(ip[16:])}
		dst := packet.Addr{Hi: binary.BigEndian.Uint64(ip[24:]), Lo: binary.BigEndian.Uint64(ip[32:])}
		k.set(src, dst, binary.BigEndian.Uint16(ip[40:]), binary.BigEndian.Uint16(ip[42:]), packet.IPProto(ip[6]), 0, false)
	default:
		return 0
	}
	return t.keys.hash(&k)
}

// Foresee brings what Track needs of the flows with these hashes into the cache: first the index of all, then the
// entries. Both are loops of loads that do not wait for each other. It returns a number of no meaning, so that they
// are made.
func (t *Table) Foresee(hashes []uint64) (touched uint64) {
	for _, h := range hashes {
		sh := t.shard(h)
		touched += atomic.LoadUint64(&sh.slots[uint32(h)&uint32(len(sh.slots)-1)])
	}
	for _, h := range hashes {
		sh := t.shard(h)
		mask := uint32(len(sh.slots) - 1)
		for i := uint32(h) & mask; ; i = (i + 1) & mask {
			v := atomic.LoadUint64(&sh.slots[i])
			if v == 0 {
				break
			}
			if uint32(v>>32) == uint32(h) {
				e := &sh.entries[uint32(v)-1]
				touched += atomic.LoadUint64(&e.key.word) + atomic.LoadUint64(&e.ports)
				break
			}
		}
	}
	return touched
}
