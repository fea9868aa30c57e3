// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// lines are objects and errors in one line each.
func lines(objects []*model.Object, errs []*model.Error, trouble string) []string {
	var lines []string
	for _, o := range objects {
		lines = append(lines, fmt.Sprintf("%s %s", o.Origin(), o.Spec.(*model.Route).Destination))
	}
	for _, err := range errs {
		lines = append(lines, "error "+err.Error())
	}
	if trouble != "" {
		lines = append(lines, "trouble "+trouble)
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
	objects, refused, err := Read(dir)
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
	if diff := cmp.Diff(want, lines(objects, refused, "")); diff != "" {
		t.Error(diff)
	}
}

func TestNoDirectory(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, _, err := Read(missing); err == nil {
		t.Error("Read of a missing directory succeeds")
	}
	if err := New(missing).Run(t.Context(), func(source.Event) {}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Run of a missing directory: %v", err)
	}
}
