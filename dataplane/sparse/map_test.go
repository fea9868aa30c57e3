// SPDX-License-Identifier: Apache-2.0

package sparse_test

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/sparse"
)

// Against Go's own maps: every version stays what it was, however the later ones were made of it.
func TestVersions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		versions := []sparse.Map[int]{{}}
		models := []map[uint32]int{{}}
		key := rapid.OneOf(rapid.Uint32Range(0, 200), rapid.Uint32())
		for i := range rapid.IntRange(1, 10).Draw(t, "versions") {
			from := rapid.IntRange(0, i).Draw(t, "from")
			e, model := versions[from].Edit(), maps.Clone(models[from])
			for range rapid.IntRange(0, 30).Draw(t, "edits") {
				k := key.Draw(t, "key")
				if rapid.Bool().Draw(t, "set") {
					v := rapid.Int().Draw(t, "value")
					e.Set(k, v)
					model[k] = v
					continue
				}
				_, had := model[k]
				if e.Delete(k) != had {
					t.Fatalf("deleting %d: want %t", k, had)
				}
				delete(model, k)
			}
			versions, models = append(versions, e.Map()), append(models, model)
		}
		for i, m := range versions {
			if got := maps.Collect(m.All()); !maps.Equal(got, models[i]) || m.Len() != len(models[i]) {
				t.Fatalf("version %d is %v, want %v", i, got, models[i])
			}
			var order []uint32
			for k, v := range m.All() {
				order = append(order, k)
				if got, ok := m.Get(k); !ok || got != v {
					t.Fatalf("%d is %d", k, got)
				}
			}
			if !slices.IsSorted(order) {
				t.Fatalf("order %v", order)
			}
		}
	})
}

// What changed between two versions is what differs between the maps that they stand for.
func TestChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.Uint32Range(0, 300)
		var versions [2]sparse.Map[int]
		for i := range versions {
			e := versions[0].Edit()
			for range rapid.IntRange(0, 30).Draw(t, "edits") {
				if k := key.Draw(t, "key"); rapid.Bool().Draw(t, "set") {
					e.Set(k, rapid.IntRange(0, 2).Draw(t, "value"))
				} else {
					e.Delete(k)
				}
			}
			versions[i] = e.Map()
		}
		var want []uint32
		for k := range uint32(301) {
			was, before := versions[0].Get(k)
			is, after := versions[1].Get(k)
			if before != after || was != is {
				want = append(want, k)
			}
		}
		for _, got := range [][]uint32{
			slices.Sorted(sparse.Changed(versions[0], versions[1])), slices.Sorted(sparse.Changed(versions[1], versions[0])),
		} {
			if !slices.Equal(got, want) {
				t.Fatalf("changed %v, want %v", got, want)
			}
		}
		for range sparse.Changed(versions[0], versions[1]) {
			break // is taken
		}
	})
}
