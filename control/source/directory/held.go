// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/model"
)

// file is one manifest file as it was read.
type file struct {
	mark    mark
	objects []*model.Object
	errs    []*model.Error
	kept    []model.Key // of objects that are in force because this file's refusals may mean them
}

// mayMean says whether a refusal is about the object. A document that does not even say what it is may be any.
func (f *file) mayMean(key model.Key) bool {
	return slices.ContainsFunc(f.errs, func(e *model.Error) bool { return e.Key == key || e.Key == model.Key{} })
}

// held is what the files say, and what of it is in force. A change costs what the changed files define.
type held struct {
	files     map[string]*file // by path relative to the root
	faulty    map[string]*file // those of them with refusals
	claims    map[model.Key][]*model.Object
	contested map[model.Key]bool // with more than one claim
	good      map[model.Key]*model.Object
	touched   map[model.Key]bool          // to be settled
	before    map[model.Key]*model.Object // what was in force at the last take, of keys that were settled since
}

func newHeld() *held {
	return &held{
		files: map[string]*file{}, faulty: map[string]*file{},
		claims: map[model.Key][]*model.Object{}, contested: map[model.Key]bool{},
		good: map[model.Key]*model.Object{}, touched: map[model.Key]bool{}, before: map[model.Key]*model.Object{},
	}
}

// put makes f what is at the path; nil is nothing. It takes effect with settle.
func (h *held) put(path string, f *file) {
	if was := h.files[path]; was != nil {
		for _, o := range was.objects {
			h.claim(o.Key, slices.DeleteFunc(h.claims[o.Key], func(c *model.Object) bool { return c == o }))
		}
		for _, key := range was.kept {
			h.touched[key] = true
		}
	}
	delete(h.files, path)
	delete(h.faulty, path)
	if f == nil {
		return
	}
	h.files[path] = f
	if len(f.errs) > 0 {
		h.faulty[path] = f
	}
	for _, o := range f.objects {
		claims := h.claims[o.Key]
		at := len(claims)
		for at > 0 && comparePlaces(claims[at-1].Place, o.Place) > 0 {
			at--
		}
		h.claim(o.Key, slices.Insert(claims, at, o))
	}
}

func (h *held) claim(key model.Key, claims []*model.Object) {
	h.touched[key] = true
	if h.claims[key] = claims; len(claims) == 0 {
		delete(h.claims, key)
	}
	if h.contested[key] = true; len(claims) < 2 {
		delete(h.contested, key)
	}
}

// settle puts in force what the files say.
func (h *held) settle() {
	for key := range h.touched {
		was, o := h.good[key], h.choose(key)
		if _, noted := h.before[key]; !noted {
			h.before[key] = was
		}
		if h.good[key] = o; o == nil {
			delete(h.good, key)
		}
	}
	clear(h.touched)
}

// choose returns the first claim on the key, or what stays in force without one, or nil.
func (h *held) choose(key model.Key) *model.Object {
	if claims := h.claims[key]; len(claims) > 0 {
		return claims[0]
	}
	o := h.good[key]
	if o == nil {
		return nil
	}
	f := h.files[o.Place.File]
	if f == nil || !f.mayMean(key) {
		return nil
	}
	f.kept = append(f.kept, key)
	return o
}

// take returns what has changed since it was last called, ordered by key. What was read again and is what it was, at
// the same place, has not.
func (h *held) take() (set []*model.Object, removed []model.Key) {
	for _, key := range slices.SortedFunc(maps.Keys(h.before), model.Key.Compare) {
		was, o := h.before[key], h.good[key]
		switch {
		case was == o:
		case o == nil:
			removed = append(removed, key)
		case was == nil || was.Place != o.Place || !was.Same(o):
			set = append(set, o)
		}
	}
	clear(h.before)
	return set, removed
}

// objects are those in force, ordered by key.
func (h *held) objects() []*model.Object {
	return slices.SortedFunc(maps.Values(h.good), func(a, b *model.Object) int { return a.Key.Compare(b.Key) })
}

// errors are the refusals that stand, ordered by place and key.
func (h *held) errors() []*model.Error {
	var errs []*model.Error
	for _, path := range slices.Sorted(maps.Keys(h.faulty)) {
		errs = append(errs, h.faulty[path].errs...)
	}
	for _, key := range slices.SortedFunc(maps.Keys(h.contested), model.Key.Compare) {
		first, others := h.claims[key][0], h.claims[key][1:]
		for _, o := range others {
			reason := fmt.Sprintf("is defined in %s already", first.Place)
			errs = append(errs, model.NewError(o.Place, key, "", reason))
		}
	}
	slices.SortStableFunc(errs, func(a, b *model.Error) int {
		return cmp.Or(comparePlaces(a.Place, b.Place), a.Key.Compare(b.Key))
	})
	return errs
}

func comparePlaces(a, b model.Place) int {
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Document, b.Document))
}
