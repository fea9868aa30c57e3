// SPDX-License-Identifier: Apache-2.0

package offload

import "github.com/viaduct-net/viaduct/dataplane/packet"

// Pair returns the record of all TCP between two addresses, of which packets from src come by a port, and the direction
// in it; 0: there is none. Where the table has no pair at all it costs nothing.
func (t *Table) Pair(src, dst packet.Addr, in packet.PortID) (Ref, uint8) {
	if t.pairs.Load() == 0 {
		return 0, 0
	}
	return t.Find(packet.Ends{Src: src, Dst: dst}, packet.ProtoTCP, in)
}

// Claimed says whether a direction of a record has been entered to lead to userspace, whatever pair there is.
func (t *Table) Claimed(ref Ref) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.alive(ref) != 0 && t.records[ref.number()-1].flags&claimed != 0
}

// Pairs returns the records of pairs, in no order.
func (t *Table) Pairs() (list []Ref) {
	if t.pairs.Load() == 0 {
		return nil
	}
	const some = 1024 // records that are looked at while others wait
	for at := 0; at < len(t.records); at += some {
		t.mu.Lock()
		for i := at; i < min(at+some, len(t.records)); i++ {
			if stamp := t.stamps[i].Load(); stamp&1 != 0 && t.records[i].flags&pair != 0 {
				list = append(list, refOf(uint32(i+1), stamp))
			}
		}
		t.mu.Unlock()
	}
	return list
}
