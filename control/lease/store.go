// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"time"
)

// Option is a setting of Open.
type Option func(*settings)

type settings struct {
	now     func() time.Time
	timeout time.Duration
}

// WithClock has Created come from now; the default is time.Now.
func WithClock(now func() time.Time) Option { return func(s *settings) { s.now = now } }

// WithTimeout bounds the wait for another process that has the file; the default is 5 s.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// Store holds the attachments. Its methods may be called at any time by any goroutine. What they return is the
// caller's own.
type Store struct {
	now    func() time.Time
	writer writer
	view   view
}

// Open opens the store in the file, or makes one. It fails when another process has it, and when the file is damaged
// or of an unknown format: it is then left as it is, since addresses that it says are leased are in use.
func Open(path string, options ...Option) (*Store, error) {
	settings := settings{now: time.Now, timeout: 5 * time.Second}
	for _, option := range options {
		option(&settings)
	}
	d, b, err := openDisk(path, settings.timeout)
	if err != nil {
		return nil, err
	}
	s := &Store{now: settings.now}
	s.writer.disk, s.writer.book, s.writer.publish = d, b, s.view.follow
	s.writer.wake, s.writer.done = make(chan struct{}, 1), make(chan struct{})
	s.view.follow(b, true)
	go s.writer.run()
	return s, nil
}

// Close ends the store, once all that was asked of it is done.
func (s *Store) Close() error {
	s.writer.close()
	return s.writer.disk.Close()
}

// Configure says from which pools addresses are leased, in order, and which parts of them are not to be leased.
// It takes nothing away from attachments that are there. Before the first call there is no pool.
func (s *Store) Configure(pools, excluded []netip.Prefix) {
	// The pools are not on disk: an error is another's, who asked for something at the same time.
	_ = s.writer.do(func(b *book) { b.configure(pools, excluded) })
}

// Add leases addresses for an attachment and returns it as it is on disk, and whether it was made: an attachment that
// is there already and was added in the same words is returned as it is; of one that was added in other words the new
// one takes the place, and keeps its addresses as far as they may still be leased and no others are asked for.
//
// Of each family that has pools it is given one address; of a family of which addresses are asked for, those and no
// others. Of a delegated attachment the asked addresses are all that it has, whatever the pools are.
//
// Errors: ErrNoPools, ErrKey, ErrClosed, *ExhaustedError, *OutsideError, *TakenError (of delegated addresses too),
// *PortTakenError, or one of the disk. Nothing has changed then.
func (s *Store) Add(a Attachment, asked []netip.Addr) (added Attachment, created bool, err error) {
	var e *entry
	now := s.now()
	if failed := s.writer.do(func(b *book) { e, created, err = b.add(a, asked, now) }); failed != nil {
		return Attachment{}, false, failed
	}
	if err != nil {
		return Attachment{}, false, err
	}
	return e.clone(), created, nil
}

// Remove gives back the addresses of the attachments, and returns those that there were.
func (s *Store) Remove(keys ...Key) (removed []Attachment, err error) {
	var entries []*entry
	if err := s.writer.do(func(b *book) { entries = b.remove(keys) }); err != nil {
		return nil, err
	}
	return attachments(entries), nil
}

// Get returns an attachment.
func (s *Store) Get(key Key) (Attachment, bool) { return s.view.get(key) }

// All returns the attachments, ordered by port.
func (s *Store) All() []Attachment { return attachments(s.view.all()) }

// Len is the number of attachments.
func (s *Store) Len() int { return s.view.len() }

// Usage says how much of each pool is leased: the configured ones in order, then retired ones.
func (s *Store) Usage() []Usage { return s.view.usage() }
