// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A change is looked at when changes have come to rest: tools write many files, and one in many steps.
const (
	// quick is for a file that comes with its content: it was renamed into place.
	quick = 2 * time.Millisecond
	// settle is for a file that is being written, since fsnotify does not say when its writer closes it; for one that
	// is gone, as many replace a file by removing it first; and for folders, which are empty when they come.
	settle = 20 * time.Millisecond
	// settleMost bounds the wait while changes go on.
	settleMost = 2 * time.Second
	// rescan finds what notifications miss: file systems that do not give them, mounts.
	rescan = 30 * time.Second
)

// changes is what there is to look at.
type changes struct {
	files      map[string]bool // by real path
	whole      bool            // all files that are not what they were
	everything bool            // all files
}

// watch is told of changes by the kernel.
type watch struct {
	*fsnotify.Watcher
	rescan  time.Duration
	looked  time.Time // when the whole was looked at
	inodes  map[string]inode
	trouble string // empty when all directories are watched
}

func newWatch(rescan time.Duration) (*watch, error) {
	watcher, err := fsnotify.NewWatcher()
	return &watch{Watcher: watcher, rescan: rescan}, err
}

// follow makes the watch one of the tree's directories, and says whether there are some that were not watched
// before. The stale ones go first: of a directory that was renamed, both names stand for one watch of the kernel's.
func (w *watch) follow(t *tree) (more bool) {
	w.looked, w.trouble = time.Now(), ""
	watched := map[string]bool{}
	for _, dir := range w.WatchList() {
		if w.inodes[dir] == t.inodes[dir] && t.inodes[dir] != (inode{}) {
			watched[dir] = true
			continue
		}
		_ = w.Remove(dir) // an error says that it is gone by itself
	}
	for dir := range t.inodes {
		if watched[dir] {
			continue
		}
		err := w.Add(dir)
		switch {
		case err == nil:
			more = true
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.ENOMEM):
			w.trouble = fmt.Sprintf("watch %s: out of inotify watches (sysctl fs.inotify.max_user_watches); "+
				"changes are noticed within %v", dir, w.rescan)
		} // else gone again, or on the way to root and not for us to read; the rescan sees to it
	}
	w.inodes = t.inodes
	return more
}

// wait returns when it is time to look, and at what; its error is the context's.
func (w *watch) wait(ctx context.Context, reload <-chan struct{}, t *tree) (what changes, err error) {
	what.files = map[string]bool{}
	idle := time.NewTimer(time.Until(w.looked.Add(w.rescan)))
	defer idle.Stop()
	rest := time.NewTimer(0)
	rest.Stop()
	var due, latest time.Time
	for {
		var calm time.Duration
		select {
		case <-ctx.Done():
			return what, ctx.Err()
		case <-reload:
			what.everything = true
			return what, nil
		case <-idle.C:
			what.whole = true
			return what, nil
		case now := <-rest.C:
			if !what.unwritten() || !now.Before(latest) {
				return what, nil
			}
			calm = settle
		case <-w.Errors: //nolint:errcheck // an overflow: something changed, it is not known what
			what.whole, calm = true, settle
		case e := <-w.Events:
			calm = what.note(t, e)
		}
		if calm == 0 {
			continue
		}
		now := time.Now()
		if latest.IsZero() {
			latest = now.Add(settleMost)
		}
		if at := now.Add(calm); at.After(due) {
			due = at
		}
		if due.After(latest) {
			due = latest
		}
		rest.Reset(time.Until(due))
	}
}

// note adds what an event tells, and returns how long changes have to rest before a look at it; 0 when it tells
// nothing.
func (c *changes) note(t *tree, e fsnotify.Event) time.Duration {
	path := filepath.Clean(e.Name)
	dir, name := filepath.Dir(path), filepath.Base(path)
	switch {
	case t.way[path]:
		c.whole = true
		return settle
	case t.folders[dir] == nil || ignored(name):
		return 0
	case manifest(name) && t.folders[path] == nil:
		c.files[path] = true
		if e.Op == fsnotify.Create {
			return quick
		}
		return settle
	}
	if info, err := os.Stat(path); t.folders[path] != nil || err == nil && info.IsDir() {
		c.whole = true
		return settle
	}
	return 0 // no manifest
}

// unwritten says whether there is a file that somebody has opened, most likely, to write to it: it is empty.
func (c *changes) unwritten() bool {
	for path := range c.files {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return true
		}
	}
	return false
}
