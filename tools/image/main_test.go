// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program builds a program with the settings.
func program(t *testing.T, dir, name string, env ...string) string {
	t.Helper()
	source, path := filepath.Join(dir, name+".go"), filepath.Join(dir, name)
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(\""+name+"\") }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", "build", "-trimpath", "-o", path, source)
	c.Dir, c.Env = dir, append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestImage(t *testing.T) {
	dir := t.TempDir()
	o := options{
		tag: "example.org/viaduct:test", version: "v1", revision: "abc", created: 1_700_000_000,
		programs: []string{program(t, dir, "viaduct"), program(t, dir, "alpha")},
	}
	var archives [][]byte
	for _, out := range []string{"a.tar", "b.tar"} {
		o.out = filepath.Join(dir, out)
		if err := o.write(); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
		slices.Reverse(o.programs)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same programs gave other bytes")
	}
	image, err := tarball.ImageFromPath(o.out, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Error(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/usr/bin/viaduct"}) || config.OS != "linux" ||
		config.Architecture != "amd64" || config.Created.Unix() != o.created ||
		config.Config.Labels["org.opencontainers.image.revision"] != "abc" {
		t.Errorf("config %+v", config)
	}
	r := mutate.Extract(image)
	defer r.Close()
	var names []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		if header.Mode != 0o755 || header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != o.created {
			t.Errorf("%+v", header)
		}
	}
	if want := []string{"usr", "usr/bin", "usr/bin/alpha", "usr/bin/viaduct"}; !slices.Equal(trimmed(names), want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

func trimmed(names []string) (s []string) {
	for _, n := range names {
		s = append(s, strings.TrimSuffix(n, "/"))
	}
	return s
}

func TestWhatIsRefused(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	fine := program(t, dir, "viaduct")
	for want, programs := range map[string][]string{
		"no programs":           nil,
		"is no program":         {text},
		"no such file":          {filepath.Join(dir, "none")},
		"is not static":         {program(t, dir, "pie", "GOFLAGS=-buildmode=pie")},
		"is for arm64, others":  {fine, program(t, dir, "zarm", "GOARCH=arm64")},
		"which is not supporte": {program(t, dir, "riscv", "GOARCH=riscv64")},
	} {
		o := options{out: filepath.Join(dir, "out.tar"), tag: "a:b", programs: programs}
		if err := o.write(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if left, _ := filepath.Glob(o.out + "*"); len(left) > 0 {
			t.Errorf("left %q", left)
		}
	}
}
