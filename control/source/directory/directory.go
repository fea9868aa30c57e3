// SPDX-License-Identifier: Apache-2.0

// Package directory is the source that reads a directory of manifests, and its sub-folders, and reads again what
// changes in them.
//
// A document that does not decode is refused, and the last good form of its object stays in force for as long as
// something in its file may still mean it: until the file is good again, or gone. Of an object that two documents
// define, the first in order of path and position stays; the other is refused with the name of the first.
//
// A directory that goes away as a whole is trouble, and changes nothing; when there is one again, it means what is
// in it.
package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Source reads a directory. Use New.
type Source struct {
	root   string
	reload chan struct{}
	rescan time.Duration // between looks at everything, for what notifications miss
	held   *held
	tree   *tree // of the last look at everything
}

// New returns the source for the directory, which must exist by the time of Run.
func New(root string) *Source {
	return &Source{
		root: filepath.Clean(root), reload: make(chan struct{}, 1), rescan: rescan, held: newHeld(), tree: &tree{},
	}
}

// String implements source.Source.
func (s *Source) String() string { return "dir:" + s.root }

// Read reads the directory once. The objects are ordered by key, the refusals by place.
func Read(root string) (objects []*model.Object, refused []*model.Error, err error) {
	s := New(root)
	if err := s.scan(true); err != nil {
		return nil, nil, err
	}
	return s.held.objects(), s.held.errors(), nil
}

// Reload makes a running source read every file again, changed or not.
func (s *Source) Reload() {
	select {
	case s.reload <- struct{}{}:
	default: // one is pending
	}
}

// Run implements source.Source.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	w, err := newWatch(s.rescan)
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.root, err)
	}
	defer w.Close()
	trouble, err := s.look(w, changes{everything: true})
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	s.held.take()
	last := source.Event{Whole: true, Set: s.held.objects(), Errors: s.held.errors(), Trouble: trouble}
	report(last)
	for {
		what, err := w.wait(ctx, s.reload, s.tree)
		if err != nil {
			return nil
		}
		event := source.Event{Errors: last.Errors}
		if event.Trouble, err = s.look(w, what); err != nil {
			event.Trouble = err.Error()
		} else {
			event.Set, event.Removed = s.held.take()
			event.Errors = s.held.errors()
		}
		if len(event.Set)+len(event.Removed) > 0 || event.Trouble != last.Trouble ||
			!sameErrors(last.Errors, event.Errors) {
			report(event)
		}
		last = event
	}
}

func sameErrors(a, b []*model.Error) bool {
	return slices.EqualFunc(a, b, func(x, y *model.Error) bool { return *x == *y })
}

// look takes in what changed. The error says that the directory is away; trouble, that it is not watched well.
func (s *Source) look(w *watch, what changes) (trouble string, err error) {
	if !what.whole && !what.everything && s.glance(what.files) {
		return w.trouble, nil
	}
	for {
		err := s.scan(what.everything)
		more := w.follow(s.tree)
		if err != nil || !more { // what changed before a watch began is found by another look
			return w.trouble, err
		}
		what.everything = false
	}
}

// scan looks at the whole directory, and reads the files that are not what they were when they were read last, or
// every one.
func (s *Source) scan(everything bool) (err error) {
	for s.tree, err = walk(s.root); errors.Is(err, errReplaced); {
		s.tree, err = walk(s.root)
	}
	if err != nil {
		return reason(s.root, err)
	}
	for path := range s.held.files {
		if _, found := s.tree.marks[path]; !found && !s.tree.blind(path) {
			s.held.put(path, nil)
		}
	}
	var paths []string
	for path, mark := range s.tree.marks {
		if was := s.held.files[path]; everything || was == nil || was.mark != mark {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for i, f := range readAll(s.root, paths) {
		s.held.put(paths[i], f)
	}
	for path, err := range s.tree.refused {
		s.held.put(path, &file{errs: []*model.Error{err}})
	}
	s.held.settle()
	return nil
}

// glance looks at single files, by their real paths. It returns false when what it finds takes a look at the whole.
func (s *Source) glance(files map[string]bool) bool {
	for _, real := range slices.Sorted(maps.Keys(files)) {
		folders := s.tree.folders[filepath.Dir(real)]
		if len(folders) == 0 {
			return false
		}
		for _, folder := range folders {
			path := filepath.Join(folder, filepath.Base(real))
			switch kind := s.tree.kind(path, real); {
			case kind == plain && (s.held.files[path] != nil || len(s.held.files) < maxFiles):
				s.held.put(path, read(s.root, path)) // whatever its mark: clocks of file systems are coarse
			case kind == absent:
				s.held.put(path, nil)
			default:
				return false
			}
		}
	}
	s.held.settle()
	return true
}
