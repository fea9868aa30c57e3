// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/viaduct-net/viaduct/control/model"
)

// shelf is the part of the mirror that holds one kind; a reflector fills it. Its fields are under the mirror's lock.
type shelf struct {
	mirror *mirror
	kind   model.Kind
	status *statusWriter // nil for kinds that are not ours

	filled bool                        // listed, or known not to be there
	good   map[model.Key]*model.Object // in force: of a refused object the last good form
	bad    map[model.Key]*model.Error
	woe    string
}

var _ cache.TransformingStore = (*shelf)(nil)

// shelf makes the place for a kind.
func (m *mirror) shelf(kind model.Kind) *shelf {
	s := &shelf{mirror: m, kind: kind, good: map[model.Key]*model.Object{}, bad: map[model.Key]*model.Error{}}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shelves[kind.Name] = s
	return s
}

// item is all that is kept of an object of client-go's.
type item struct {
	key    model.Key
	object *model.Object // nil: refused
	err    *model.Error
	seen   *seen // nil for kinds that are not ours
}

// Transformer implements cache.TransformingStore: of a list that is streamed only items are ever held.
func (s *shelf) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.read(o) }
}

// read makes an item of what the API server sent.
func (s *shelf) read(o any) (*item, error) {
	if i, done := o.(*item); done {
		return i, nil
	}
	meta, ok := o.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("a %T is not an object", o)
	}
	i := &item{key: model.Key{Kind: s.kind.Name, Namespace: meta.GetNamespace(), Name: meta.GetName()}}
	if d, custom := o.(*document); custom {
		i.object, i.err = model.FromServer(d.text)
		if s.status != nil {
			i.seen = s.status.read(s.kind.Name, d)
			if i.object != nil {
				i.object.UID = string(d.UID)
			}
		}
	} else {
		strip(meta)
		i.object, i.err = model.FromTyped(o)
	}
	if i.object == nil && i.err == nil {
		return nil, errors.New("an empty object")
	}
	if i.err != nil {
		i.err.Key = i.key
	}
	return i, nil
}

// strip takes off what changes without a change, or is large and nobody's.
func strip(meta metav1.Object) {
	meta.SetManagedFields(nil)
	meta.SetResourceVersion("")
	meta.SetAnnotations(read(meta.GetAnnotations()))
	meta.SetOwnerReferences(nil)
	meta.SetFinalizers(nil)
}

// Add implements cache.ReflectorStore.
func (s *shelf) Add(o any) error { return s.Update(o) }

// Update implements cache.ReflectorStore.
func (s *shelf) Update(o any) error {
	i, err := s.read(o)
	if err != nil {
		return err
	}
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	s.put(i)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *shelf) Delete(o any) error {
	meta, ok := o.(metav1.Object)
	if !ok {
		return fmt.Errorf("a %T is not an object", o)
	}
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	s.drop(model.Key{Kind: s.kind.Name, Namespace: meta.GetNamespace(), Name: meta.GetName()})
	return nil
}

// Replace implements cache.ReflectorStore: a list is all there is.
func (s *shelf) Replace(list []any, _ string) error {
	items := make(map[model.Key]*item, len(list))
	for _, o := range list {
		i, err := s.read(o)
		if err != nil {
			return err
		}
		items[i.key] = i
	}
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	for key := range s.good {
		if items[key] == nil {
			s.drop(key)
		}
	}
	for key := range s.bad {
		if items[key] == nil {
			s.drop(key)
		}
	}
	for _, i := range items {
		s.put(i)
	}
	s.filled = true
	s.mirror.wake()
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s *shelf) Resync() error { return nil }

// put takes an item in. A heartbeat, a status: what leaves the object the same is no news.
func (s *shelf) put(i *item) {
	m := s.mirror
	changed := s.changed(i)
	if s.status != nil {
		s.status.saw(i, changed)
	}
	if was := s.bad[i.key]; was != nil || i.err != nil {
		if was != nil && i.err != nil && *was == *i.err {
			return
		}
		delete(s.bad, i.key)
		m.said.errs = false
		m.wake()
	}
	if i.err != nil {
		s.bad[i.key] = i.err
		return
	}
	if !changed {
		return
	}
	s.good[i.key] = i.object
	m.set[i.key] = i.object
	delete(m.removed, i.key)
	m.wake()
}

// changed says whether the item is another form than the one that was seen before, or another object of its key.
func (s *shelf) changed(i *item) bool {
	was := s.good[i.key]
	return s.bad[i.key] != nil || i.err != nil || was == nil || was.Generation != i.object.Generation ||
		was.UID != i.object.UID || !was.Same(i.object)
}

// drop takes an object out.
func (s *shelf) drop(key model.Key) {
	m := s.mirror
	if s.status != nil {
		s.status.forget(key)
	}
	if s.bad[key] != nil {
		delete(s.bad, key)
		m.said.errs = false
	}
	if s.good[key] != nil {
		delete(s.good, key)
		delete(m.set, key)
		m.removed[key] = struct{}{}
	}
	m.wake()
}

// trouble takes note of what keeps the kind from being in step; empty when nothing does.
func (s *shelf) trouble(text string) {
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	if s.woe != text {
		s.woe = text
		s.mirror.wake()
	}
}

// absent takes note that the API server does not know the kind, which it need not: others do not wait for it. What it
// held stays in force: objects that are deleted with their definition are deleted one by one before.
func (s *shelf) absent() {
	s.trouble("")
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	if !s.filled {
		s.filled = true
		s.mirror.wake()
	}
}
