// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/model"
)

// Bounds of one directory, so that a wrong path (/, a mail spool) is refused rather than read.
const (
	maxFile  = 64 << 20 // bytes
	maxDepth = 16       // sub-folders, symbolic links followed
	maxFiles = 100_000
)

// file is one manifest file as it was read.
type file struct {
	stamp   stamp
	objects []*model.Object
	errs    []*model.Error
}

// stamp changes whenever a file's content is replaced.
type stamp struct {
	size, mtime  int64
	inode, ctime uint64
}

// tree is what one scan found.
type tree struct {
	root  string
	paths []string // files, relative to root, sorted
	dirs  []string // real paths of the folders, root among them: one inode has one inotify watch
	errs  []*model.Error
}

// walk lists manifest files below root. Kubernetes mounts a ConfigMap as symbolic links to ..data/<name>, and ..data
// to a dated directory: links to files and folders are followed, and hidden entries, which ..data is one of, skipped
// in listing only.
func walk(root string) (*tree, error) {
	if _, err := os.ReadDir(root); err != nil {
		return nil, err
	}
	t := &tree{root: root}
	t.descend("", nil)
	slices.Sort(t.paths)
	return t, nil
}

// descend adds the folder at the relative path; above are the real paths of the folders that it lies in.
func (t *tree) descend(relative string, above []string) {
	path := filepath.Join(t.root, relative)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.refuse(relative, err)
		return
	}
	if len(above) >= maxDepth || slices.Contains(above, real) {
		t.refuse(relative, errors.New("folders within folders, or a symbolic link to a folder above"))
		return
	}
	if !slices.Contains(t.dirs, real) {
		t.dirs = append(t.dirs, real)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.refuse(relative, err)
		return
	}
	for _, entry := range entries {
		if !ignored(entry.Name()) {
			t.add(filepath.Join(relative, entry.Name()), append(slices.Clone(above), real))
		}
	}
}

func (t *tree) add(relative string, above []string) {
	info, err := os.Stat(filepath.Join(t.root, relative))
	switch {
	case errors.Is(err, fs.ErrNotExist): // went away since, or a dangling link
	case err != nil:
		t.refuse(relative, err)
	case info.IsDir():
		t.descend(relative, above)
	case info.Mode().IsRegular() && manifest(relative):
		if len(t.paths) < maxFiles {
			t.paths = append(t.paths, relative)
			return
		}
		t.refuse(relative, fmt.Errorf("more than %d files", maxFiles))
	}
}

func (t *tree) refuse(relative string, err error) {
	t.errs = append(t.errs, refusal(relative, err))
}

func refusal(relative string, err error) *model.Error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return &model.Error{Place: model.Place{File: relative}, Reason: err.Error()}
}

// ignored says whether a name is hidden or an editor's temporary: .x, .x.swp, #x#, x~.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~")
}

func manifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// read decodes one file.
func read(root, relative string) *file {
	f, err := os.Open(filepath.Join(root, relative))
	if err != nil {
		return &file{errs: []*model.Error{refusal(relative, err)}}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return &file{errs: []*model.Error{refusal(relative, err)}}
	}
	objects, errs := model.Decode(relative, data)
	return &file{objects: objects, errs: errs}
}
