// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/source"
)

// TestHabits: how programs change a file. None of them shows as a removal or a refusal.
func TestHabits(t *testing.T) {
	text := blackhole("a", "11.0.0.0/8")
	shell := func(t *testing.T, dir, script string) {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	}
	habits := map[string]func(t *testing.T, dir string){
		"rename": func(t *testing.T, dir string) { place(t, dir+"/a.yaml", text) },
		"write":  func(t *testing.T, dir string) { write(t, dir+"/a.yaml", text) },
		"sed -i": func(t *testing.T, dir string) { shell(t, dir, `sed -i s/10.0.0.0/11.0.0.0/ a.yaml`) },
		"cp": func(t *testing.T, dir string) {
			write(t, dir+"/template", text)
			shell(t, dir, `cp template a.yaml`)
		},
		"vim": func(t *testing.T, dir string) { // backupcopy=no: may the folder be written to, a backup, a new file
			write(t, dir+"/.a.yaml.swp", "b0VIM 9.0")
			write(t, dir+"/4913", "")
			remove(t, dir+"/4913")
			rename(t, dir+"/a.yaml", dir+"/a.yaml~")
			write(t, dir+"/a.yaml", text)
			remove(t, dir+"/a.yaml~")
			remove(t, dir+"/.a.yaml.swp")
		},
		"emacs": func(t *testing.T, dir string) {
			link(t, "me@here.1:2", dir+"/.#a.yaml")
			write(t, dir+"/#a.yaml#", "bad: [")
			remove(t, dir+"/a.yaml~")
			shell(t, dir, `ln a.yaml a.yaml~`)
			place(t, dir+"/a.yaml", text)
			remove(t, dir+"/#a.yaml#")
			remove(t, dir+"/.#a.yaml")
		},
		"git": func(t *testing.T, dir string) { // checkout removes before it writes
			remove(t, dir+"/a.yaml")
			write(t, dir+"/a.yaml", text)
		},
		"torn": func(t *testing.T, dir string) { // emptied at once, written later, in parts
			f, err := os.Create(dir + "/a.yaml")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for part := range strings.Lines(text) {
				if _, err := f.WriteString(part); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
	for name, change := range habits {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/a.yaml", blackhole("a", "10.0.0.0/8"))
			f := follow(t, New(dir))
			f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8")
			change(t, dir)
			f.expect(t, "Route a (a.yaml:2) 11.0.0.0/8")
		})
	}
}

// TestUnwritten: a file that was emptied to be written to is not taken for one that says nothing.
func TestUnwritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, "")
	what := changes{files: map[string]bool{path: true, filepath.Join(dir, "gone.yaml"): true}}
	if !what.unwritten() {
		t.Error("an empty file is taken for a written one")
	}
	write(t, path, "# nothing\n")
	if what.unwritten() {
		t.Error("a written file is waited for")
	}
}

// TestStrange: what is no file is refused by name and never waited for.
func TestStrange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", blackhole("a", "10.0.0.0/8"))
	f := follow(t, New(dir))
	const good = "Route a (a.yaml:2) 10.0.0.0/8"
	f.expect(t, good)
	if err := unix.Mkfifo(dir+"/fifo.yaml", 0o600); err != nil {
		t.Fatal(err)
	}
	f.expect(t, good, "error fifo.yaml: not a regular file")
	link(t, "/dev/zero", dir+"/device.json")
	f.expect(t, good, "error device.json: not a regular file", "error fifo.yaml: not a regular file")
	listener, err := net.Listen("unix", dir+"/s.yml")
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, good, "error device.json: not a regular file", "error fifo.yaml: not a regular file",
		"error s.yml: not a regular file")
	listener.Close()
	remove(t, dir+"/fifo.yaml")
	remove(t, dir+"/device.json")
	f.expect(t, good)

	// What was a file when it was looked at may be a FIFO when it is opened.
	if err := unix.Mkfifo(dir+"/fifo.txt", 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(dir, "fifo.txt"); len(got.errs) != 1 || got.errs[0].Reason != errKind.Error() {
		t.Errorf("a FIFO: %v", got.errs)
	}
}

// TestLarge: a file that is too large is refused without being read; its objects stay.
func TestLarge(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", blackhole("a", "10.0.0.0/8"))
	f := follow(t, New(dir))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8")
	if err := os.Truncate(dir+"/a.yaml", maxFile+1); err != nil {
		t.Fatal(err)
	}
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8", "error a.yaml: larger than 67108864 bytes")
	place(t, dir+"/a.yaml", blackhole("a", "11.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 11.0.0.0/8")
}

// TestDeep: folders within folders have an end.
func TestDeep(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, New(dir))
	f.expect(t)
	allowed := strings.Repeat("d/", maxDepth-1)
	write(t, filepath.Join(dir, allowed, "a.yaml"), blackhole("a", "10.0.0.0/8"))
	good := fmt.Sprintf("Route a (%sa.yaml:2) 10.0.0.0/8", allowed)
	f.expect(t, good)
	write(t, filepath.Join(dir, allowed, "d/b.yaml"), blackhole("b", "11.0.0.0/8"))
	f.expect(t, good, "error "+allowed+"d: "+errDeep.Error())
}

// TestPermissions: what may not be read is refused, and what was read of it stays. The source runs as somebody whom
// permissions bind.
func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(filepath.Dir(dir), 0o755)
	write(t, dir+"/a.yaml", blackhole("a", "10.0.0.0/8"))
	write(t, dir+"/sub/b.yaml", blackhole("b", "11.0.0.0/8"))
	f := followAs(t, New(dir), 65534)
	const a, b = "Route a (a.yaml:2) 10.0.0.0/8", "Route b (sub/b.yaml:2) 11.0.0.0/8"
	f.expect(t, a, b)
	chmod(dir+"/a.yaml", 0)
	f.expect(t, a, b, "error a.yaml: permission denied")
	chmod(dir+"/a.yaml", 0o644)
	f.expect(t, a, b)
	chmod(dir+"/sub", 0)
	f.expect(t, a, b, "error sub: permission denied")
	chmod(dir+"/sub", 0o755)
	f.expect(t, a, b)
	chmod(dir, 0)
	f.expect(t, a, b, "trouble "+dir+": permission denied")
	chmod(dir, 0o755)
	f.expect(t, a, b)
}

// followAs runs a source on a thread of its own, which reads files as the user.
func followAs(t *testing.T, s *Source, uid int) *follower {
	t.Helper()
	events, done := make(chan source.Event), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setfsuid(uid); err != nil {
			done <- err
			return
		}
		done <- s.Run(ctx, func(e source.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &follower{events: events}
}
