// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// scholar learns.
type scholar struct {
	changes atomic.Uint64
	content atomic.Value
}

func (s *scholar) learn(text string) {
	s.content.Store([]byte(text))
	s.changes.Add(1)
}

func (s *scholar) Changes() uint64 { return s.changes.Load() }

func (s *scholar) Learned() []byte {
	b, _ := s.content.Load().([]byte)
	return b
}

func opened(t *testing.T, dir string) *File {
	t.Helper()
	f, err := Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// What was learned is in the file a moment later, and what is learned last once it is over, also in a directory that
// vanished meanwhile.
func TestKeepLearned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	f, s := opened(t, dir), &scholar{}
	if f.LoadLearned() != nil {
		t.Error("something was learned already")
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.KeepLearned(ctx, s); close(done) }()
	is := func(want string) {
		t.Helper()
		for range 500 {
			if string(f.LoadLearned()) == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%q is in the file, not %q", f.LoadLearned(), want)
	}
	s.changes.Add(1) // to nothing
	s.learn("one")
	is("one")
	s.learn("two")
	is("two")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.learn("three")
	is("three")
	s.learn("four")
	stop()
	<-done
	if string(f.LoadLearned()) != "four" {
		t.Errorf("%q is in the file", f.LoadLearned())
	}
}

// A file that is not what was written says nothing, whatever it is.
func TestDamagedLearned(t *testing.T) {
	f := opened(t, t.TempDir())
	path := filepath.Join(f.dir, learnedName)
	if err := f.saveLearned([]byte("something")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil || string(f.LoadLearned()) != "something" {
		t.Fatalf("%q, %v", f.LoadLearned(), err)
	}
	for n := range whole {
		for _, bad := range [][]byte{whole[:n], flip(whole, n)} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if b := f.LoadLearned(); b != nil {
				t.Fatalf("%q was read of a file that is damaged at %d", b, n)
			}
		}
	}
	snapshot, err := encode(snapshot(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, snapshot, 0o600); err != nil || f.LoadLearned() != nil {
		t.Errorf("a snapshot was read for it, %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil || f.LoadLearned() != nil {
		t.Errorf("a directory was read for it, %v", err)
	}
}

func flip(b []byte, at int) []byte {
	b = append([]byte(nil), b...)
	b[at] ^= 4
	return b
}
