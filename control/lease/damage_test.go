// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/testenv"
)

// sample is a file with a few hundred attachments.
func sample(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leases.db")
	s := open(t, path)
	s.Configure(prefixes("10.0.0.0/16", "fd00::/64"), nil)
	parallel(300, 100, func(i int) { add(t, s, i) })
	parallel(100, 100, func(i int) { remove(t, s, i) })
	s.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// refused wants a file not to open, to stay as it is, and the error to say what to do.
func refused(t *testing.T, path string, words ...string) {
	t.Helper()
	before, _ := os.ReadFile(path)
	s, err := Open(path, WithTimeout(100*time.Millisecond))
	if err == nil {
		s.Close()
		t.Fatal("it opens")
	}
	for _, word := range append(words, path) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q lacks %q", err, word)
		}
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file has changed")
	}
}

// TestTorn cuts the file off.
func TestTorn(t *testing.T) {
	data := sample(t)
	path := filepath.Join(t.TempDir(), "leases.db")
	for _, size := range []int{0, 1, 4095, 4096, 8192, 12288, 16384, 20000, len(data) / 2} {
		if err := os.WriteFile(path, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "remove the node's pods")
	}
}

// TestDamaged overwrites random parts of the file. It is refused, or what was overwritten said nothing. The two pages
// that name the file's root are left out: where one is damaged, the other is that of the transaction before.
func TestDamaged(t *testing.T) {
	data := sample(t)
	path := filepath.Join(t.TempDir(), "leases.db")
	os.WriteFile(path, data, 0o600)
	s := open(t, path)
	want := s.All()
	s.Close()
	random := rand.New(rand.NewPCG(1, 2))
	refusals := 0
	for range 300 {
		damaged := bytes.Clone(data)
		at := 2*os.Getpagesize() + random.IntN(len(data)-2*os.Getpagesize()-64)
		for i := range 1 + random.IntN(64) {
			damaged[at+i] = byte(random.Uint32())
		}
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, WithTimeout(100*time.Millisecond))
		if err != nil {
			refusals++
			continue
		}
		if got := s.All(); cmp.Diff(want, got, sameAddr) != "" {
			t.Errorf("damage at %d is not seen", at)
		}
		s.Close()
	}
	t.Logf("%d of 300 were refused", refusals)
}

func TestNotOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	os.WriteFile(path, bytes.Repeat([]byte("not a database\n"), 5000), 0o600)
	refused(t, path, "invalid database")
	tests := []struct{ bucket, key, value, want string }{
		{"about", "format", "2", `format is "2"`},
		{"entries", "n\x00c\x00i", `{"version": 3}`, "version 3"},
		{"entries", "n\x00c\x00i", `{`, "unexpected EOF"},
		{"entries", "n\x00d\x00i", `{"version":1,"network":"n","container":"c","interface":"i","port":"p"}`, "n/c/i"},
		{"given", "12345678", "10.0.0.256", "10.0.0.256"},
		{"given", "1", "10.0.0.1", "10.0.0.1"},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases.db")
			open(t, path).Close()
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			db.Update(func(tx *bolt.Tx) error {
				key, value := []byte(test.key), []byte(test.value)
				if test.bucket != "about" {
					value = seal(key, value)
				}
				return tx.Bucket([]byte(test.bucket)).Put(key, value)
			})
			db.Close()
			refused(t, path, test.want)
		})
	}
	empty := filepath.Join(t.TempDir(), "leases.db")
	db, err := bolt.Open(empty, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	refused(t, empty, "no leases")
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	open(t, path)
	refused(t, path, "another process")
}

// TestPlaces has no file where there cannot be one.
func TestPlaces(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/proc/nothing/leases.db", filepath.Join(t.TempDir(), "no", "leases.db")} {
		if s, err := Open(path); err == nil {
			s.Close()
			t.Errorf("%s opens", path)
		}
	}
}

// mount has a small file system of its own at a new directory.
func mount(t *testing.T, options string) string {
	t.Helper()
	testenv.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("lease-test", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestReadOnly(t *testing.T) {
	dir := mount(t, "size=1m")
	path := filepath.Join(dir, "leases.db")
	remount := func(flags uintptr) {
		if err := unix.Mount("lease-test", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	if _, err := Open(path); !errors.Is(err, unix.EROFS) {
		t.Errorf("without a file: %v", err)
	}
	remount(0)
	open(t, path).Close()
	remount(unix.MS_RDONLY)
	if _, err := Open(path); !errors.Is(err, unix.EROFS) {
		t.Errorf("with one: %v", err)
	}
}

// TestDiskFull has Add fail while there is no room, and nothing change, and go on when there is.
func TestDiskFull(t *testing.T) {
	dir := mount(t, "size=256k")
	path := filepath.Join(dir, "leases.db")
	s := open(t, path)
	pools := prefixes("10.0.0.0/16", "fd00::/64")
	s.Configure(pools, nil)
	add(t, s, 0)
	ballast := filepath.Join(dir, "ballast")
	for round := range 3 {
		os.WriteFile(ballast, make([]byte, 256<<10), 0o600) // takes what there is
		added := s.Len()
		var err error
		for err == nil {
			if _, _, err = s.Add(pod(added), nil); err == nil {
				added++
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("round %d: %v", round, err)
		}
		s.Configure(pools, prefixes("10.0.9.0/24")) // not disturbed by it
		if _, ok := s.Get(key(added)); ok || s.Len() != added || len(distinct(t, s)) != 2*added {
			t.Errorf("round %d: %d attachments, want %d", round, s.Len(), added)
		}
		if _, err := s.Remove(key(0)); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("round %d: %v", round, err)
		}
		os.Remove(ballast)
		add(t, s, 0)
		add(t, s, added)
		nothingTwice(t, s, path)
	}
}

// nothingTwice compares with a copy of the file, opened as after a crash.
func nothingTwice(t *testing.T, s *Store, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "copy.db")
	os.WriteFile(other, data, 0o600)
	copied := open(t, other)
	if copied.Len() != s.Len() || len(distinct(t, copied)) != 2*s.Len() {
		t.Errorf("%d attachments in the file, want %d", copied.Len(), s.Len())
	}
	copied.Close()
}
