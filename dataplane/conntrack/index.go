// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/cacheline"
)

// index says where something with a hash lies: open addressing with linear probing, little more than half full at most.
// A slot holds 32 bits of the hash above a number from 1 on, so that neither a search nor a deletion has to look at
// what others are numbered; 0 is empty. Slots are published, for foresee.go reads without the lock.
type index []uint64

func (x index) insert(hash uint64, n uint32) {
	mask := uint32(len(x) - 1)
	i := uint32(hash) & mask
	for x[i] != 0 {
		i = (i + 1) & mask
	}
	x.put(i, hash<<32|uint64(n))
}

func (x index) put(i uint32, v uint64) { cacheline.Publish64(&x[i], v) }

// remove empties the slot of a number and moves up those behind it that would not be found any more (Knuth, The Art of
// Computer Programming 3, 6.4, algorithm R).
func (x index) remove(hash uint64, n uint32) {
	mask := uint32(len(x) - 1)
	i := uint32(hash) & mask
	for uint32(x[i]) != n {
		i = (i + 1) & mask
	}
	for j := i; ; {
		j = (j + 1) & mask
		v := x[j]
		if v == 0 {
			break
		}
		if home := uint32(v >> 32); (j-home)&mask >= (j-i)&mask {
			x.put(i, v)
			i = j
		}
	}
	x.put(i, 0)
}

// peek returns the first number with a hash, 0 for none. It needs no lock, and what it says may be wrong.
func (x index) peek(hash uint64) uint32 {
	mask := uint32(len(x) - 1)
	for i := uint32(hash) & mask; ; i = (i + 1) & mask {
		v := atomic.LoadUint64(&x[i])
		if v == 0 || uint32(v>>32) == uint32(hash) {
			return uint32(v)
		}
	}
}

// fetch has the place fetched where a search begins.
func (x index) fetch(hash uint64) { cacheline.Fetch(unsafe.Pointer(&x[uint32(hash)&uint32(len(x)-1)])) }
