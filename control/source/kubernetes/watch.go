// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/viaduct-net/viaduct/control/model"
)

// backoff is how long an API server that is away is left alone: 500 nodes with ten kinds ask it 330 times a second
// when it returns, at the most.
var backoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 16, Cap: 10 * time.Second}

// absence is how long a resource is left alone that a cluster need not have.
const absence = time.Minute

// watcher keeps one kind in step.
type watcher struct {
	kind  model.Kind
	api   *api
	shelf *shelf
	log   *zap.Logger
	said  bool // that the resource is not there, which has not changed since
}

func newWatcher(api *api, kind model.Kind, m *mirror, status *statusWriter, log *zap.Logger) *watcher {
	w := &watcher{kind: kind, api: api, shelf: m.shelf(kind), log: log}
	if kind.APIVersion == model.APIVersion {
		w.shelf.status = status
	}
	return w
}

func (w *watcher) run(ctx context.Context) {
	reflector := cache.NewReflectorWithOptions(w, nil, w.shelf, cache.ReflectorOptions{
		Name:    w.kind.Resource,
		Backoff: &backoff,
		Clock:   stoppable{ctx: ctx},
	})
	reflector.RunWithContext(ctx)
}

// ListWithContext implements cache.ListerWithContext.
func (w *watcher) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	w.narrow(&o)
	list, err := w.api.groups[w.kind.APIVersion].Get().
		Resource(w.kind.Resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Get()
	w.outcome(ctx, err)
	if apierrors.IsNotFound(err) && w.optional() {
		sleep(ctx, absence)
	}
	return list, err
}

// WatchWithContext implements cache.WatcherWithContext.
func (w *watcher) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	w.narrow(&o)
	events, err := w.api.groups[w.kind.APIVersion].Get().
		Resource(w.kind.Resource).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
	if err == nil && reflect.TypeOf(events) == reflect.TypeOf(watch.NewEmptyWatch()) {
		err = fmt.Errorf("API server %s closes connections", w.api.host) // client-go hides an EOF behind this watch
	}
	w.outcome(ctx, err)
	return events, err
}

// List implements cache.Lister, which nobody calls: the reflector has a context.
func (w *watcher) List(o metav1.ListOptions) (runtime.Object, error) {
	return w.ListWithContext(context.Background(), o)
}

// Watch implements cache.Watcher, as List does cache.Lister.
func (w *watcher) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return w.WatchWithContext(context.Background(), o)
}

// narrow leaves out pods that ran to their end: their addresses may be other pods'.
func (w *watcher) narrow(o *metav1.ListOptions) {
	if w.kind.Name == "Pod" {
		o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed"
	}
}

// optional says whether a cluster may do without the resource.
func (w *watcher) optional() bool {
	const since134 = "ServiceCIDR" // of Kubernetes
	return w.kind.Name == since134 || !builtIn(w.kind.APIVersion) && w.kind.APIVersion != model.APIVersion
}

// outcome takes note of how a request went.
func (w *watcher) outcome(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil, apierrors.IsResourceExpired(err), apierrors.IsGone(err): // another list follows
	case err == nil:
		w.shelf.trouble("")
		w.said = false
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsTimeout(err):
		// An API server that cannot stream a list, or is not that far yet; a list of another form follows.
	case !apierrors.IsNotFound(err):
		w.shelf.trouble(wordError(err))
	case w.optional():
		w.shelf.absent()
		if !w.said {
			w.log.Info("the API server has no such resource; control goes on without it until it has",
				zap.String("resource", w.kind.Resource), zap.String("version", w.kind.APIVersion))
		}
		w.said = true
	default:
		// Without its NodeConfig a node would be one that has no ports. What is in force stays until it is known.
		w.shelf.trouble(fmt.Sprintf("the API server has no %s of %s: apply deploy/crds", w.kind.Resource, w.kind.APIVersion))
	}
}

// passing is what differs from attempt to attempt: our end of a connection, and how far one had come.
var passing = regexp.MustCompile(`[^ >]+:\d+->|LastStreamID=\d+, `)

// wordError words an error of the network without the request, so that it is one for all kinds, and each time the same.
func wordError(err error) string {
	text := err.Error()
	var request *url.Error
	if errors.As(err, &request) {
		if at, e := url.Parse(request.URL); e == nil {
			text = fmt.Sprintf("API server %s: %v", at.Host, request.Err)
		}
	}
	return strings.Join(strings.Fields(passing.ReplaceAllString(text, "")), " ")
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stoppable is a clock that does not let those who are done wait: the reflector's pauses do not heed the context.
type stoppable struct {
	clock.RealClock
	ctx context.Context
}

// After implements clock.Clock.
func (s stoppable) After(d time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	go func() {
		sleep(s.ctx, d)
		c <- time.Now()
	}()
	return c
}
