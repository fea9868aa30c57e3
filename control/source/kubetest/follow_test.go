// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/kubernetes"
)

// follower holds what a source has said.
type follower struct {
	t       *testing.T
	source  *kubernetes.Source
	events  chan source.Event
	seen    int
	whole   bool
	objects map[model.Key]*model.Object
	errs    []*model.Error
	trouble string
}

// follow runs a source at an address that leads to the API server, until the test ends.
func follow(t *testing.T, address, node string) *follower {
	t.Helper()
	path, err := api.kubeconfig(address, token)
	if err != nil {
		t.Fatal(err)
	}
	return followAs(t, path, node)
}

func followAs(t *testing.T, kubeconfig, node string) *follower {
	t.Helper()
	f := &follower{
		t:       t,
		source:  kubernetes.New(kubernetes.Options{Kubeconfig: kubeconfig, Node: node, Logger: zaptest.NewLogger(t)}),
		events:  make(chan source.Event),
		objects: map[model.Key]*model.Object{},
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- f.source.Run(ctx, func(e source.Event) {
			select {
			case f.events <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// until takes events until what they add up to is as wanted.
func (f *follower) until(what string, wanted func() bool) {
	f.t.Helper()
	for late := time.After(20 * time.Second); !wanted(); {
		select {
		case e := <-f.events:
			f.take(e)
		case <-late:
			f.t.Fatalf("%s: after %d events there are %v, refused %v, trouble %q", what, f.seen,
				slices.Collect(maps.Keys(f.objects)), f.errs, f.trouble)
		}
	}
}

func (f *follower) take(e source.Event) {
	f.seen++
	if e.Whole {
		if f.whole {
			f.t.Error("the whole state was said twice")
		}
		f.whole = true
		clear(f.objects)
	} else if !f.whole && len(e.Set)+len(e.Removed)+len(e.Errors) > 0 {
		f.t.Error("changes before the first state")
	}
	for _, o := range e.Set {
		f.objects[o.Key] = o
	}
	for _, k := range e.Removed {
		if slices.ContainsFunc(e.Set, func(o *model.Object) bool { return o.Key == k }) {
			f.t.Errorf("%s is set and removed at once", k)
		}
		delete(f.objects, k)
	}
	f.errs, f.trouble = e.Errors, e.Trouble
}

func (f *follower) has(kind, namespace, name string) bool { return f.get(kind, namespace, name) != nil }

func (f *follower) get(kind, namespace, name string) *model.Object {
	return f.objects[model.Key{Kind: kind, Namespace: namespace, Name: name}]
}

func (f *follower) route(name string) *model.Route {
	if o := f.get("Route", "", name); o != nil {
		return o.Spec.(*model.Route)
	}
	return nil
}

func (f *follower) ready() bool { return f.whole }

// refused is the reason for which an object is refused, empty when it is not.
func (f *follower) refused(kind, name string) string {
	for _, e := range f.errs {
		if e.Key.Kind == kind && e.Key.Name == name {
			return e.Field + ": " + e.Reason
		}
	}
	return ""
}
