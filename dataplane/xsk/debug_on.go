// SPDX-License-Identifier: Apache-2.0

//go:build viaduct_debug

package xsk

import "fmt"

const debug = true

// pass hands a frame from one owner to another, and panics when it did not belong to the first.
func (u *UMEM) pass(addr uint64, from, to uint8, step string) {
	owner := &u.owner[addr>>u.shift]
	if *owner != from {
		panic(fmt.Sprintf("xsk: %s: frame %#x belongs to %s, not to %s", step, u.ChunkOf(addr),
			ownerName(*owner), ownerName(from)))
	}
	*owner = to
}

func ownerName(owner uint8) string {
	switch owner {
	case callerOwns:
		return "the caller"
	case poolOwns:
		return "the pool"
	}
	return fmt.Sprintf("queue %d", owner)
}
