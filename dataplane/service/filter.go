// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math/bits"
	"slices"
)

// filter tells of most addresses that they are none of those that services alone have, without a look at the index, in
// which each would be a miss of the caches: a Bloom filter of one hash (CACM 13, 7, 1970). It is immutable.
type filter struct {
	bits []uint64 // a power of two of them; none: there are no addresses
	set  int      // at most so many bits
}

// A filter is made with 16 bits an address, and made anew when one in six is set: by addresses that came, or by ones
// that have gone since.
const bitsPerAddress, leastPerAddress = 16, 6

func (f *filter) place(hash uint64) (word int, bit uint64) {
	at := hash >> 32 & uint64(64*len(f.bits)-1)
	return int(at / 64), 1 << (at % 64)
}

func (f *filter) may(hash uint64) bool {
	if len(f.bits) == 0 {
		return false
	}
	word, bit := f.place(hash)
	return f.bits[word]&bit != 0
}

// admit has the filter let the address of a key through.
func (e *indexEditor) admit(k key) {
	f := &e.addresses
	if h := k.hash(); !f.may(h) {
		if !e.ownFilter {
			f.bits, e.ownFilter = slices.Clone(f.bits), true
		}
		word, bit := f.place(h)
		f.bits[word] |= bit
		f.set++
	}
}

// filterFor sees to it that the filter has room for so many addresses more.
func (e *indexEditor) filterFor(more int) {
	if leastPerAddress*(e.addresses.set+more) <= 64*len(e.addresses.bits) {
		return
	}
	var there []key
	for _, p := range e.pages {
		for _, bucket := range p {
			for i := range bucket {
				if bucket[i].key.place == clusterAddress {
					there = append(there, bucket[i].key)
				}
			}
		}
	}
	words := 1 << bits.Len(uint(bitsPerAddress*(len(there)+more)/64))
	e.addresses, e.ownFilter = filter{bits: make([]uint64, words)}, true
	for _, k := range there {
		e.admit(k)
	}
}
