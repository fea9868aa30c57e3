// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/viaduct-net/viaduct/control/model"
)

// Bounds of one directory, so that a wrong path (/, a mail spool) is refused rather than read.
const (
	maxDepth = 16 // sub-folders, symbolic links followed
	maxFiles = 100_000
)

var (
	errDeep     = errors.New("folders within folders, or a symbolic link to a folder above")
	errReplaced = errors.New("was replaced while it was read")
)

// tree is where the manifests below root are. All paths are relative to root but for the real ones, which are absolute
// and without symbolic links.
type tree struct {
	root    string
	marks   map[string]mark         // of the manifest files
	refused map[string]*model.Error // paths that cannot be followed
	folders map[string][]string     // real path → the paths that lead there, root's being "."
	way     map[string]bool         // real paths of entries that decide where root, or a link below it, leads
	inodes  map[string]inode        // of every directory with a folder's or a way's entries, by real path
}

// inode tells a directory from another one of its name.
type inode struct{ device, number uint64 }

// walk finds the manifest files below root. Kubernetes mounts a ConfigMap as symbolic links to ..data/<name>, and
// ..data to a dated directory (pkg/volume/util/atomic_writer.go): links to files and folders are followed, and hidden
// entries, which ..data is one of, skipped in listing only. With an error, the tree has the way to root alone.
func walk(root string) (*tree, error) {
	t := &tree{
		root: root, marks: map[string]mark{}, refused: map[string]*model.Error{},
		folders: map[string][]string{}, way: map[string]bool{}, inodes: map[string]inode{},
	}
	real := t.resolve(".")
	err := t.descend(".", real, nil)
	if err == nil && !t.inPlace(".", real) { // what was not found was not looked for where it is
		err = errReplaced
	}
	if err != nil {
		t.folders = map[string][]string{}
	}
	return t, err
}

// resolve notes the entries that the path goes through, and returns its real path.
func (t *tree) resolve(path string) (real string) {
	real, entries := resolve(filepath.Join(t.root, path))
	for _, entry := range entries {
		t.way[entry] = true
		t.remember(filepath.Dir(entry))
	}
	return real
}

func (t *tree) remember(dir string) {
	if _, ok := t.inodes[dir]; !ok {
		t.inodes[dir], _ = inodeOf(dir) // zero is like no directory's
	}
}

// descend lists a folder; above are the real paths of the folders that it lies in.
func (t *tree) descend(folder, real string, above []string) error {
	if len(above) >= maxDepth || slices.Contains(above, real) {
		return errDeep
	}
	t.remember(real)
	t.folders[real] = append(t.folders[real], folder)
	entries, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	above = append(slices.Clone(above), real)
	for _, entry := range entries {
		if !ignored(entry.Name()) {
			t.add(filepath.Join(folder, entry.Name()), filepath.Join(real, entry.Name()), entry, above)
		}
	}
	return nil
}

func (t *tree) add(path, real string, entry fs.DirEntry, above []string) {
	if !entry.IsDir() && entry.Type() != fs.ModeSymlink && !manifest(entry.Name()) {
		return
	}
	if entry.Type() == fs.ModeSymlink {
		real = t.resolve(path)
	}
	info, err := os.Stat(filepath.Join(t.root, path))
	if err == nil && info.IsDir() {
		err = t.descend(path, real, above)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // went away since, or a dangling link
	case err != nil:
		t.refuse(path, err)
	case info.IsDir(), !manifest(filepath.Base(path)):
	case !info.Mode().IsRegular():
		t.refuse(path, errKind)
	case len(t.marks) >= maxFiles:
		t.refuse(".", fmt.Errorf("more than %d files; %s and others are not read", maxFiles, path))
	default:
		t.marks[path] = markOf(info)
	}
}

func (t *tree) refuse(path string, err error) {
	if t.refused[path] == nil {
		t.refused[path] = reason(path, err)
	}
}

// blind says whether a file may be there all the same: its folder, or one above, cannot be read.
func (t *tree) blind(path string) bool {
	for folder := filepath.Dir(path); folder != "."; folder = filepath.Dir(folder) {
		if t.refused[folder] != nil {
			return true
		}
	}
	return false
}

// kind is what is found at a path.
type kind int

const (
	other  kind = iota // a folder, a link; or nothing where there may be no folder either
	plain              // a regular file
	absent             // nothing in a folder that is where it was
)

func (t *tree) kind(path, real string) kind {
	info, err := os.Lstat(filepath.Join(t.root, path))
	switch {
	case err == nil && info.Mode().IsRegular():
		return plain
	case errors.Is(err, fs.ErrNotExist) && t.inPlace(filepath.Dir(path), filepath.Dir(real)):
		return absent
	}
	return other
}

// inPlace says whether the folder's path leads to the same directory still.
func (t *tree) inPlace(folder, real string) bool {
	found, err := inodeOf(filepath.Join(t.root, folder))
	return err == nil && found == t.inodes[real]
}

func inodeOf(path string) (inode, error) {
	info, err := os.Stat(path)
	if err != nil {
		return inode{}, err
	}
	s := info.Sys().(*syscall.Stat_t)
	return inode{device: s.Dev, number: s.Ino}, nil
}

// maxLinks is the kernel's bound of symbolic links in one path (include/linux/namei.h:MAXSYMLINKS).
const maxLinks = 40

// resolve follows a path from / on. It returns where it leads, and the real paths of all entries that it goes
// through; the last of them may not exist.
func resolve(path string) (real string, entries []string) {
	path, err := filepath.Abs(path)
	if err != nil { // no working directory
		return path, nil
	}
	rest := strings.Split(path, "/")
	real = "/"
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." || name == ".." {
			real = filepath.Join(real, name)
			continue
		}
		entry := filepath.Join(real, name)
		entries = append(entries, entry)
		target, err := os.Readlink(entry)
		switch {
		case err == nil && links < maxLinks:
			links++
			if filepath.IsAbs(target) {
				real = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case errors.Is(err, syscall.EINVAL): // not a link
			real = entry
		default:
			return entry, entries
		}
	}
	return real, entries
}
