// SPDX-License-Identifier: Apache-2.0

// Package lastgood keeps the last snapshot that was in force on disk, for the dataplane to start from while control is
// away. The file is written aside and renamed, so that a crash leaves the one before it or the whole new one; one that
// is damaged all the same is recognised and set aside.
//
// Files: file.go (the file and its form), saver.go (writing in the background), learned.go (what else was known then).
package lastgood

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
)

// The file is a header and the snapshot as protobuf has it. The header is magic, version, length of what follows it,
// and CRC-32C over version, length and what follows; numbers are big-endian.
const (
	name       = "snapshot.pb"
	magic      = "viaductS"
	version    = 1 // of every form that there is
	headerSize = len(magic) + 4 + 8 + 4
	// MaxSize bounds what is read, in bytes: as much as control may send.
	MaxSize = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CorruptError says that a file is not what was written.
type CorruptError struct{ Reason string }

// Error is the reason.
func (e *CorruptError) Error() string { return e.Reason }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Sprintf(format, args...)} }

// encode returns the bytes of the file.
func encode(s *api.Snapshot) ([]byte, error) {
	b := make([]byte, headerSize, headerSize+proto.Size(s))
	b, err := proto.MarshalOptions{}.MarshalAppend(b, s)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	seal(b, magic)
	return b, nil
}

// seal writes the header of a file, before what it has.
func seal(b []byte, magic string) {
	copy(b, magic)
	binary.BigEndian.PutUint32(b[8:], version)
	binary.BigEndian.PutUint64(b[12:], uint64(len(b)-headerSize))
	binary.BigEndian.PutUint32(b[20:], sum(b))
}

func sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[8:20], castagnoli), castagnoli, b[headerSize:])
}

// unseal returns what is behind the header. Its errors are *CorruptError.
func unseal(b []byte, magic string) ([]byte, error) {
	switch {
	case len(b) < headerSize:
		return nil, corrupt("%d bytes are no header", len(b))
	case string(b[:8]) != magic:
		return nil, corrupt("it does not begin as one of ours does")
	case binary.BigEndian.Uint32(b[8:]) != version:
		return nil, corrupt("its format is version %d, not %d", binary.BigEndian.Uint32(b[8:]), version)
	case binary.BigEndian.Uint64(b[12:]) != uint64(len(b)-headerSize):
		return nil, corrupt("it has %d bytes where its header says %d", len(b)-headerSize, binary.BigEndian.Uint64(b[12:]))
	case binary.BigEndian.Uint32(b[20:]) != sum(b):
		return nil, corrupt("its checksum is wrong")
	}
	return b[headerSize:], nil
}

// decode is the inverse of encode. Its errors are *CorruptError.
func decode(b []byte) (*api.Snapshot, error) {
	b, err := unseal(b, magic)
	if err != nil {
		return nil, err
	}
	s := new(api.Snapshot)
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, corrupt("its content is no snapshot: %v", err)
	}
	if s.Epoch == 0 {
		return nil, corrupt("its snapshot has no epoch")
	}
	return s, nil
}

// read returns the snapshot in the directory, nil when there is none.
func read(dir string) (*api.Snapshot, error) {
	b, err := readFile(filepath.Join(dir, name))
	if b == nil || err != nil {
		return nil, err
	}
	return decode(b)
}

// readFile reads a file of at most MaxSize bytes; nil: there is none.
func readFile(path string) ([]byte, error) {
	// Whatever is in the file's place, opening it does not wait.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, corrupt("it is no regular file")
	case info.Size() > MaxSize:
		return nil, corrupt("%d bytes are more than is ever written", info.Size())
	}
	b, err := io.ReadAll(io.LimitReader(file, MaxSize))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return b, nil
}

// write replaces the snapshot in the directory: it is there wholly, and stays there, once write has returned.
func write(dir string, s *api.Snapshot) error {
	b, err := encode(s)
	if err != nil {
		return err
	}
	if err := replaceFile(dir, name, b, true); err != nil {
		return err
	}
	return syncDirectory(dir)
}

// replaceFile writes a file aside, and puts it in the place of the one before.
func replaceFile(dir, name string, b []byte, sync bool) error {
	aside := filepath.Join(dir, "."+name)
	if err := writeFile(aside, b, sync); err != nil {
		_ = os.Remove(aside) // on a full disk it only takes room
		return err
	}
	return os.Rename(aside, filepath.Join(dir, name))
}

func writeFile(path string, b []byte, sync bool) error {
	_ = os.Remove(path) // of a process that was killed; or whatever it is
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err == nil && sync {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// syncDirectory makes a rename outlive the machine.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// setAside keeps a damaged file for whoever wants to know, in the place of an earlier one.
func setAside(dir string) error {
	return os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+".corrupt"))
}

// lock makes the file of a directory one process's own, until it ends.
func lock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(errInUse, file.Close())
	}
	return file, nil
}

var errInUse = errors.New("in use by another process")
