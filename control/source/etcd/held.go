// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// item is a key as etcd has it at some revision.
type item struct {
	key    string
	object *model.Object // nil when refused
	err    *model.Error
	node   string // of a refused object: the node that it is for; empty when it is not known to be for one alone
	mark   mark
}

// refusal is an item's error, and its node.
type refusal struct {
	err  *model.Error
	node string
}

// mark tells two writes of a key apart.
type mark struct{ revision, version int64 }

// held is what is known of etcd's keys, and what of it has not been reported yet.
type held struct {
	marks   map[string]mark          // of each key, refused or not
	good    map[string]*model.Object // in force
	errs    map[string]refusal
	set     map[model.Key]*model.Object
	removed map[model.Key]bool
	changed bool // something is to be reported
}

func newHeld() *held {
	return &held{
		marks: map[string]mark{}, good: map[string]*model.Object{}, errs: map[string]refusal{},
		set: map[model.Key]*model.Object{}, removed: map[model.Key]bool{},
	}
}

// put takes a written key. Of a refused one the last good object stays.
func (h *held) put(i item) {
	h.marks[i.key] = i.mark
	h.refuse(i.key, refusal{i.err, i.node})
	old := h.good[i.key]
	if i.object == nil || old != nil && old.Same(i.object) {
		return
	}
	h.good[i.key] = i.object
	h.set[i.object.Key] = i.object
	delete(h.removed, i.object.Key)
	h.changed = true
}

// refuse takes the key's refusal; one without an error: it has none.
func (h *held) refuse(key string, r refusal) {
	old := h.errs[key]
	if r == old || r.err != nil && old.err != nil && *r.err == *old.err && r.node == old.node {
		return
	}
	h.errs[key] = r
	if r.err == nil {
		delete(h.errs, key)
	}
	h.changed = true
}

// remove takes a deleted key.
func (h *held) remove(key string) {
	delete(h.marks, key)
	h.refuse(key, refusal{})
	if o := h.good[key]; o != nil {
		delete(h.good, key)
		delete(h.set, o.Key)
		h.removed[o.Key] = true
		h.changed = true
	}
}

// replace takes all keys that there are.
func (h *held) replace(items []item) {
	there := make(map[string]bool, len(items))
	for _, i := range items {
		there[i.key] = true
		h.put(i)
	}
	for key := range h.marks {
		if !there[key] {
			h.remove(key)
		}
	}
}

// newest is the key that was written last; empty when there are none.
func (h *held) newest() (key string, m mark) {
	for k, at := range h.marks {
		if at.revision > m.revision {
			key, m = k, at
		}
	}
	return key, m
}

// count is the number of keys in a span.
func (h *held) count(s span) (n int64) {
	for key := range h.marks {
		if s.has(key) {
			n++
		}
	}
	return n
}

// event takes what is to be reported.
func (h *held) event(whole bool) source.Event {
	e := source.Event{
		Whole:   whole,
		Set:     slices.SortedFunc(maps.Values(h.set), func(a, b *model.Object) int { return a.Key.Compare(b.Key) }),
		Removed: slices.SortedFunc(maps.Keys(h.removed), model.Key.Compare),
		Errors:  h.refusals(),
	}
	if whole {
		e.Removed = nil
	}
	h.set, h.removed, h.changed = map[model.Key]*model.Object{}, map[model.Key]bool{}, false
	return e
}

// refusals are all errors that stand.
func (h *held) refusals() []*model.Error {
	errs := make([]*model.Error, 0, len(h.errs))
	for _, r := range h.errs {
		errs = append(errs, r.err)
	}
	slices.SortFunc(errs, func(a, b *model.Error) int {
		return cmp.Or(strings.Compare(a.Place.File, b.Place.File), a.Key.Compare(b.Key))
	})
	return errs
}
