// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// Beside the snapshot is what the dataplane has learned of the network. It is of one boot of the machine, so that it
// need not outlive that: it is written aside and renamed, but not synced.
const (
	learnedName  = "learned.bin"
	learnedMagic = "viaductL"
)

// Source is who has learned something. Its methods are called by one goroutine.
type Source interface {
	// Changes is another number once there is more to write.
	Changes() uint64
	// Learned is all that is to be written; nil: nothing yet.
	Learned() []byte
}

// learnedEvery is how often it is looked whether there is something to write.
const learnedEvery = 50 * time.Millisecond

// LoadLearned returns what SaveLearned has written, nil when there is none that is good.
func (f *File) LoadLearned() []byte {
	path := filepath.Join(f.dir, learnedName)
	b, err := readFile(path)
	if err == nil && b != nil {
		b, err = unseal(b, learnedMagic)
	}
	if err != nil {
		f.log.Warn("what was learned is learned anew", zap.String("file", path), zap.Error(err))
		return nil
	}
	return b
}

// KeepLearned writes what the source has learned, soon after it has changed, until the context ends, and once more
// then.
func (f *File) KeepLearned(ctx context.Context, from Source) {
	var written uint64
	trouble := ""
	for pause := learnedEvery; ; {
		select {
		case <-ctx.Done():
			pause = 0
		case <-time.After(pause):
			pause = learnedEvery
		}
		if changes := from.Changes(); changes != written {
			begin := time.Now()
			err := f.saveLearned(from.Learned())
			switch {
			case err == nil:
				written, trouble = changes, ""
			case err.Error() != trouble:
				trouble = err.Error()
				f.log.Warn("what was learned is not written", zap.Error(err))
			}
			pause = max(pause, min(idleFor*time.Since(begin), again))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (f *File) saveLearned(content []byte) error {
	if content == nil {
		return nil
	}
	b := append(make([]byte, headerSize, headerSize+len(content)), content...)
	seal(b, learnedMagic)
	if len(b) > MaxSize {
		return errors.New("it is more than is ever read")
	}
	if err := os.MkdirAll(f.dir, 0o750); err != nil {
		return err
	}
	return replaceFile(f.dir, learnedName, b, false)
}
