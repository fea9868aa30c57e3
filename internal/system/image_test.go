// SPDX-License-Identifier: Apache-2.0

package system

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// image is the name of the image with the peer program, which is also the sandboxes'.
const image = "viaduct.test/peer:latest"

// buildImage builds the peer program and writes an image of it, as docker save does.
func (s *site) buildImage(dir string) (path string) {
	s.t.Helper()
	program := filepath.Join(dir, "peer")
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./peer")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("build peer: %v\n%s", err, text)
	}
	content, err := os.ReadFile(program)
	s.must(err)
	layer := s.archive(file{"peer", content, 0o755})
	config := s.json(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/peer"}, "Cmd": []string{"pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest := s.json([]any{map[string]any{
		"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}})
	path = filepath.Join(dir, "image.tar")
	s.must(os.WriteFile(path, s.archive(file{"layer.tar", layer, 0o644}, file{"config.json", config, 0o644},
		file{"manifest.json", manifest, 0o644}), 0o644))
	return path
}

type file struct {
	name    string
	content []byte
	mode    int64
}

func (s *site) archive(files ...file) []byte {
	s.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		s.must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content))}))
		_, err := w.Write(f.content)
		s.must(err)
	}
	s.must(w.Close())
	return b.Bytes()
}

func (s *site) json(v any) []byte {
	s.t.Helper()
	text, err := json.Marshal(v)
	s.must(err)
	return text
}
