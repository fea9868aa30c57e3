// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// openDisk opens the file, having made it if there is none, and checked it.
func openDisk(path string, timeout time.Duration) (disk, *book, error) {
	if err := create(path); err != nil {
		return disk{}, nil, fmt.Errorf("make leases: %w", err)
	}
	d, err := openFile(path, &bolt.Options{Timeout: timeout, ReadOnly: true, PreLoadFreelist: true})
	if err == nil {
		err = errors.Join(guarded(d.check), d.Close())
	}
	if err != nil {
		return disk{}, nil, explain(path, err)
	}
	d, err = openFile(path, &bolt.Options{Timeout: timeout})
	if err != nil {
		return disk{}, nil, explain(path, err)
	}
	b, err := d.load()
	if err != nil {
		d.Close()
		return disk{}, nil, explain(path, err)
	}
	return d, b, nil
}

// create makes an empty store where there is no file: aside and then linked, so that there is never a part of one, and
// of two that make one at the same time one succeeds and the other finds it made.
func create(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	aside, err := os.MkdirTemp(filepath.Dir(path), ".leases-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside) //nolint:errcheck // what stays is in nobody's way
	file := filepath.Join(aside, "leases.db")
	if err := fill(file); err != nil {
		return err
	}
	if err := os.Link(file, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}

func fill(path string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{entriesBucket, givenBucket, aboutBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(aboutBucket).Put(formatKey, []byte(format))
	})
	return errors.Join(err, db.Close())
}

// openFile opens with bbolt, which panics about some damage, and then would keep the file, and so its lock.
func openFile(path string, options *bolt.Options) (d disk, err error) {
	if about, err := os.Stat(path); err == nil && about.Size() == 0 {
		return d, errors.New("it is empty") // bbolt would take it for one to be made
	}
	var file *os.File
	options.OpenFile = func(name string, flags int, mode os.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flags&^os.O_CREATE, mode)
		return file, err
	}
	err = guarded(func() (err error) {
		d.DB, err = bolt.Open(path, 0o600, options)
		return err
	})
	if err != nil && file != nil {
		file.Close()
	}
	return d, err
}

// check reads the whole file. Only when all was read here, where a fault is caught, does bbolt's own check look, in a
// goroutine of its own, for pages that are of two or of none.
func (d disk) check() error {
	return d.View(func(tx *bolt.Tx) error {
		about, err := os.Stat(d.Path())
		if err != nil {
			return err
		}
		if about.Size() < tx.Size() {
			return fmt.Errorf("it has %d bytes of %d", about.Size(), tx.Size())
		}
		if err := readAll(tx); err != nil {
			return err
		}
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = err
			}
		}
		return first
	})
}

// readAll touches each byte that is in a bucket.
func readAll(tx *bolt.Tx) error {
	sum := crc32.NewIEEE()
	return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
		return bucket.ForEach(func(key, value []byte) error {
			if value == nil {
				return errors.New("it has a bucket within one")
			}
			sum.Write(key)
			sum.Write(value)
			return nil
		})
	})
}

// guarded calls f and makes an error of a panic, and of a fault in mapped memory: a page may name one that is not in
// the file.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	return f()
}

// explain says what to do about a file that does not open.
func explain(path string, err error) error {
	var system *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("leases %s: another process has the file: stop it first", path)
	case errors.As(err, &system):
		return fmt.Errorf("leases: %w", err)
	}
	return fmt.Errorf("leases %s cannot be read: %w: put back a copy of the file, or remove the node's pods and then "+
		"the file, since addresses in use would be leased again", path, err)
}
