// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

func blackhole(name, destination string) string {
	return fmt.Sprintf("apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n"+
		"spec: {destination: %s, type: blackhole}\n", name, destination)
}

func route(name string) string { return "/viaduct/Route/" + name }

// view is what somebody knows who has followed all events.
type view struct {
	mu      sync.Mutex
	objects map[model.Key]*model.Object
	errs    []*model.Error
	trouble string
	events  []source.Event
	change  chan struct{}
}

func (v *view) take(e source.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Whole {
		clear(v.objects)
	}
	for _, key := range e.Removed {
		delete(v.objects, key)
	}
	for _, o := range e.Set {
		v.objects[o.Key] = o
	}
	v.errs, v.trouble = e.Errors, e.Trouble
	v.events = append(v.events, e)
	close(v.change)
	v.change = make(chan struct{})
}

// lines are the objects, the errors and the trouble.
func (v *view) lines() []string {
	var lines []string
	for _, key := range slices.SortedFunc(maps.Keys(v.objects), model.Key.Compare) {
		line := key.String()
		if r, ok := v.objects[key].Spec.(*model.Route); ok {
			line += " " + r.Destination.String()
		}
		lines = append(lines, line)
	}
	for _, err := range v.errs {
		lines = append(lines, "error "+err.Error())
	}
	if v.trouble != "" {
		lines = append(lines, "trouble")
	}
	return lines
}

// wait returns when the condition holds.
func (v *view) wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for timeout := time.After(patience); ; {
		v.mu.Lock()
		ok, change := holds(), v.change
		v.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-timeout:
			t.Fatalf("never: %s; trouble %q", what, v.trouble)
		}
	}
}

// expect waits until the view is this.
func (v *view) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	defer func() {
		if t.Failed() {
			t.Log(cmp.Diff(want, got))
		}
	}()
	v.wait(t, strings.Join(want, "; "), func() bool {
		got = v.lines()
		return slices.Equal(got, want)
	})
}

// expectTrouble waits for trouble with the words in it.
func (v *view) expectTrouble(t *testing.T, words ...string) {
	t.Helper()
	v.wait(t, "trouble with "+strings.Join(words, ", "), func() bool {
		return v.trouble != "" && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(v.trouble, w) })
	})
}

// count is the number of events.
func (v *view) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.events)
}

// running is a source that runs.
type running struct {
	*Source
	*view
	logs *observer.ObservedLogs
	stop func()
}

// run runs a source until the test ends or stop is called.
func run(t *testing.T, o Options) *running {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	o.Logger = zap.New(core)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	v := &view{objects: map[model.Key]*model.Object{}, change: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, v.take) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return &running{s, v, logs, stop}
}

func follow(t *testing.T, server *etcdtest.Server) *running {
	t.Helper()
	return run(t, Options{Endpoints: []string{server.Endpoint}})
}

// logged is how often a message was logged.
func (r *running) logged(message string) (n int) {
	for _, entry := range r.logs.All() {
		if strings.Contains(entry.Message, message) {
			n++
		}
	}
	return n
}

func TestChanges(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), "/viaduct/status/x", "not an object",
		"/viaductory/Route/x", "not ours", "/viaduct", "not ours")
	r := follow(t, server)
	r.expect(t, "Route a 10.0.0.0/8")
	if !r.events[0].Whole {
		t.Error("the first event is not the whole")
	}
	server.Put(route("b"), blackhole("b", "11.0.0.0/8"), "/viaduct/status/y", "not an object",
		"/viaduct/Pod/ns/p", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}}`)
	r.expect(t, "Pod ns/p", "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
	if n := r.count(); n != 2 {
		t.Errorf("%d events; what is written together is reported together", n)
	}
	server.Put(route("a"), blackhole("a", "12.0.0.0/8"))
	r.expect(t, "Pod ns/p", "Route a 12.0.0.0/8", "Route b 11.0.0.0/8")
	server.Delete("/viaduct/Pod/ns/p", route("b"))
	r.expect(t, "Route a 12.0.0.0/8")
	for _, e := range r.events[1:] {
		if e.Whole {
			t.Error("a change is reported as the whole")
		}
	}
}

// TestBadValues: a refused value leaves its object as it was, until the key is good again, or gone.
func TestBadValues(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), route("b"), "b: [", "/viaduct/typo", "",
		"/viaduct/tunnel/x/y/z", "")
	const badB = "error /viaduct/Route/b: Route b: line 1 of the document: did not find expected node content"
	const noKey = ": not a key of the form /viaduct/KIND/NAME or /viaduct/KIND/NAMESPACE/NAME"
	typo, tunnel := "error /viaduct/typo"+noKey, "error /viaduct/tunnel/x/y/z"+noKey
	r := follow(t, server)
	r.expect(t, "Route a 10.0.0.0/8", badB, tunnel, typo)

	server.Put(route("a"), blackhole("x", "11.0.0.0/8"))
	const badA = `error /viaduct/Route/a: Route a: metadata.name: "x" under the key of "a"; it belongs to /viaduct/Route/x`
	r.expect(t, "Route a 10.0.0.0/8", badA, badB, tunnel, typo)

	server.Restart() // refusals do not confuse the comparison of histories
	server.Put(route("b"), blackhole("b", "12.0.0.0/8"))
	server.Delete("/viaduct/typo", "/viaduct/tunnel/x/y/z")
	r.expect(t, "Route a 10.0.0.0/8", "Route b 12.0.0.0/8", badA)

	server.Delete(route("a"))
	r.expect(t, "Route b 12.0.0.0/8")
}

// TestBurst: many keys at the start, and many changes of them, arrive in few events.
func TestBurst(t *testing.T) {
	const keys = 10_000
	server := etcdtest.Start(t)
	name := func(i int) string { return fmt.Sprintf("r%05d", i) }
	fill := func(second int) {
		for i := 0; i < keys; i += 100 {
			var pairs []string
			for j := i; j < i+100; j++ {
				pairs = append(pairs, route(name(j)), blackhole(name(j), fmt.Sprintf("%d.%d.%d.0/24", second, j>>8, j&255)))
			}
			server.Put(pairs...)
		}
	}
	allIn := func(r *running, second string) func() bool {
		return func() bool {
			last, ok := r.objects[model.Key{Kind: "Route", Name: name(keys - 1)}]
			return ok && len(r.objects) == keys && strings.HasPrefix(last.Spec.(*model.Route).Destination.String(), second)
		}
	}
	fill(10)
	r := follow(t, server)
	r.wait(t, "all keys", allIn(r, "10."))
	if n := len(r.events[0].Set); n != keys {
		t.Errorf("the first event has %d objects", n)
	}
	fill(11)
	r.wait(t, "all changes", allIn(r, "11."))
	t.Logf("%d events", r.count())
	if n := r.count(); n > keys/50 {
		t.Errorf("%d events for %d transactions", n, keys/100)
	}
}
