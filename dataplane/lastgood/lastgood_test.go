// SPDX-License-Identifier: Apache-2.0

package lastgood

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func snapshot(epoch uint64) *api.Snapshot {
	return &api.Snapshot{Epoch: epoch, Origins: []string{"", "Route default/a"}, Node: &api.NodeSettings{Name: "a"},
		Routes: []*api.Route{{Prefix: []byte{10, 0, 0, 0}, Bits: 8, Group: 1, Origin: 1}}}
}

func open(t *testing.T, dir string) *File {
	t.Helper()
	f, err := Open(dir, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// run runs the file until stop is called, which returns when the last snapshot is written.
func run(t *testing.T, f *File) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func TestSavedIsLoaded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	f := open(t, dir)
	if s := f.Load(); s != nil || f.Status().Trouble != "" || f.Status().Epoch != 0 {
		t.Fatalf("an empty directory has %v, %v", s, f.Status())
	}
	stop := run(t, f)
	for epoch := range uint64(50) {
		f.Save(snapshot(epoch + 1))
	}
	stop()
	if s := f.Status(); s.Epoch != 50 || s.Trouble != "" || s.WrittenUnixNanoseconds == 0 {
		t.Errorf("status %v", s)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if s := again.Load(); !proto.Equal(s, snapshot(50)) {
		t.Errorf("loaded %v", s)
	}
	if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "."+name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was written aside is there: %v", err)
	}
}

func TestDirectoryHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir, zaptest.NewLogger(t)); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("second owner: %v", err)
	}
}

// A write that is cut off at any byte leaves the snapshot before it or the new one, and whatever is found in the
// file's place is recognised.
func TestTornWrites(t *testing.T) {
	whole, err := encode(snapshot(2))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := write(dir, snapshot(1)); err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) { // killed while writing aside
		if err := os.WriteFile(filepath.Join(dir, "."+name), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := read(dir); err != nil || s.GetEpoch() != 1 {
			t.Fatalf("cut off aside at %d: %v, %v", n, s, err)
		}
	}
	if err := write(dir, snapshot(2)); err != nil {
		t.Fatal(err)
	}
	if s, err := read(dir); err != nil || s.GetEpoch() != 2 {
		t.Fatalf("%v, %v", s, err)
	}
	for n := range len(whole) { // a file system that lost the end of the file
		if err := os.WriteFile(filepath.Join(dir, name), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		var damaged *CorruptError
		if s, err := read(dir); !errors.As(err, &damaged) || s != nil {
			t.Fatalf("cut off at %d: %v, %v", n, s, err)
		}
	}
	for i := range whole { // a bit that flipped
		for bit := range 8 {
			bad := append([]byte(nil), whole...)
			bad[i] ^= 1 << bit
			var damaged *CorruptError
			if s, err := decode(bad); !errors.As(err, &damaged) || s != nil {
				t.Fatalf("byte %d bit %d: %v, %v", i, bit, s, err)
			}
		}
	}
}

func TestDamagedIsSetAside(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := f.Load(); s != nil || !strings.Contains(f.Status().Trouble, "set aside") {
			t.Fatalf("loaded %v, trouble %q", s, f.Status().Trouble)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name+".corrupt")); err != nil || string(b) != text {
			t.Errorf("set aside is %q, %v", b, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the damaged file is still there: %v", err)
		}
	}
	stop := run(t, f)
	f.Save(snapshot(3))
	stop()
	if s := f.Load(); s.GetEpoch() != 3 || f.Status().Trouble != "" {
		t.Errorf("%v %v", s, f.Status())
	}
}

func TestStrangeFiles(t *testing.T) {
	for what, make := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a loop":      func(path string) error { return os.Symlink(path, path) },
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		f := open(t, dir)
		if s := f.Load(); s != nil || f.Status().Trouble == "" {
			t.Errorf("%s: %v, %v", what, s, f.Status())
		}
	}
}

// A disk that is full, or no directory at all, is said; what was good on it stays, and it is written once there is
// room.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("viaduct-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	f := open(t, dir)
	if err := write(dir, snapshot(1)); err != nil {
		t.Fatal(err)
	}
	large := snapshot(2)
	large.Origins[1] = strings.Repeat("x", 1<<20)
	stop := run(t, f)
	f.Save(large)
	stop()
	if s := f.Status(); !strings.Contains(s.Trouble, "no space left") {
		t.Errorf("status %v", s)
	}
	if s := f.Load(); s.GetEpoch() != 1 {
		t.Errorf("the last good snapshot is %v", s)
	}
	stop = run(t, f)
	f.Save(snapshot(3))
	stop()
	if s := f.Status(); s.Trouble != "" || s.Epoch != 3 {
		t.Errorf("status %v", s)
	}
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, filepath.Join(file, "state"))
	if f.Status().Trouble == "" || f.Load() != nil {
		t.Error("no trouble with a directory that cannot be")
	}
	stop := run(t, f)
	f.Save(snapshot(1))
	stop()
	if s := f.Status(); !strings.Contains(s.Trouble, "not a directory") {
		t.Errorf("status %v", s)
	}
}

// What is written quickly is written again soon, and what is not takes a small part of the time.
func TestRestAfter(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: 10 * time.Millisecond, time.Millisecond: 20 * time.Millisecond, 10 * time.Millisecond: 200 * time.Millisecond,
		time.Second: 250 * time.Millisecond,
	} {
		if got := restAfter(took); got != want {
			t.Errorf("after %v: %v, want %v", took, got, want)
		}
	}
}

// Nothing that Save gets is lost, however it falls between the writes.
func TestWritesInTheBackground(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	defer run(t, f)()
	f.Save(snapshot(1))
	for f.Status().Epoch != 1 {
		time.Sleep(time.Millisecond)
	}
	f.Save(snapshot(2))
	f.Save(snapshot(3))
	for f.Status().Epoch != 3 {
		time.Sleep(10 * time.Millisecond)
	}
}

// Arbitrary bytes are refused, or a snapshot; what is one is written as it was.
func FuzzDecode(f *testing.F) {
	whole, err := encode(snapshot(7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:headerSize])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealed(b)} {
			s, err := decode(b)
			var damaged *CorruptError
			if err != nil {
				if !errors.As(err, &damaged) {
					t.Fatalf("untyped: %v", err)
				}
				continue
			}
			again, err := encode(s)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := decode(again); err != nil || !proto.Equal(back, s) {
				t.Fatalf("%v became %v, %v", s, back, err)
			}
		}
	})
}

// sealed gives bytes the header that belongs to them, so that fuzzing gets behind the checksum.
func sealed(content []byte) []byte {
	b, _ := encode(&api.Snapshot{})
	b = append(b[:headerSize], content...)
	b[19], b[18], b[17], b[16] = byte(len(content)), byte(len(content)>>8), byte(len(content)>>16), byte(len(content)>>24)
	crc := sum(b)
	b[20], b[21], b[22], b[23] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
	return b
}
