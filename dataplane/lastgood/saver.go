// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
)

const (
	// idleFor is how many times as long as a write took the next one waits, soonest and between the least and the most of
	// it: what changes meanwhile goes into the second. So what is small is on disk a moment after it changed, and what is
	// large takes a twentieth of a CPU and of the disk.
	idleFor = 20
	soonest = 10 * time.Millisecond
	between = 250 * time.Millisecond
	// again is how long after a write that failed the next one is tried.
	again = 5 * time.Second
)

// File is the snapshot on disk. Save never waits for the disk; Run writes.
type File struct {
	dir    string
	log    *zap.Logger
	lock   *os.File
	wanted chan struct{}

	mu      sync.Mutex
	next    *api.Snapshot // to be written; nil when the file has what is in force
	epoch   uint64
	written time.Time
	trouble string
}

// Open returns the file in a directory, which is made where it does not exist. It fails only when another process has
// the directory: whatever else is wrong is trouble, which Status says, and no reason not to forward.
func Open(dir string, log *zap.Logger) (*File, error) {
	f := &File{dir: dir, log: log, wanted: make(chan struct{}, 1)}
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		f.lock, err = lock(dir)
	}
	if errors.Is(err, errInUse) {
		return nil, fmt.Errorf("%s is in use by another dataplane; stop it or give another --state directory", dir)
	}
	if err != nil {
		f.fault(err)
	}
	return f, nil
}

// Close lets another process have the directory.
func (f *File) Close() error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Close()
}

// Load returns the snapshot in the file, nil when there is none that is good. A damaged file is set aside.
func (f *File) Load() *api.Snapshot {
	s, err := read(f.dir)
	if err != nil {
		var damaged *CorruptError
		if errors.As(err, &damaged) {
			err = errors.Join(fmt.Errorf("the last good snapshot was damaged, and is set aside: %w", err), setAside(f.dir))
		}
		f.fault(err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = s.GetEpoch()
	return s
}

// Save has a snapshot written, which must not change any more.
func (f *File) Save(s *api.Snapshot) {
	f.mu.Lock()
	f.next = s
	f.mu.Unlock()
	f.want()
}

// Run writes what Save is given until the context ends, and once more then.
func (f *File) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			f.write()
			return nil
		case <-f.wanted:
		}
		begin := time.Now()
		pause := again
		if f.write() {
			pause = restAfter(time.Since(begin))
		} else {
			f.want()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// restAfter is how long after a write that took a time the next one waits.
func restAfter(took time.Duration) time.Duration { return min(max(idleFor*took, soonest), between) }

func (f *File) want() {
	select {
	case f.wanted <- struct{}{}:
	default:
	}
}

// write writes what is to be written, if anything is, and returns whether the file has it.
func (f *File) write() bool {
	f.mu.Lock()
	s := f.next
	f.mu.Unlock()
	if s == nil {
		return true
	}
	if err := f.replace(s); err != nil {
		f.fault(fmt.Errorf("the last good snapshot is not written: %w", err))
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == s {
		f.next = nil
	}
	f.epoch, f.written, f.trouble = s.GetEpoch(), time.Now(), ""
	return true
}

// replace writes, in a directory that may have been removed, or could not be made before.
func (f *File) replace(s *api.Snapshot) error {
	if err := os.MkdirAll(f.dir, 0o750); err != nil {
		return err
	}
	return write(f.dir, s)
}

func (f *File) fault(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trouble != err.Error() {
		f.log.Warn("state file", zap.String("directory", f.dir), zap.Error(err))
	}
	f.trouble = err.Error()
}

// Status says how the file is.
func (f *File) Status() *dataplaneapi.StateFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &dataplaneapi.StateFile{Path: filepath.Join(f.dir, name), Epoch: f.epoch, Trouble: f.trouble}
	if !f.written.IsZero() {
		s.WrittenUnixNanoseconds = f.written.UnixNano()
	}
	return s
}
