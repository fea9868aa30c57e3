// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLeftovers: a directory goes once its demo is dead, and no other does.
func TestLeftovers(t *testing.T) {
	in := t.TempDir()
	t.Setenv("TMPDIR", in)
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dead, lock, err := claimDirectory()
	ok(err)
	ok(os.WriteFile(filepath.Join(dead, "manifest"), nil, 0o600))
	starting, foreign := filepath.Join(in, "viaduct-demo-starting"), filepath.Join(in, "viaduct-other")
	for _, directory := range []string{starting, foreign} {
		ok(os.Mkdir(directory, 0o700))
	}
	link := filepath.Join(in, "viaduct-demo-link")
	target := t.TempDir()
	ok(os.WriteFile(filepath.Join(target, lockName), nil, 0o600))
	ok(os.Symlink(target, link))

	living, other, err := claimDirectory()
	ok(err)
	for _, path := range []string{dead, starting, foreign, link, living} {
		if !exists(path) {
			t.Errorf("%s was removed while the first demo lives", path)
		}
	}
	ok(lock.Close()) // as the kernel does when it is killed
	removeLeftovers(in)
	if exists(dead) {
		t.Error("what the dead demo left is there still")
	}
	for _, path := range []string{starting, foreign, link, living, filepath.Join(target, lockName)} {
		if !exists(path) {
			t.Errorf("%s was removed", path)
		}
	}
	ok(other.Close())
}
