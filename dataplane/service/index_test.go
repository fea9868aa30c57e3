// SPDX-License-Identifier: Apache-2.0

package service

import (
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Addresses and ports that follow each other are spread well, whatever the seeds are.
func TestHashSpreads(t *testing.T) {
	defer func(one, two uint64) { hashSeed, hashSeed2 = one, two }(hashSeed, hashSeed2)
	const keys, buckets, most = 4096, 1024, 20 // four to a bucket; by chance 20 are in one once in 10^5 times
	random := rand.New(rand.NewPCG(1, 2))
	bad, worst := 0, 0
	for range 2000 {
		hashSeed, hashSeed2 = random.Uint64(), random.Uint64()|1
		for _, of := range []func(i uint64) key{
			func(i uint64) key {
				return key{addr: packet.Addr{Hi: 0, Lo: 0xffff<<32 | 10<<24 | i}, port: 80, proto: 6}
			},
			func(i uint64) key { return key{addr: packet.Addr{Hi: 0xfd00 << 48, Lo: i}, port: 80, proto: 6} },
			func(i uint64) key { return key{port: 30000 + uint16(i), proto: 17} },
		} {
			var counts [buckets]int
			longest := 0
			for i := range uint64(keys) {
				at := of(i).hash() % buckets
				counts[at]++
				longest = max(longest, counts[at])
			}
			if worst = max(worst, longest); longest > most {
				bad++
			}
		}
	}
	t.Logf("longest %d", worst)
	if bad > 2 {
		t.Errorf("in %d of 6000 cases a bucket has more than %d of %d keys, %d at worst", bad, most, keys, worst)
	}
}
