// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

// TestSortBySet: many uses are in the order that few are in.
func TestSortBySet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, sets := range []uint32{1, 2, 1 << 11, 1<<11 + 1, 1 << 22, 1<<32 - 1} {
		for _, n := range []int{0, 1, 2047, 2048, 10_000} {
			uses := make([]uint64, n)
			for rank := range uses {
				uses[rank] = uint64(rng.Uint32N(sets))<<32 | uint64(rank)
			}
			want := slices.Sorted(slices.Values(uses))
			if got := sortBySet(uses); !slices.Equal(got, want) {
				t.Errorf("%d uses of %d sets are out of order", n, sets)
			}
		}
	}
}

// TestFlatten: each key has the lowest rank of the spans that hold it, also where spans are there twice, and where many
// begin at the same key.
func TestFlatten(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var f flattener
	for range 300 {
		var spans []span
		var keys []uint32
		for rank := range rng.Uint32N(200) {
			first := rng.Uint32N(8) << 20
			last := first + rng.Uint32N(everyPort-first)
			if len(spans) > 0 && rank%3 == 0 {
				was := spans[rng.IntN(len(spans))]
				first, last = was.first, was.last
			}
			spans = append(spans, span{first, last, rank})
			keys = append(keys, first, last, min(last+1, everyPort))
		}
		cells := f.flatten(nil, 0, slices.Clone(spans))
		for _, key := range keys {
			want, got := none, none
			for _, s := range spans {
				if s.first <= key && key <= s.last {
					want = min(want, s.rank)
				}
			}
			for _, c := range cells {
				if c.key <= key {
					got = c.rank
				}
			}
			if got != want {
				t.Fatalf("key %d of %v has rank %d, want %d", key, spans, got, want)
			}
		}
	}
}

// TestClassesOfOld: classes that no identity has any more are forgotten.
func TestClassesOfOld(t *testing.T) {
	s := &api.Snapshot{Epoch: 1, Identities: []*api.Identity{{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "a"}},
		PeerSets: []*api.PeerSet{{Id: 1, Identities: []uint32{1}}},
		Policies: []*api.Policy{{Name: "p", Subjects: []uint32{1}}}}
	ids, err := identity.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	local := []identity.ID{1}
	table, err := Build(s, ids, local)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(10) {
		d := &api.Delta{Base: s.Epoch, Set: &api.Snapshot{Epoch: s.Epoch + 1,
			Policies: []*api.Policy{{Name: "p", Subjects: []uint32{1}, Priority: i}}}}
		if s, err = d.Apply(s); err != nil {
			t.Fatal(err)
		}
		if table, err = table.Update(s, d, ids, local); err != nil {
			t.Fatal(err)
		}
	}
	if len(table.classes) != 1 {
		t.Errorf("%d classes, want 1", len(table.classes))
	}
}
