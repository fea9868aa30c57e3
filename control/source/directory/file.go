// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/model"
)

// maxFile is the size of the largest file that is read, in bytes.
const maxFile = 64 << 20

// tick is more than a step of a file system's clock (a jiffy, 10 ms at HZ=100; fs/inode.c:current_time): what is
// written to a file within one step of its last change may leave its times as they were.
const tick = 20 * time.Millisecond

var (
	errKind  = errors.New("not a regular file")
	errLarge = fmt.Errorf("larger than %d bytes", maxFile)
)

// mark changes whenever a file's content is replaced.
type mark struct {
	device, inode uint64
	size          int64
	mtime, ctime  int64 // nanoseconds
}

func markOf(info fs.FileInfo) mark {
	s := info.Sys().(*syscall.Stat_t)
	return mark{device: s.Dev, inode: s.Ino, size: s.Size, mtime: s.Mtim.Nano(), ctime: s.Ctim.Nano()}
}

// settled says whether a later change of the file changes its mark too.
func (m mark) settled(at time.Time) bool { return at.Sub(time.Unix(0, m.ctime)) > tick }

// read decodes the file at the path relative to root. One that was there a moment ago may be anything by now.
func read(root, path string) *file {
	begun := time.Now()
	data, info, err := load(filepath.Join(root, path))
	if err != nil {
		return &file{errs: []*model.Error{reason(path, err)}}
	}
	f := &file{}
	if f.mark = markOf(info); !f.mark.settled(begun) {
		f.mark = mark{} // to be read again at the next look
	}
	f.objects, f.errs = model.Decode(path, data)
	return f
}

// readAll reads files on all CPUs, and returns what they hold in the same order.
func readAll(root string, paths []string) []*file {
	files := make([]*file, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			files[i] = read(root, path)
			return nil
		})
	}
	_ = group.Wait() // a file's error is in what it holds
	return files
}

func load(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // does not wait for a FIFO's writer
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, errKind
	case info.Size() > maxFile:
		return nil, nil, errLarge
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile { // it grows
		err = errLarge
	}
	return data, info, err
}

// reason is the refusal of a path as a whole.
func reason(path string, err error) *model.Error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return model.NewError(model.Place{File: path}, model.Key{}, "", err.Error())
}

// ignored says whether a name is hidden or an editor's temporary: .x, .x.swp, #x#, x~.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~")
}

// manifest says whether a name is that of a manifest.
func manifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !ignored(name)
	}
	return false
}
