// SPDX-License-Identifier: Apache-2.0

// Package kept is a source over another one, which keeps on disk the last good forms of objects that are refused as
// they are: so that they stay in force over a restart of control. Without it a manifest that was broken a week ago
// would lose its object the day that control is replaced.
//
// Files: kept.go (what is kept and brought back), file.go (how it is written).
package kept

import (
	"context"
	"maps"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Source is a source with a memory. Use New.
type Source struct {
	source.Source
	path string
	log  *zap.Logger

	objects map[model.Key]*model.Object // in force
	back    map[model.Key]*model.Object // those of them that the file brought back, and nobody else speaks for
	saved   []*model.Object             // what the file has
	errors  []*model.Error              // that stood when it was written
}

// New returns a source that keeps its memory in the directory.
func New(s source.Source, dir string, log *zap.Logger) *Source {
	return &Source{
		Source: s, path: filepath.Join(dir, name), log: log,
		objects: map[model.Key]*model.Object{}, back: map[model.Key]*model.Object{},
	}
}

// Run implements source.Source.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	return s.Source.Run(ctx, func(e source.Event) {
		e = s.complete(e)
		s.save(e.Errors)
		report(e)
	})
}

// Publish implements source.Publisher as far as the source does.
func (s *Source) Publish(r source.Report) {
	if p, ok := s.Source.(source.Publisher); ok {
		p.Publish(r)
	}
}

// Reload has the source read everything again, if it can.
func (s *Source) Reload() {
	if r, ok := s.Source.(interface{ Reload() }); ok {
		r.Reload()
	}
}

// complete brings back what is refused and was in force before this process, and lets go of what is no longer refused.
func (s *Source) complete(e source.Event) source.Event {
	if e.Whole {
		clear(s.objects)
		clear(s.back)
	}
	for _, key := range e.Removed {
		delete(s.objects, key)
		delete(s.back, key)
	}
	for _, o := range e.Set {
		s.objects[o.Key] = o
		delete(s.back, o.Key)
	}
	if e.Whole {
		for _, o := range s.load() {
			if s.objects[o.Key] == nil && meant(e.Errors, o) {
				s.log.Warn("refused, and in force as it was before this process", zap.Stringer("object", o.Key))
				e.Set = append(slices.Clip(e.Set), o)
				s.objects[o.Key], s.back[o.Key] = o, o
			}
		}
		return e
	}
	for key, o := range s.back {
		if !meant(e.Errors, o) {
			e.Removed = append(slices.Clip(e.Removed), key)
			delete(s.objects, key)
			delete(s.back, key)
		}
	}
	return e
}

// meant says whether a refusal may be about the object. A document that does not even say what it is may be any of its
// file's.
func meant(errs []*model.Error, o *model.Object) bool {
	return slices.ContainsFunc(errs, func(e *model.Error) bool {
		return e.Key == o.Key || e.Key == model.Key{} && e.Place.File != "" && e.Place.File == o.Place.File
	})
}

// save writes the objects that refusals are about, where these or those have changed.
func (s *Source) save(errs []*model.Error) {
	if slices.EqualFunc(errs, s.errors, func(a, b *model.Error) bool { return *a == *b }) &&
		!slices.ContainsFunc(s.saved, func(o *model.Object) bool { return s.objects[o.Key] != o }) {
		return
	}
	s.errors = errs
	var keep []*model.Object
	whole := slices.ContainsFunc(errs, func(e *model.Error) bool { return e.Key == model.Key{} })
	for _, e := range errs {
		if o := s.objects[e.Key]; o != nil && !whole {
			keep = append(keep, o)
		}
	}
	if whole {
		keep = slices.Collect(maps.Values(s.objects))
		keep = slices.DeleteFunc(keep, func(o *model.Object) bool { return !meant(errs, o) })
	}
	slices.SortFunc(keep, func(a, b *model.Object) int { return a.Key.Compare(b.Key) })
	keep = slices.Compact(keep)
	if slices.Equal(keep, s.saved) {
		return
	}
	if err := write(s.path, keep); err != nil {
		s.log.Error("the good forms of refused objects are not kept: they last as long as this process", zap.Error(err))
		return
	}
	s.saved = keep
}

// load reads what an earlier process kept. A file that is not understood is said and left out.
func (s *Source) load() []*model.Object {
	list, err := read(s.path)
	if err != nil {
		s.log.Error("the good forms of refused objects are lost", zap.Error(err))
	}
	return list
}
