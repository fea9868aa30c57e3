// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// viaduct is viaduct-dataplane as a process of its own, configured by a directory of manifests.
type viaduct struct {
	name    string
	binary  string
	flags   []string
	dir     string
	process *process
}

func (v *viaduct) Name() string      { return v.name }
func (v *viaduct) Transparent() bool { return false }

func (v *viaduct) Missing(rig.Options) string { return executable(v.binary) }

// Checksums: the asavie backend has no TX metadata to ask the kernel for them.
func (v *viaduct) Checksums() bool { return v.name == "viaduct" }

func (v *viaduct) PIDs() []int {
	if v.process == nil {
		return nil
	}
	return []int{v.process.cmd.Process.Pid}
}

func (v *viaduct) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := v.start(ctx, r, s); err != nil {
		_ = v.Stop() // that the program has ended is what err says
		return err
	}
	return nil
}

func (v *viaduct) start(ctx context.Context, r *rig.Rig, s Setup) error {
	var err error
	if v.dir, err = os.MkdirTemp("", "viaduct-perf-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	manifests := filepath.Join(v.dir, "manifests")
	if err := WriteManifests(manifests, r, s); err != nil {
		return err
	}
	args := append([]string{
		"--manifests", manifests, "--run", filepath.Join(v.dir, "run"), "--bpf", filepath.Join(v.dir, "bpf"),
	}, v.flags...)
	if v.process, err = launch(r, s.CPUs, v.binary, args...); err != nil {
		return err
	}
	return v.process.await(ctx, "ready", 30*time.Second)
}

func (v *viaduct) Stop() error {
	var errs []error
	if v.process != nil {
		errs = append(errs, v.process.stop())
		v.process = nil
	}
	if v.dir != "" {
		errs = append(errs, os.RemoveAll(v.dir))
		v.dir = ""
	}
	return errors.Join(errs...)
}

// WriteManifests writes a NodeConfig that owns both ports of the DUT, and the routes in one file, into a directory
// that it makes.
func WriteManifests(dir string, r *rig.Rig, s Setup) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make manifest directory: %w", err)
	}
	err := writeFile(filepath.Join(dir, "node.yaml"), func(w io.Writer) { writeNode(w, r) })
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "routes.yaml"), func(w io.Writer) {
		for i := range s.Routes {
			writeRoute(w, fmt.Sprintf("v4-%d", i), rig.Prefix(i, false).String(), r.Sunk.Addr4.Addr().String())
			writeRoute(w, fmt.Sprintf("v6-%d", i), rig.Prefix(i, true).String(), r.Sunk.Addr6.Addr().String())
		}
	})
}

func writeFile(path string, write func(io.Writer)) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	w := bufio.NewWriter(f)
	write(w)
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

const nodeName = "perf"

func writeNode(w io.Writer, r *rig.Rig) {
	fmt.Fprintf(w, "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\nspec:\n", nodeName)
	fmt.Fprintf(w, "  workers: 1\n  ports:\n")
	queues := make([]int, r.Queues)
	for i := range queues {
		queues[i] = i
	}
	for _, d := range []rig.Device{r.Left, r.Right} {
		fmt.Fprintf(w, "  - {name: %s, device: %s, queues: [%s], addresses: [%q, %q]}\n", d.Name, d.Name,
			numbers(queues), d.Addr4, d.Addr6)
	}
}

func writeRoute(w io.Writer, name, prefix, via string) {
	fmt.Fprintf(w, "---\napiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n", name)
	fmt.Fprintf(w, "spec: {node: %s, destination: %q, nextHops: [{via: %q, port: right, weight: 1}]}\n", nodeName,
		prefix, via)
}
