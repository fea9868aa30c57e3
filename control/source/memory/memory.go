// SPDX-License-Identifier: Apache-2.0

// Package memory is a source that a program feeds, for tests and for tools that have their objects in hand.
package memory

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Source holds objects and reports each change of them. The zero value has nothing to report until Replace is called.
// It may be used by several goroutines.
type Source struct {
	mu      sync.Mutex
	objects map[model.Key]*model.Object
	errors  []*model.Error
	trouble string
	whole   bool // Replace was called
	running bool
	queue   []source.Event // while running
	changed chan struct{}  // closed when there is more in the queue
	reports []source.Report
}

// Replace makes the objects the whole state, and the errors all refusals that stand.
func (s *Source) Replace(objects []*model.Object, errs ...*model.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = map[model.Key]*model.Object{}
	for _, o := range objects {
		s.objects[o.Key] = o
	}
	s.errors, s.trouble, s.whole = errs, "", true
	s.say(source.Event{Whole: true, Set: s.list()})
}

// Set adds or replaces objects.
func (s *Source) Set(objects ...*model.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects = map[model.Key]*model.Object{}
	}
	for _, o := range objects {
		s.objects[o.Key] = o
	}
	s.say(source.Event{Set: slices.Clone(objects)})
}

// Remove removes the objects with the keys.
func (s *Source) Remove(keys ...model.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.objects, key)
	}
	s.say(source.Event{Removed: slices.Clone(keys)})
}

// Fail says what is wrong with the source; the empty string ends that.
func (s *Source) Fail(trouble string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = trouble
	s.say(source.Event{})
}

// say queues an event. Before the first Replace only trouble is said: the state is not known yet.
func (s *Source) say(e source.Event) {
	if !s.running {
		return
	}
	if !s.whole {
		e = source.Event{}
	}
	e.Errors, e.Trouble = s.errors, s.trouble
	s.queue = append(s.queue, e)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *Source) list() []*model.Object { return slices.Collect(maps.Values(s.objects)) }

// String implements source.Source.
func (s *Source) String() string { return "memory" }

// Run implements source.Source. What was said before it is reported as one whole state.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	s.restart()
	defer s.stop()
	for {
		events, changed := s.next()
		for _, e := range events {
			report(e)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// restart makes the queue what a process that knows nothing has to be told.
func (s *Source) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.running = nil, true
	if s.whole {
		s.say(source.Event{Whole: true, Set: s.list()})
	} else if s.trouble != "" {
		s.say(source.Event{})
	}
}

func (s *Source) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.running = nil, false
}

func (s *Source) next() ([]source.Event, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	events := s.queue
	s.queue = nil
	return events, s.changed
}

// Publish implements source.Publisher: it keeps the report for Reports.
func (s *Source) Publish(r source.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
}

// Reports returns what was published since the last call.
func (s *Source) Reports() []source.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	reports := s.reports
	s.reports = nil
	return reports
}
