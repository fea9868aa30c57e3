// SPDX-License-Identifier: Apache-2.0

// Package directory is the source that reads a directory of manifests, and its sub-folders, and reads them again
// when they change.
//
// A document that does not decode is refused, and the last good form of its object stays in force for as long as
// something in its file may still mean it: until the file is good again, or gone. Of an object that two documents
// define, the first in order of path and position stays; the other is refused with the name of the first.
package directory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

const (
	// settle is how long changes are let come to rest: tools write many files, or one in many steps.
	settle = 100 * time.Millisecond
	// settleMost bounds the wait while changes go on.
	settleMost = 2 * time.Second
	// rescan finds what notifications miss: file systems that do not give them, an overflow of the kernel's queue.
	rescan = 30 * time.Second
)

// Source reads a directory. Use New.
type Source struct {
	root   string
	reload chan struct{}
	files  map[string]*file            // by path relative to root
	good   map[model.Key]*model.Object // in force
}

// New returns the source for the directory, which must exist by the time of Run.
func New(root string) *Source {
	return &Source{
		root:   filepath.Clean(root),
		reload: make(chan struct{}, 1),
		files:  map[string]*file{},
		good:   map[model.Key]*model.Object{},
	}
}

// Read reads the directory once.
func Read(root string) (source.Event, error) {
	event, _, err := New(root).scan(true)
	return event, err
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
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.root, err)
	}
	defer watcher.Close()
	everything := true
	var last []*model.Error
	for first := true; ; first = false {
		before := s.good
		event, dirs, err := s.scan(everything)
		if err != nil && first {
			return fmt.Errorf("read manifests: %w", err)
		}
		for more := true; err == nil && more; { // what changed before a watch began is found by another look
			if more = watch(watcher, dirs); more {
				event, dirs, err = s.scan(false)
			}
		}
		if err != nil { // the root went away: what was good stays in force
			event = source.Event{State: state(s.good), Errors: []*model.Error{refusal(s.root, err)}}
		}
		if first || !same(before, s.good) || !sameErrors(last, event.Errors) {
			report(event)
		}
		last = event.Errors
		if everything, err = s.wait(ctx, watcher); err != nil {
			return nil
		}
	}
}

// wait returns when it is time to scan again, and whether to read everything; its error is the context's.
func (s *Source) wait(ctx context.Context, watcher *fsnotify.Watcher) (everything bool, err error) {
	idle := time.NewTimer(rescan)
	defer idle.Stop()
	var atMost <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-s.reload:
			return true, nil
		case <-idle.C:
			return false, nil
		case <-atMost:
			return false, nil
		case <-watcher.Errors: //nolint:errcheck // an overflow: something changed, it is not known what
		case <-watcher.Events:
		}
		idle.Reset(settle)
		if atMost == nil {
			atMost = time.After(settleMost)
		}
	}
}

// watch makes the watcher follow the directories, and says whether there are some that it did not follow before. The
// stale ones go first: of a directory that was renamed, both names stand for one watch of the kernel's.
func watch(watcher *fsnotify.Watcher, dirs []string) (more bool) {
	for _, dir := range watcher.WatchList() {
		if !slices.Contains(dirs, dir) {
			_ = watcher.Remove(dir) // an error says that it is gone by itself
		}
	}
	watched := watcher.WatchList()
	for _, dir := range dirs {
		if !slices.Contains(watched, dir) && watcher.Add(dir) == nil {
			more = true // an error: gone again, or out of inotify watches; the rescan sees to it
		}
	}
	return more
}

// scan reads what changed, or everything, and works out what is in force.
func (s *Source) scan(everything bool) (source.Event, []string, error) {
	t, err := walk(s.root)
	if err != nil {
		return source.Event{}, nil, err
	}
	files := make(map[string]*file, len(t.paths))
	for _, path := range t.paths {
		mark, err := stampOf(filepath.Join(s.root, path))
		if err != nil {
			continue // went away since
		}
		f := s.files[path]
		if f == nil || f.stamp != mark || everything {
			f = read(s.root, path)
			f.stamp = mark
		}
		files[path] = f
	}
	s.files = files
	errs := append(t.errs, s.merge(t.paths)...)
	slices.SortStableFunc(errs, func(a, b *model.Error) int {
		if c := strings.Compare(a.Place.File, b.Place.File); c != 0 {
			return c
		}
		return a.Place.Line - b.Place.Line
	})
	return source.Event{State: state(s.good), Errors: errs}, t.dirs, nil
}

// merge puts the files' objects in force, and what stays of refused ones, and returns the refusals.
func (s *Source) merge(paths []string) []*model.Error {
	var errs []*model.Error
	good := make(map[model.Key]*model.Object, len(s.good))
	bad := map[string]map[model.Key]bool{} // per file with refusals: the objects they name
	for _, path := range paths {
		f := s.files[path]
		if f == nil {
			continue
		}
		for _, o := range f.objects {
			if first := good[o.Key]; first != nil {
				errs = append(errs, &model.Error{Place: o.Place, Key: o.Key,
					Reason: fmt.Sprintf("is defined in %s already", first.Place)})
				continue
			}
			good[o.Key] = o
		}
		for _, e := range f.errs {
			errs = append(errs, e)
			if bad[path] == nil {
				bad[path] = map[model.Key]bool{}
			}
			bad[path][e.Key] = true
		}
	}
	for key, o := range s.good {
		names := bad[o.Place.File]
		// A document that does not even say what it is may be any of the file's.
		if good[key] == nil && (names[key] || names[model.Key{}]) {
			good[key] = o
		}
	}
	s.good = good
	return errs
}

func state(good map[model.Key]*model.Object) model.State {
	list := make([]*model.Object, 0, len(good))
	for _, o := range good {
		list = append(list, o)
	}
	return model.NewState(list...)
}

func same(a, b map[model.Key]*model.Object) bool {
	if len(a) != len(b) {
		return false
	}
	for key, o := range a {
		if b[key] != o {
			return false
		}
	}
	return true
}

func sameErrors(a, b []*model.Error) bool {
	return slices.EqualFunc(a, b, func(x, y *model.Error) bool { return *x == *y })
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, errors.New("no inode")
	}
	return stamp{size: info.Size(), mtime: s.Mtim.Nano(), inode: s.Ino, ctime: uint64(s.Ctim.Nano())}, nil
}
