// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

const (
	// writeRate bounds one node's writes a second, writeBurst those at once.
	writeRate, writeBurst = 20, 20
	// spread is how far apart nodes say the same of an object for all of them, so that they see each other's words.
	spread = 10 * time.Second
	// A write that failed is tried again after retryFirst, then after twice as long, up to retryMost.
	retryFirst, retryMost = time.Second, time.Minute
)

// statusWriter writes what the node says of objects where that is not what they say already.
type statusWriter struct {
	node   string
	logger *zap.Logger
	spread time.Duration

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[model.Key] // nil before run
	there map[model.Key]seen                              // objects that concern the node, or say something of it
	words map[model.Key]*entry                            // what these are to say of it; nil: nothing
}

func newStatusWriter(node string, logger *zap.Logger) *statusWriter {
	return &statusWriter{
		node:   node,
		logger: logger,
		spread: spread,
		there:  map[model.Key]seen{},
		words:  map[model.Key]*entry{},
	}
}

// publish takes note of what control made of objects. Of one that is gone, or has another form by now, it is too late
// to say anything: the word on that form is to come.
func (w *statusWriter) publish(report source.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range report.Statuses {
		at, known := w.there[s.Object.Key]
		if !known || at.concern == another || s.Object.Generation < at.generation || s.Object.UID != string(at.uid) {
			continue
		}
		w.say(s.Object.Key, w.wordOf(report.Epoch, s, at.concern))
	}
}

// saw takes note of an object that the API server sent: of what it says of us, and of what only the source can say. A
// word that stands for the same form of it stands on: the API server may have lost it, with the object, say, that was
// deleted and made again.
func (w *statusWriter) saw(i *item, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := *i.seen
	w.there[i.key] = at
	if changed && i.err == nil {
		delete(w.words, i.key)
	}
	_, said := w.words[i.key]
	switch {
	case at.concern == another && at.entry == nil:
		w.drop(i.key)
	case at.concern == another: // it was ours
		w.say(i.key, nil)
	case i.err != nil:
		w.say(i.key, w.refusalOf(i))
	case !said && at.outdated():
		w.say(i.key, nil)
	default:
		w.settle(i.key)
	}
}

// forget drops an object that is gone.
func (w *statusWriter) forget(key model.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(key)
}

func (w *statusWriter) drop(key model.Key) {
	delete(w.words, key)
	delete(w.there, key)
}

// say makes e, or nothing, what the object is to say of the node, under the lock.
func (w *statusWriter) say(key model.Key, e *entry) {
	was := w.words[key]
	switch {
	case e == nil:
	case was.same(e): // also written alike, should it be written again: the API server changes nothing then
		e = was
	default:
		e.LastTransitionTime = metav1.Now()
		if was := w.there[key].entry; was != nil && was.Applied == e.Applied {
			e.LastTransitionTime = was.LastTransitionTime
		}
	}
	w.words[key] = e
	w.settle(key)
}

// settle sees to it that the object comes to say what it is to say, under the lock.
func (w *statusWriter) settle(key model.Key) {
	switch {
	case w.queue == nil || !w.due(key):
	case w.there[key].concern == own || w.words[key] == nil || w.spread == 0:
		w.queue.Add(key)
	default:
		w.queue.AddAfter(key, rand.N(w.spread))
	}
}

// due says whether there is something to write of the object, and not enough said already.
func (w *statusWriter) due(key model.Key) bool {
	e, said := w.words[key]
	at := w.there[key]
	enough := at.concern != own && e != nil && at.entry == nil && at.others >= maxRefusals
	return said && !enough && !e.same(at.entry)
}

// run writes until ctx is done.
func (w *statusWriter) run(ctx context.Context, api *api) {
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[model.Key](retryFirst, retryMost))
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	w.mu.Lock()
	w.queue = queue
	for key := range w.words {
		w.settle(key)
	}
	w.mu.Unlock()
	rate := flowcontrol.NewTokenBucketRateLimiter(writeRate, writeBurst)
	for {
		key, down := queue.Get()
		if down {
			return
		}
		if w.isDue(key) && rate.Wait(ctx) == nil {
			w.write(ctx, api, key)
		}
		queue.Done(key)
	}
}

func (w *statusWriter) isDue(key model.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.due(key)
}

// write applies what is to be said of an object, when that is still so.
func (w *statusWriter) write(ctx context.Context, api *api, key model.Key) {
	w.mu.Lock()
	due, e, at := w.due(key), w.words[key], w.there[key]
	w.mu.Unlock()
	if !due {
		return
	}
	err := w.apply(ctx, api, key, patchOf(key, at, e))
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		w.queue.Forget(key)
		w.wrote(key, at, e)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it is gone, or another: the watch will show that
		w.queue.Forget(key)
	default:
		w.logger.Warn("status not written", zap.Stringer("object", key), zap.Error(err))
		w.queue.AddRateLimited(key)
	}
}

// wrote takes note of a success. Another word may have come meanwhile.
func (w *statusWriter) wrote(key model.Key, to seen, e *entry) {
	if at, known := w.there[key]; known && at.uid == to.uid {
		at.entry = e
		w.there[key] = at
		w.settle(key)
	}
}

// apply is one server-side apply. It is forced: of what carries the node's name nobody else is the master.
func (w *statusWriter) apply(ctx context.Context, api *api, key model.Key, p *patch) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	kind, _ := model.KindOf(model.APIVersion, key.Kind)
	force := true
	return api.groups[model.APIVersion].Patch(types.ApplyPatchType).
		Resource(kind.Resource).Name(key.Name).SubResource("status").
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager(w.node), Force: &force}, metav1.ParameterCodec).
		Body(body).Do(ctx).Error()
}
