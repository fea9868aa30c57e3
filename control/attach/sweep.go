// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/lease"
)

// Sweep is how attachments are found that nobody removed: their devices are gone, with their namespaces, or with all
// that there was before the machine started anew.
type Sweep struct {
	Links *Links
	Every time.Duration // between two looks where nothing is heard; 0: SweepEvery
	Grace time.Duration // a device may be missing for that long; 0: SweepGrace
}

// What holds where nothing else is said. A device that is deleted is missed at once, as a rule by somebody who removes
// its attachment next.
const (
	SweepEvery = 30 * time.Second
	SweepGrace = 5 * time.Second
)

// sweeper knows which devices are missed, and since when.
type sweeper struct {
	*Service
	Sweep
	missed map[lease.Key]missed
}

type missed struct {
	created time.Time // tells the attachment from a later one of its key
	since   time.Time
}

// Sweep removes attachments without a device until the context ends.
func (s *Service) Sweep(ctx context.Context, how Sweep) error {
	if how.Every == 0 {
		how.Every = SweepEvery
	}
	if how.Grace == 0 {
		how.Grace = SweepGrace
	}
	heard, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		s.listen(ctx, how, heard)
	}()
	defer func() { <-ended }()
	w := &sweeper{s, how, map[lease.Key]missed{}}
	for {
		timer := time.NewTimer(w.sweep())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-heard: // many go at once; none is removed before its grace is over
			select {
			case <-ctx.Done():
			case <-time.After(how.Grace / 5):
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// listen has heard filled when a device vanishes. What it misses the next look finds.
func (s *Service) listen(ctx context.Context, how Sweep, heard chan<- struct{}) {
	for ctx.Err() == nil {
		err := how.Links.Watch(ctx, func() { alert(heard) })
		if err != nil {
			alert(heard)
			s.log.Warn("devices are looked at from time to time only", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(how.Every):
			}
		}
	}
}

func alert(heard chan<- struct{}) {
	select {
	case heard <- struct{}{}:
	default: // one is pending
	}
}

// sweep looks once, and returns when to look again.
func (w *sweeper) sweep() (after time.Duration) {
	devices, err := w.Links.Devices()
	if err != nil {
		w.log.Warn("attachments without a device stay", zap.Error(err))
		return w.Every
	}
	now, after := time.Now(), w.Every
	missing := map[lease.Key]missed{}
	var due []lease.Attachment
	for _, a := range w.store.All() {
		if devices[a.Device] {
			continue
		}
		m, known := w.missed[a.Key]
		if !known || !m.created.Equal(a.Created) {
			m = missed{a.Created, now}
		}
		missing[a.Key] = m
		if left := w.Grace - now.Sub(m.since); left > 0 {
			after = min(after, left)
		} else {
			due = append(due, a)
		}
	}
	w.missed = missing // what is removed is not looked at again
	w.take(due)
	return after
}

// take removes attachments, but for those that are being worked on: an Add makes its device's attachment, or fails.
func (w *sweeper) take(due []lease.Attachment) {
	var keys []lease.Key
	for _, a := range due {
		unlock := w.keys.try(a.Key)
		if unlock == nil {
			continue
		}
		defer unlock()
		if is, there := w.store.Get(a.Key); there && is.Created.Equal(a.Created) {
			keys = append(keys, a.Key)
		}
	}
	if _, err := w.remove("removed: its device is gone", keys...); err != nil {
		w.log.Error("attachments without devices stay", zap.Int("attachments", len(keys)), zap.Error(err))
	}
}
