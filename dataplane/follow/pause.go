// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// The pauses between attempts grow from the first to the longest, each with a fifth of chance in it.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
)

// pause is the time between two attempts. It ends early when the socket appears.
type pause struct {
	next    time.Duration
	path    string
	watcher *fsnotify.Watcher // nil where the directory cannot be watched
}

func newPause(path string, log *zap.Logger) *pause {
	p := &pause{next: firstPause, path: filepath.Clean(path)}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Debug("watching for control's socket", zap.Error(err))
		return p
	}
	if err := watcher.Add(filepath.Dir(p.path)); err != nil {
		log.Debug("watching for control's socket", zap.Error(err))
		_ = watcher.Close()
		return p
	}
	p.watcher = watcher
	return p
}

func (p *pause) close() {
	if p.watcher != nil {
		_ = p.watcher.Close()
	}
}

func (p *pause) reset() { p.next = firstPause }

func (p *pause) wait(ctx context.Context) {
	timer := time.NewTimer(p.next - p.next/5 + rand.N(2*p.next/5)) //nolint:gosec // spreads attempts, no secret
	defer timer.Stop()
	p.next = min(2*p.next, longestPause)
	var events chan fsnotify.Event
	var faults chan error
	if p.watcher != nil {
		events, faults = p.watcher.Events, p.watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case _, open := <-faults: // too many events at once, say: the timer is there as well
			if !open {
				faults = nil
			}
		case e, open := <-events:
			if !open {
				events = nil
			} else if e.Has(fsnotify.Create) && filepath.Clean(e.Name) == p.path {
				p.reset()
				return
			}
		}
	}
}
