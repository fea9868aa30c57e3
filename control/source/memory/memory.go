// SPDX-License-Identifier: Apache-2.0

// Package memory is a source that a program feeds, for tests and for tools that have their manifests in hand.
package memory

import (
	"context"
	"sync"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Source holds an event until it is replaced. The zero value has nothing to report yet.
type Source struct {
	mu     sync.Mutex
	event  *source.Event
	change chan struct{} // closed when event is replaced
}

// Set replaces the state. A running source reports the latest; states set in quick succession may be skipped.
func (s *Source) Set(state model.State, errs ...*model.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.event = &source.Event{State: state, Errors: errs}
	if s.change != nil {
		close(s.change)
		s.change = nil
	}
}

// Run implements source.Source.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	var last *source.Event
	for {
		event, change := s.next()
		if event != last {
			report(*event)
			last = event
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-change:
		}
	}
}

func (s *Source) next() (*source.Event, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change == nil {
		s.change = make(chan struct{})
	}
	return s.event, s.change
}
