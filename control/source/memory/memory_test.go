// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Source    = (*memory.Source)(nil)
	_ source.Publisher = (*memory.Source)(nil)
)

func object(name string) *model.Object {
	return &model.Object{Key: model.Key{Kind: "Route", Name: name}}
}

func TestSource(t *testing.T) {
	var s memory.Source
	ctx, stop := context.WithCancel(context.Background())
	events, done := make(chan source.Event), make(chan error)
	go func() {
		done <- s.Run(ctx, func(e source.Event) { events <- e })
	}()
	select {
	case e := <-events:
		t.Fatalf("reported %v before anything was set", e)
	case <-time.After(20 * time.Millisecond):
	}
	s.Fail("is away")
	if e := <-events; e.Whole || e.Trouble != "is away" {
		t.Errorf("trouble %v", e)
	}
	s.Replace([]*model.Object{object("a")}, &model.Error{Reason: "bad"})
	if e := <-events; !e.Whole || len(e.Set) != 1 || len(e.Errors) != 1 || e.Trouble != "" {
		t.Errorf("whole state %v", e)
	}
	s.Set(object("b"))
	if e := <-events; e.Whole || len(e.Set) != 1 || e.Set[0].Key.Name != "b" || len(e.Errors) != 1 {
		t.Errorf("change %v", e)
	}
	s.Remove(object("a").Key)
	if e := <-events; e.Whole || len(e.Set) != 0 || len(e.Removed) != 1 {
		t.Errorf("removal %v", e)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSetBefore: what was set before Run is one whole state.
func TestSetBefore(t *testing.T) {
	var s memory.Source
	s.Replace([]*model.Object{object("a")})
	s.Set(object("b"))
	ctx, stop := context.WithCancel(t.Context())
	count := 0
	err := s.Run(ctx, func(e source.Event) {
		count++
		if !e.Whole || len(e.Set) != 2 {
			t.Errorf("event %v", e)
		}
		stop()
	})
	if err != nil || count != 1 {
		t.Errorf("%d events, %v", count, err)
	}
}

// TestWriters: several goroutines write while the source runs, stops and runs again; what a reader makes of the
// events is what was written.
func TestWriters(t *testing.T) {
	const writers, each = 4, 200
	var s memory.Source
	s.Replace(nil)
	var working sync.WaitGroup
	for w := range writers {
		working.Go(func() {
			for i := range each {
				s.Set(object(fmt.Sprintf("%d-%d", w, i)))
				if i%2 == 1 {
					s.Remove(object(fmt.Sprintf("%d-%d", w, i-1)).Key)
				}
				s.Publish(source.Report{Node: "n", Epoch: uint64(i)})
			}
		})
	}
	first, stopFirst := context.WithCancel(t.Context())
	go func() {
		working.Wait()
		stopFirst()
	}()
	events := 0
	if err := s.Run(first, func(source.Event) {
		if events++; events > 10 {
			stopFirst()
		}
	}); err != nil {
		t.Error(err)
	}
	working.Wait()
	s.Set(object("last"))
	held := map[string]bool{}
	second, stop := context.WithCancel(t.Context())
	if err := s.Run(second, func(e source.Event) {
		if e.Whole {
			clear(held)
		}
		for _, o := range e.Set {
			held[o.Key.Name] = true
		}
		for _, key := range e.Removed {
			delete(held, key.Name)
		}
		if held["last"] {
			stop()
		}
	}); err != nil {
		t.Error(err)
	}
	want := map[string]bool{"last": true}
	for w := range writers {
		for i := 1; i < each; i += 2 {
			want[fmt.Sprintf("%d-%d", w, i)] = true
		}
	}
	if !maps.Equal(held, want) {
		t.Errorf("%v", slices.Sorted(maps.Keys(held)))
	}
	if reports := s.Reports(); len(reports) != writers*each || len(s.Reports()) != 0 {
		t.Errorf("%d reports", len(reports))
	}
}
