// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// put makes path a file with the content and the mode: another file of that name is there until this one is whole and
// on disk.
func (o *Options) put(path string, content io.ReadSeeker, mode fs.FileMode) (Step, error) {
	same, err := equal(path, content, mode)
	if err != nil || same {
		return Step{path, Unchanged, ""}, err
	}
	if err := o.crash(Installed, path); err != nil {
		return Step{}, err
	}
	aside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return Step{}, err
	}
	defer func() { _ = os.Remove(aside.Name()) }() // gone by then, but for an error
	_, err = io.Copy(aside, content)
	if err = errors.Join(err, aside.Chmod(mode), aside.Sync(), aside.Close()); err != nil {
		return Step{}, err
	}
	if err := os.Rename(aside.Name(), path); err != nil {
		return Step{}, err
	}
	return Step{path, Installed, ""}, syncDir(path)
}

// equal compares a file with the content, and leaves the content at its start.
func equal(path string, content io.ReadSeeker, mode fs.FileMode) (bool, error) {
	if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
		return false, nil //nolint:nilerr // put says what is wrong, if anything is
	}
	there, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	wanted, err := io.ReadAll(content)
	if err != nil {
		return false, err
	}
	_, err = content.Seek(0, io.SeekStart)
	return bytes.Equal(there, wanted), err
}

func (o *Options) rename(a Action, from, to string) error {
	if err := o.crash(a, from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(to)
}

func (o *Options) remove(path string) (Step, error) {
	if err := o.crash(Removed, path); err != nil {
		return Step{}, err
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Step{path, Absent, ""}, nil
	}
	if err != nil {
		return Step{}, err
	}
	return Step{path, Removed, ""}, syncDir(path)
}

func (o *Options) crash(a Action, path string) error {
	if o.before == nil {
		return nil
	}
	return o.before(a, path)
}

// syncDir makes a change of the name of path outlast a crash of the machine.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // what some file systems cannot
		return err
	}
	return nil
}
