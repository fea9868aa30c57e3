// SPDX-License-Identifier: Apache-2.0

package push

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// intake holds what the source said and nobody took yet, as one event: of an object the newest form wins. What the
// source is, and what it refuses, is held for as long as it stands.
type intake struct {
	poke chan struct{} // has one element while there is something to take

	mu      sync.Mutex
	whole   bool
	set     map[model.Key]*model.Object
	removed map[model.Key]struct{}
	said    said
}

// said is what the source said of itself.
type said struct {
	inStep  bool // it has said its whole state, and nothing is wrong with it
	known   bool // it has said its whole state once
	trouble string
	errors  []*model.Error
	heard   time.Time
	events  uint64
}

func newIntake() *intake {
	return &intake{
		poke: make(chan struct{}, 1), set: map[model.Key]*model.Object{}, removed: map[model.Key]struct{}{},
	}
}

// put merges an event, and returns what the source said of itself before.
func (i *intake) put(e source.Event) (before said) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before = i.said
	i.said = said{
		known: before.known || e.Whole, inStep: (before.known || e.Whole) && e.Trouble == "",
		trouble: e.Trouble, errors: e.Errors, heard: before.heard, events: before.events + 1,
	}
	if e.Trouble == "" {
		i.said.heard = time.Now()
	}
	if e.Whole {
		i.whole = true
		clear(i.set)
		clear(i.removed)
	}
	for _, key := range e.Removed {
		delete(i.set, key)
		if !i.whole {
			i.removed[key] = struct{}{}
		}
	}
	for _, o := range e.Set {
		delete(i.removed, o.Key)
		i.set[o.Key] = o
	}
	i.alert()
	return before
}

// alert says that there is something to take, here or elsewhere.
func (i *intake) alert() {
	select {
	case i.poke <- struct{}{}:
	default: // it is there already
	}
}

// take returns what is held, as one event without the source's own state.
func (i *intake) take() source.Event {
	i.mu.Lock()
	defer i.mu.Unlock()
	e := source.Event{
		Whole: i.whole,
		Set:   slices.AppendSeq(make([]*model.Object, 0, len(i.set)), maps.Values(i.set)), Removed: nil,
	}
	e.Removed = slices.AppendSeq(make([]model.Key, 0, len(i.removed)), maps.Keys(i.removed))
	i.whole, i.set, i.removed = false, map[model.Key]*model.Object{}, map[model.Key]struct{}{}
	return e
}

func (i *intake) saying() said {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.said
}
