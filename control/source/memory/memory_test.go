// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

var _ source.Source = (*memory.Source)(nil)

func TestSource(t *testing.T) {
	object := func(name string) *model.Object { return &model.Object{Key: model.Key{Kind: "Route", Name: name}} }
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
	s.Set(model.NewState(object("a")))
	if e := <-events; e.State.Len() != 1 {
		t.Errorf("state %v", e.State)
	}
	s.Set(model.NewState(object("a"), object("b")), &model.Error{Reason: "bad"})
	if e := <-events; e.State.Len() != 2 || len(e.Errors) != 1 {
		t.Errorf("event %v", e)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
