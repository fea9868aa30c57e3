// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A demo that was killed leaves its directory: namespaces, devices and programs end with their processes. Each holds a
// lock in its own for as long as it lives, so that another tells who is dead.
const (
	directoryPattern = "viaduct-demo-*"
	lockName         = "lock"
)

// claimDirectory makes a directory of this demo's own, and removes those of demos that are dead. The lock has to be
// kept open until the directory is removed.
func claimDirectory() (directory string, lock *os.File, err error) {
	removeLeftovers(os.TempDir())
	if directory, err = os.MkdirTemp("", directoryPattern); err != nil {
		return "", nil, fmt.Errorf("make directory: %w", err)
	}
	// Locked before it has its name, so that nobody finds it without a lock.
	lock, err = os.CreateTemp(directory, lockName)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(lock.Name(), filepath.Join(directory, lockName))
	}
	if err != nil {
		if lock != nil {
			_ = lock.Close()
		}
		return "", nil, errors.Join(fmt.Errorf("lock directory: %w", err), os.RemoveAll(directory))
	}
	return directory, lock, nil
}

// removeLeftovers removes what dead demos of this user have left in a directory. What has no lock may be of one that is
// just starting, and stays.
func removeLeftovers(in string) {
	found, _ := filepath.Glob(filepath.Join(in, directoryPattern)) // the pattern is ours, and good
	for _, directory := range found {
		if mine(directory) && isDead(directory) {
			_ = os.RemoveAll(directory) // the next one tries again
		}
	}
}

// mine says whether it is a directory of this user's, and no link to one.
func mine(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeDir {
		return false
	}
	stat, is := info.Sys().(*syscall.Stat_t)
	return is && int(stat.Uid) == os.Geteuid()
}

// isDead says whether nobody holds the directory's lock.
func isDead(directory string) bool {
	fd, err := unix.Open(filepath.Join(directory, lockName), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil
}
