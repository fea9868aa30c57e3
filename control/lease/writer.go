// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"fmt"
	"sync"
)

// writer is one goroutine that has the book and the file. While it waits for the disk, what is asked gathers, and goes
// to disk together: however many ask, it costs one transaction.
type writer struct {
	disk    disk
	book    *book
	stale   bool                      // the book may say what is not on disk
	publish func(b *book, whole bool) // told what is on disk: what was touched, or that all may be different

	mu      sync.Mutex
	waiting []*request
	closed  bool
	wake    chan struct{} // has room for one
	done    chan struct{}
}

// request is one thing that is asked of the book.
type request struct {
	do   func(*book)
	err  error // of the disk
	done chan struct{}
}

// do has a function look at the book and change it, and returns when what it changed is on disk. After an error
// nothing is.
func (w *writer) do(f func(*book)) error {
	r := &request{do: f, done: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.waiting = append(w.waiting, r)
	w.mu.Unlock()
	w.signal()
	<-r.done
	return r.err
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// close waits until all that was asked is done.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
	<-w.done
}

func (w *writer) run() {
	defer close(w.done)
	for range w.wake {
		w.mu.Lock()
		requests, closed := w.waiting, w.closed
		w.waiting = nil
		w.mu.Unlock()
		err := w.transact(requests)
		for _, r := range requests {
			r.err = err
			close(r.done)
		}
		if closed {
			return
		}
	}
}

// transact does all that is asked and has it on disk, or else has the book say what the disk does.
func (w *writer) transact(requests []*request) error {
	err := w.freshen()
	for _, r := range requests {
		r.do(w.book) // of a stale book too, since it keeps what Configure says
	}
	if err == nil && len(w.book.changes) > 0 {
		if err = w.disk.write(w.book.changes); err != nil {
			w.stale = true
			err = errors.Join(fmt.Errorf("write leases: %w", err), w.freshen())
		}
	}
	if err == nil {
		w.publish(w.book, false)
	}
	w.book.changes, w.book.touched = nil, nil
	return err
}

// freshen replaces a stale book by what the file says.
func (w *writer) freshen() error {
	if !w.stale {
		return nil
	}
	b, err := w.disk.load()
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	b.configure(w.book.prefixes, w.book.excluded)
	w.book, w.stale = b, false
	w.publish(b, true)
	return nil
}
