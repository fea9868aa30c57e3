// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// patience is what a test waits for a report that does not come; it is less than the rescan, which would hide that
// a notification was missed.
const patience = 10 * time.Second

// follower takes a source's events, and checks that they keep the promises of source.Event.
type follower struct {
	events  <-chan source.Event
	objects map[model.Key]*model.Object
	last    source.Event
}

// follow runs a source.
func follow(t *testing.T, s *Source) *follower {
	t.Helper()
	events := make(chan source.Event)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
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

// next takes one event.
func (f *follower) next(t *testing.T) source.Event {
	t.Helper()
	select {
	case e := <-f.events:
		f.take(t, e)
		return e
	case <-time.After(patience):
		t.Fatalf("no report; the last were %v", f.lines())
	}
	panic("not reached")
}

func (f *follower) take(t *testing.T, e source.Event) {
	t.Helper()
	switch first := f.objects == nil; {
	case e.Whole != first:
		t.Errorf("whole is %v", e.Whole)
	case !first && len(e.Set)+len(e.Removed) == 0 && e.Trouble == f.last.Trouble &&
		slices.EqualFunc(e.Errors, f.last.Errors, func(a, b *model.Error) bool { return *a == *b }):
		t.Error("a report of nothing")
	case first:
		f.objects = map[model.Key]*model.Object{}
	}
	for _, key := range e.Removed {
		if f.objects[key] == nil {
			t.Errorf("%s removed twice", key)
		}
		delete(f.objects, key)
	}
	for _, o := range e.Set {
		if was := f.objects[o.Key]; was != nil && was.Same(o) && was.Place == o.Place {
			t.Errorf("%s is what it was", o.Origin())
		}
		if slices.Contains(e.Removed, o.Key) {
			t.Errorf("%s is both set and removed", o.Key)
		}
		f.objects[o.Key] = o
	}
	f.last = e
}

// lines are what the events come to.
func (f *follower) lines() []string {
	h := held{good: f.objects}
	return lines(h.objects(), f.last.Errors, f.last.Trouble)
}

// expect waits until the events come to this; on the way there they may come to less.
func (f *follower) expect(t *testing.T, want ...string) {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case e := <-f.events:
			if f.take(t, e); slices.Equal(f.lines(), want) {
				return
			}
		case <-timeout:
			t.Fatalf("last report (-want +got):\n%s", cmp.Diff(want, f.lines()))
		}
	}
}

// place writes a file aside and renames it into place.
func place(t *testing.T, path, text string) {
	t.Helper()
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	write(t, aside, text)
	rename(t, aside, path)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestLastGood: a bad document leaves its object as it was, until the file is right again or gone.
func TestLastGood(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.yaml")
	write(t, a, blackhole("a", "10.0.0.0/8")+blackhole("b", "11.0.0.0/8"))
	const refused = "error a.yaml:2 (document 1): Route a: spec.destination: " +
		`"10.0.0.1/8" has bits behind its length; meant is 10.0.0.0/8`
	f := follow(t, New(dir))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8", "Route b (a.yaml:7) 11.0.0.0/8")

	write(t, a, blackhole("a", "10.0.0.1/8")+blackhole("b", "21.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8", "Route b (a.yaml:7) 21.0.0.0/8",
		refused)

	// b is not refused but absent: it goes, although its file has a refusal.
	write(t, a, blackhole("a", "10.0.0.1/8"))
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8",
		refused)

	// A document that cannot be read may be any of the file's.
	write(t, a, "---\nbad: [\n")
	f.expect(t, "Route a (a.yaml:2) 10.0.0.0/8",
		"error a.yaml:2 (document 1): line 2 of the document: did not find expected node content")

	write(t, a, blackhole("a", "30.0.0.0/8"))
	f.expect(t, "Route a (a.yaml:2) 30.0.0.0/8")

	write(t, a, "---\nbad: [\n")
	f.expect(t, "Route a (a.yaml:2) 30.0.0.0/8",
		"error a.yaml:2 (document 1): line 2 of the document: did not find expected node content")
	remove(t, a)
	f.expect(t)
}

// TestFollow: folders that come and go, and files that are renamed into place.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, New(dir))
	f.expect(t)

	write(t, filepath.Join(dir, "sub/deeper/a.yaml"), blackhole("a", "10.0.0.0/8"))
	f.expect(t, "Route a (sub/deeper/a.yaml:2) 10.0.0.0/8")

	place(t, filepath.Join(dir, "sub/deeper/a.yaml"), blackhole("a", "11.0.0.0/8"))
	f.expect(t, "Route a (sub/deeper/a.yaml:2) 11.0.0.0/8")

	rename(t, filepath.Join(dir, "sub"), filepath.Join(dir, "moved"))
	f.expect(t, "Route a (moved/deeper/a.yaml:2) 11.0.0.0/8")

	write(t, filepath.Join(dir, "moved/deeper/a.yaml"), blackhole("a", "12.0.0.0/8"))
	f.expect(t, "Route a (moved/deeper/a.yaml:2) 12.0.0.0/8")

	remove(t, filepath.Join(dir, "moved"))
	f.expect(t)
}

// TestDifferences: the whole once, then what is not what it was: where an object stands is a part of it, how its
// document is written is not.
func TestDifferences(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, blackhole("a", "10.0.0.0/8")+blackhole("b", "11.0.0.0/8"))
	write(t, b, blackhole("c", "12.0.0.0/8"))
	f := follow(t, New(dir))
	names := func(e source.Event) (names []string) {
		for _, o := range e.Set {
			names = append(names, o.Origin())
		}
		for _, key := range e.Removed {
			names = append(names, "-"+key.String())
		}
		return names
	}
	whole := f.next(t)
	steps := []struct {
		what       string
		path, text string
		want       []string
	}{
		{"one of two", a, blackhole("a", "10.0.0.0/8") + blackhole("b", "21.0.0.0/8"), []string{"Route b (a.yaml:7)"}},
		{"other words, and one more", a, "# it was dull\n" + blackhole("a", "10.0.0.0/8") + "# here too\n" +
			blackhole("b", "21.0.0.0/8") + blackhole("d", "13.0.0.0/8"),
			[]string{"Route a (a.yaml:3)", "Route b (a.yaml:9)", "Route d (a.yaml:14)"}},
		{"an end", a, "# it was dull\n" + blackhole("a", "10.0.0.0/8"), []string{"-Route b", "-Route d"}},
		{"another file", b, blackhole("c", "12.0.0.0/8") + "# the end\n" + blackhole("e", "14.0.0.0/8"),
			[]string{"Route e (b.yaml:8)"}},
		{"defined twice", b, blackhole("c", "12.0.0.0/8") + blackhole("a", "99.0.0.0/8"), []string{"-Route e"}},
		{"the other form", a, "# nothing", []string{"Route a (b.yaml:7)"}},
	}
	all := []string{"Route a (a.yaml:2)", "Route b (a.yaml:7)", "Route c (b.yaml:2)"}
	if diff := cmp.Diff(all, names(whole)); diff != "" {
		t.Error(diff)
	}
	for _, step := range steps {
		place(t, step.path, step.text)
		if diff := cmp.Diff(step.want, names(f.next(t))); diff != "" {
			t.Errorf("%s: %s", step.what, diff)
		}
	}
	if len(f.last.Errors) != 0 {
		t.Errorf("errors that do not stand: %v", f.last.Errors)
	}
}

// TestReload reads everything, and reports nothing of what it knows already.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), blackhole("a", "10.0.0.0/8"))
	s := New(dir)
	f := follow(t, s)
	f.next(t)
	s.Reload()
	s.Reload()
	place(t, filepath.Join(dir, "b.yaml"), blackhole("b", "11.0.0.0/8"))
	if e := f.next(t); len(e.Set) != 1 || e.Set[0].Key.Name != "b" {
		t.Errorf("reported %v", f.lines())
	}
}

// TestRescan finds what no notification told of: here, since nothing is watched.
func TestRescan(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	s.rescan = 10 * time.Millisecond
	if err := s.scan(true); err != nil {
		t.Fatal(err)
	}
	w, err := newWatch(s.rescan)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	what, err := w.wait(t.Context(), s.reload, s.tree)
	if err != nil || !what.whole {
		t.Fatalf("changes %v, %v", what, err)
	}
}

// TestOverflow: when the kernel's queue has run over, everything is looked at.
func TestOverflow(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, New(dir))
	f.expect(t)
	const files = 200
	limit, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	var events int
	if _, err := fmt.Sscan(string(limit), &events); err != nil {
		t.Fatal(err)
	}
	for i := range files { // while the source is kept in report
		text := blackhole(fmt.Sprint("r", i), fmt.Sprintf("10.%d.0.0/16", i))
		write(t, filepath.Join(dir, fmt.Sprintf("%03d.yaml", i)), text)
	}
	if e := <-f.events; true {
		f.take(t, e)
	}
	for len(f.objects) < files {
		f.next(t)
	}
	// The source's next report is not taken until the queue has run over.
	place(t, filepath.Join(dir, "000.yaml"), blackhole("r0", "11.0.0.0/16"))
	for i := range events/2 + 1000 {
		name := filepath.Join(dir, fmt.Sprintf("noise%d", i%2))
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		remove(t, name)
	}
	place(t, filepath.Join(dir, "199.yaml"), blackhole("r199", "12.0.0.0/16"))
	last := model.Key{Kind: "Route", Name: "r199"}
	for f.objects[last].Spec.(*model.Route).Destination.String() != "12.0.0.0/16" {
		f.next(t)
	}
}

// TestBurst: many files at once are fewer reports, and the last state is reported.
func TestBurst(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, New(dir))
	f.expect(t)
	const files = 200
	for i := range files {
		text := blackhole(fmt.Sprint("r", i), fmt.Sprintf("10.%d.0.0/16", i))
		write(t, filepath.Join(dir, fmt.Sprintf("%03d.yaml", i)), text)
	}
	for reports := 1; ; reports++ {
		if f.next(t); len(f.objects) == files {
			if reports >= files {
				t.Errorf("%d reports of %d changes", reports, files)
			}
			return
		}
	}
}
