// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/model"
)

// drawFile is a file of few objects and refusals, so that files contend for the same ones.
func drawFile(t *rapid.T, path string) *file {
	f := &file{}
	for i, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "bad", "unknown"}), 0, 4).Draw(t, path) {
		key := model.Key{Kind: "Route", Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")}
		place := model.Place{File: path, Line: i + 1, Document: i + 1}
		switch name {
		case "bad":
			f.errs = append(f.errs, &model.Error{Place: place, Key: key, Reason: "is bad"})
		case "unknown":
			f.errs = append(f.errs, &model.Error{Place: place, Reason: "is anything"})
		default:
			key.Name = name
			octet := rapid.ByteRange(0, 1).Draw(t, "octet")
			destination := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, octet}), 16)
			f.objects = append(f.objects, &model.Object{Key: key, Place: place, Spec: &model.Route{Destination: destination}})
		}
	}
	return f
}

// slow works out from nothing what is in force, given what was.
func slow(files map[string]*file, was map[model.Key]*model.Object) map[model.Key]*model.Object {
	good := map[model.Key]*model.Object{}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		for _, o := range files[path].objects {
			if good[o.Key] == nil {
				good[o.Key] = o
			}
		}
	}
	for key, o := range was {
		if f := files[o.Place.File]; good[key] == nil && f != nil && f.mayMean(key) {
			good[key] = o
		}
	}
	return good
}

// TestHeld: changes one after the other come to what the whole gives, and the differences to the same.
func TestHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, files := newHeld(), map[string]*file{}
		good, taken := map[model.Key]*model.Object{}, map[model.Key]*model.Object{}
		for range rapid.IntRange(1, 12).Draw(t, "scans") {
			for range rapid.IntRange(0, 3).Draw(t, "files") {
				path := rapid.SampledFrom([]string{"1.yaml", "2.yaml", "3.yaml"}).Draw(t, "path")
				if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
					delete(files, path)
					h.put(path, nil)
					continue
				}
				files[path] = drawFile(t, path)
				h.put(path, files[path])
			}
			h.settle()
			good = slow(files, good)
			if diff := cmp.Diff(show(good), show(h.good)); diff != "" {
				t.Fatalf("in force: %s", diff)
			}
			if rapid.Bool().Draw(t, "take") {
				set, removed := h.take()
				for _, o := range set {
					taken[o.Key] = o
				}
				for _, key := range removed {
					delete(taken, key)
				}
				if diff := cmp.Diff(show(good), show(taken)); diff != "" {
					t.Fatalf("differences: %s", diff)
				}
			}
			objects, errs := 0, 0
			for _, f := range files {
				objects, errs = objects+len(f.objects), errs+len(f.errs)
			}
			if doubles := objects - len(h.claims); len(h.errors()) != errs+doubles {
				t.Fatalf("%d errors, want %d and %d of doubles", len(h.errors()), errs, doubles)
			}
		}
	})
}

func show(objects map[model.Key]*model.Object) (lines []string) {
	for key, o := range objects {
		lines = append(lines, fmt.Sprintf("%s %s %s", key, o.Place, o.Spec.(*model.Route).Destination))
	}
	slices.Sort(lines)
	return lines
}
