// SPDX-License-Identifier: Apache-2.0

// Command image puts static programs into a container image with nothing else in it, as an archive that
// `ctr images import` and `docker load` take. The same programs give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// options is what the image is made of.
type options struct {
	out, tag, version, revision string
	created                     int64 // seconds since 1970: of the revision, for equal bytes
	programs                    []string
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "", "archive to write")
	flag.StringVar(&o.tag, "tag", "viaduct-net/viaduct:latest", "the image's name")
	flag.StringVar(&o.version, "version", "", "label org.opencontainers.image.version")
	flag.StringVar(&o.revision, "revision", "", "label org.opencontainers.image.revision")
	flag.Int64Var(&o.created, "created", 0, "when the revision was made, in seconds since 1970")
	flag.Parse()
	o.programs = flag.Args()
	if err := o.write(); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write makes the archive, whole or not at all.
func (o *options) write() (err error) {
	tag, err := name.NewTag(o.tag)
	if err != nil {
		return fmt.Errorf("--tag: %w", err)
	}
	image, err := o.image()
	if err != nil {
		return err
	}
	aside := o.out + ".part"
	defer func() {
		if err != nil {
			_ = os.Remove(aside)
		}
	}()
	if err := tarball.WriteToFile(aside, tag, image); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return os.Rename(aside, o.out)
}

func (o *options) image() (v1.Image, error) {
	files, architecture, err := o.files()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	created := v1.Time{Time: time.Unix(o.created, 0).UTC()}
	image, err := mutate.Append(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make image"}})
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Created = architecture, "linux", created
	config.Config = v1.Config{
		Entrypoint: []string{"/usr/bin/viaduct"}, Env: []string{"PATH=/usr/bin"}, Labels: o.labels(created),
	}
	return mutate.ConfigFile(image, config)
}

func (o *options) labels(created v1.Time) map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":       "viaduct",
		prefix + "description": "A packet dataplane for Linux that lives in userspace",
		prefix + "source":      "https://github.com/viaduct-net/viaduct",
		prefix + "licenses":    "Apache-2.0",
		prefix + "version":     o.version,
		prefix + "revision":    o.revision,
		prefix + "created":     created.Format(time.RFC3339),
	}
}

// files is the image's only layer: the programs in /usr/bin, in order of their names.
func (o *options) files() (layer []byte, architecture string, err error) {
	programs := slices.Clone(o.programs)
	slices.SortFunc(programs, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
	if len(programs) == 0 {
		return nil, "", errors.New("no programs")
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"usr/", "usr/bin/"} {
		if err := o.add(w, tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil); err != nil {
			return nil, "", err
		}
	}
	for _, path := range programs {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, "", err
		}
		machine, err := static(content)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", path, err)
		}
		if architecture != "" && architecture != machine {
			return nil, "", fmt.Errorf("%s is for %s, others for %s", path, machine, architecture)
		}
		architecture = machine
		header := tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/" + filepath.Base(path), Mode: 0o755}
		if err := o.add(w, header, content); err != nil {
			return nil, "", err
		}
	}
	return out.Bytes(), architecture, w.Close()
}

func (o *options) add(w *tar.Writer, header tar.Header, content []byte) error {
	header.Size, header.ModTime, header.Format = int64(len(content)), time.Unix(o.created, 0).UTC(), tar.FormatPAX
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

var architectures = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// static returns the architecture of a program that needs no loader and no libraries.
func static(content []byte) (architecture string, err error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("is no program: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("is not static: build it with CGO_ENABLED=0")
		}
	}
	architecture, ok := architectures[f.Machine]
	if !ok {
		return "", fmt.Errorf("is for %v, which is not supported", f.Machine)
	}
	return architecture, nil
}
