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
