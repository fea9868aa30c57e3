// SPDX-License-Identifier: Apache-2.0

package service

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// The filter lets every address through that the index has, of any table in a row of tables, and few others. An index
// that was edited is as it was.
func TestFilter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	at := func(i uint32) key { return key{addr: packet.Addr4(10<<24 + i), place: clusterAddress} }
	check := func(x *index, is map[uint32]*Service) {
		t.Helper()
		through := 0
		for i := range uint32(4000) {
			if x.alone(at(i).addr) != (is[i] != nil) {
				t.Fatalf("%d of %d: alone is %v", i, len(is), x.alone(at(i).addr))
			}
			if i >= 2000 && x.addresses.may(at(i).hash()) { // below are some that were there
				through++
			}
		}
		if through > 2000/4 {
			t.Errorf("of 2000 others %d pass the filter", through)
		}
	}
	x, is := index{}, map[uint32]*Service{}
	check(&x, is)
	before, was := x, map[uint32]*Service{}
	for _, most := range []int{1, 5, 300, 2, 2000, 1500, 1000, 1, 800, 900} {
		e := x.edit(most)
		for range 2 * most {
			i := uint32(random.IntN(2000))
			switch s := is[i]; {
			case s != nil:
				e.unset(at(i), s)
				delete(is, i)
			case len(is) < most:
				is[i] = &Service{ID: i + 1}
				e.set(at(i), &frontend{service: is[i]})
			}
		}
		check(&before, was)
		x = e.index
		check(&x, is)
		before, was = x, maps.Clone(is)
	}
}
