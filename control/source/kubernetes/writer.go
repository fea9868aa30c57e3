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

	mu     sync.Mutex
	queue  workqueue.TypedRateLimitingInterface[model.Key] // nil before run
	wanted map[model.Key]word                              // to be written, or found to be written
	there  map[model.Key]ownStatus                         // of objects of which somebody said something
}

func newStatusWriter(node string, logger *zap.Logger) *statusWriter {
	return &statusWriter{
		node:   node,
		logger: logger,
		spread: spread,
		wanted: map[model.Key]word{},
		there:  map[model.Key]ownStatus{},
	}
}

// publish takes note of what control made of objects.
func (w *statusWriter) publish(report source.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range report.Statuses {
		switch s.Object.Spec.(type) {
		case *model.NodeConfig, *model.Route:
			w.want(s.Object.Key, wordOf(w.node, report.Epoch, s))
		}
	}
}

// read returns what the API server has of an object's status.
func (w *statusWriter) read(d *document) *ownStatus { return statusOf(d, w.node) }

// saw takes note of an object that the API server sent: of what it says of us, and of what only the source can say.
func (w *statusWriter) saw(i *item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := *i.status
	delete(w.there, i.key)
	if own.entry != nil || own.others > 0 {
		w.there[i.key] = own
	}
	elsewhere := i.key.Kind == "NodeConfig" && i.key.Name != w.node || own.node != "" && own.node != w.node
	switch {
	case elsewhere && own.entry != nil: // it was ours
		w.want(i.key, word{alone: true})
	case elsewhere:
		delete(w.wanted, i.key)
	case i.err != nil:
		w.want(i.key, refusalOf(w.node, i))
	}
}

// forget drops an object that is gone.
func (w *statusWriter) forget(key model.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.wanted, key)
	delete(w.there, key)
}

// want makes the word the one to be written, under the lock.
func (w *statusWriter) want(key model.Key, word word) {
	if word.entry.same(w.there[key].entry) {
		delete(w.wanted, key)
		return
	}
	w.wanted[key] = word
	if w.queue != nil {
		w.enqueue(key, word)
	}
}

func (w *statusWriter) enqueue(key model.Key, word word) {
	if word.alone || word.entry == nil || w.spread == 0 {
		w.queue.Add(key)
		return
	}
	w.queue.AddAfter(key, rand.N(w.spread))
}

// run writes until ctx is done.
func (w *statusWriter) run(ctx context.Context, api *api) {
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[model.Key](retryFirst, retryMost))
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	w.mu.Lock()
	w.queue = queue
	for key, word := range w.wanted {
		w.enqueue(key, word)
	}
	w.mu.Unlock()
	rate := flowcontrol.NewTokenBucketRateLimiter(writeRate, writeBurst)
	for {
		key, down := queue.Get()
		if down {
			return
		}
		if w.due(key) && rate.Wait(ctx) == nil {
			w.write(ctx, api, key)
		}
		queue.Done(key)
	}
}

// due says whether there is something to write of the object, and not enough said already.
func (w *statusWriter) due(key model.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	word, ok := w.wanted[key]
	own := w.there[key]
	if ok && !word.alone && word.entry != nil && own.entry == nil && own.others >= maxRefusals {
		delete(w.wanted, key)
		return false
	}
	return ok
}

// write applies the newest word on an object.
func (w *statusWriter) write(ctx context.Context, api *api, key model.Key) {
	w.mu.Lock()
	word, ok := w.wanted[key]
	if ok && word.entry != nil {
		stamped := *word.entry
		stamped.LastTransitionTime = metav1.Now()
		if was := w.there[key].entry; was != nil && was.Applied == stamped.Applied {
			stamped.LastTransitionTime = was.LastTransitionTime
		}
		word.entry = &stamped
	}
	w.mu.Unlock()
	if !ok {
		return
	}
	err := w.apply(ctx, api, key, word)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		w.queue.Forget(key)
		w.wrote(key, word)
	case apierrors.IsNotFound(err): // the object went, or its definition
		w.queue.Forget(key)
		delete(w.wanted, key)
	default:
		w.logger.Warn("status not written", zap.Stringer("object", key), zap.Error(err))
		w.queue.AddRateLimited(key)
	}
}

// wrote takes note of a success; a word that came meanwhile is in the queue.
func (w *statusWriter) wrote(key model.Key, word word) {
	own := w.there[key]
	own.entry = word.entry
	w.there[key] = own
	if w.wanted[key].entry.same(word.entry) {
		delete(w.wanted, key)
	}
}

// apply is one server-side apply. It is forced: of what carries the node's name nobody else is the master.
func (w *statusWriter) apply(ctx context.Context, api *api, key model.Key, word word) error {
	body, err := json.Marshal(patchOf(key, word))
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
