// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func blackhole(name, destination string) string {
	return fmt.Sprintf("---\napiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n"+
		"spec: {destination: %s, type: blackhole}\n", name, destination)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// summary is the state and its errors in one line each.
func summary(e source.Event) []string {
	var lines []string
	for _, o := range e.State.Of("Route") {
		lines = append(lines, fmt.Sprintf("%s %s", o.Origin(), o.Spec.(*model.Route).Destination))
	}
	for _, err := range e.Errors {
		lines = append(lines, "error "+err.Error())
	}
	return lines
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), blackhole("a", "10.0.0.0/8")+blackhole("b", "11.0.0.0/8"))
	write(t, filepath.Join(dir, "sub/deep/c.yml"), blackhole("c", "12.0.0.0/8"))
	write(t, filepath.Join(dir, "d.json"), `{"apiVersion": "viaduct.dev/v1alpha1", "kind": "Route",
		"metadata": {"name": "d"}, "spec": {"destination": "13.0.0.0/8", "type": "blackhole"}}`)
	for _, name := range []string{
		".hidden.yaml", ".git/x.yaml", "#a.yaml#", "a.yaml~", ".a.yaml.swp", "notes.txt", "README",
	} {
		write(t, filepath.Join(dir, name), "not: [a manifest")
	}
	write(t, filepath.Join(dir, "z.yaml"), blackhole("a", "14.0.0.0/8")+"---\nbad: [\n")
	if err := os.Symlink(dir, filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	event, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Route a (a.yaml:2) 10.0.0.0/8",
		"Route b (a.yaml:7) 11.0.0.0/8",
		"Route c (sub/deep/c.yml:2) 12.0.0.0/8",
		"Route d (d.json:1) 13.0.0.0/8",
		"error loop: folders within folders, or a symbolic link to a folder above",
		"error z.yaml:2 (document 1): Route a: is defined in a.yaml:2 already",
		"error z.yaml:7 (document 2): line 2 of the document: did not find expected node content",
	}
	if diff := cmp.Diff(want, summary(event)); diff != "" {
		t.Error(diff)
	}
}

func TestNoDirectory(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := Read(missing); err == nil {
		t.Error("Read of a missing directory succeeds")
	}
	if err := New(missing).Run(t.Context(), func(source.Event) {}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Run of a missing directory: %v", err)
	}
}

// follow runs a source and returns its events.
func follow(t *testing.T, s *Source) <-chan source.Event {
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
	return events
}

// expect waits until the source reports this; what it reports on the way there may be less.
func expect(t *testing.T, events <-chan source.Event, want ...string) {
	t.Helper()
	var got []string
	for timeout := time.After(10 * time.Second); ; {
		select {
		case e := <-events:
			if got = summary(e); slices.Equal(got, want) {
				return
			}
		case <-timeout:
			t.Fatalf("last report (-want +got):\n%s", cmp.Diff(want, got))
		}
	}
}

// TestLastGood: a bad document leaves its object as it was, until the file is right again or gone.
func TestLastGood(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.yaml")
	write(t, a, blackhole("a", "10.0.0.0/8")+blackhole("b", "11.0.0.0/8"))
	const refused = "error a.yaml:2 (document 1): Route a: spec.destination: " +
		`"10.0.0.1/8" has bits behind its length; meant is 10.0.0.0/8`
	events := follow(t, New(dir))
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8", "Route b (a.yaml:7) 11.0.0.0/8")

	write(t, a, blackhole("a", "10.0.0.1/8")+blackhole("b", "21.0.0.0/8"))
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8", "Route b (a.yaml:7) 21.0.0.0/8",
		refused)

	// b is not refused but absent: it goes, although its file has a refusal.
	write(t, a, blackhole("a", "10.0.0.1/8"))
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8",
		refused)

	// A document that cannot be read may be any of the file's.
	write(t, a, "---\nbad: [\n")
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8",
		"error a.yaml:2 (document 1): line 2 of the document: did not find expected node content")

	write(t, a, blackhole("a", "30.0.0.0/8"))
	expect(t, events, "Route a (a.yaml:2) 30.0.0.0/8")

	write(t, a, "---\nbad: [\n")
	expect(t, events, "Route a (a.yaml:2) 30.0.0.0/8",
		"error a.yaml:2 (document 1): line 2 of the document: did not find expected node content")
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	expect(t, events)
}

// TestFollow: folders that come and go, files that are renamed into place, and an explicit reload.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	events := follow(t, s)
	expect(t, events)

	write(t, filepath.Join(dir, "sub/deeper/a.yaml"), blackhole("a", "10.0.0.0/8"))
	expect(t, events, "Route a (sub/deeper/a.yaml:2) 10.0.0.0/8")

	temporary := filepath.Join(dir, "sub/deeper/.a.yaml.tmp") // as editors and tools write
	write(t, temporary, blackhole("a", "11.0.0.0/8"))
	if err := os.Rename(temporary, filepath.Join(dir, "sub/deeper/a.yaml")); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "Route a (sub/deeper/a.yaml:2) 11.0.0.0/8")

	if err := os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "Route a (moved/deeper/a.yaml:2) 11.0.0.0/8")

	write(t, filepath.Join(dir, "moved/deeper/a.yaml"), blackhole("a", "12.0.0.0/8"))
	expect(t, events, "Route a (moved/deeper/a.yaml:2) 12.0.0.0/8")

	s.Reload()
	expect(t, events, "Route a (moved/deeper/a.yaml:2) 12.0.0.0/8")

	if err := os.RemoveAll(filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	expect(t, events)
}

// TestDirectoryVanishes: what was good stays in force, and the reason is said.
func TestDirectoryVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	write(t, filepath.Join(dir, "a.yaml"), blackhole("a", "10.0.0.0/8"))
	events := follow(t, New(dir))
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8")
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8", "error "+dir+": no such file or directory")
}

// TestConfigMap does what the kubelet does to a mounted ConfigMap: files are links to ..data/<name>, ..data is a link
// to a dated folder, and an update renames a new link over ..data.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, text string) {
		write(t, filepath.Join(dir, "..data_"+version, "a.yaml"), text)
		temporary := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink("..data_"+version, temporary); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("1", blackhole("a", "10.0.0.0/8"))
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	events := follow(t, New(dir))
	expect(t, events, "Route a (a.yaml:2) 10.0.0.0/8")
	publish("2", blackhole("a", "11.0.0.0/8"))
	expect(t, events, "Route a (a.yaml:2) 11.0.0.0/8")
}

// TestSettles: a burst of changes is one report or few, and the last state is reported.
func TestSettles(t *testing.T) {
	dir := t.TempDir()
	events := follow(t, New(dir))
	expect(t, events)
	const files = 200
	go func() {
		for i := range files {
			text := blackhole(fmt.Sprintf("r%03d", i), fmt.Sprintf("10.%d.0.0/16", i))
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.yaml", i)), []byte(text), 0o644)
		}
	}()
	for reports := 1; ; reports++ {
		select {
		case e := <-events:
			if e.State.Len() == files {
				if reports > files/10 {
					t.Errorf("%d reports of %d changes", reports, files)
				}
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the last state was not reported")
		}
	}
}
