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

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// viaduct is viaduct-dataplane as a process of its own, and beside it viaduct-control, which has a directory of
// manifests for source.
type viaduct struct {
	name      string
	binary    string // the dataplane's; control's is beside it
	flags     []string
	spec      string // more of its NodeConfig, by lines
	dir       string
	keep      bool // pins outlive the dataplane, whose mounts are its own
	kept      bool // they are mounted here
	control   *process
	dataplane *process
}

func (v *viaduct) Name() string      { return v.name }
func (v *viaduct) Transparent() bool { return false }
func (v *viaduct) Wires() bool       { return false }

func (v *viaduct) Missing(rig.Options) string {
	if missing := executable(v.binary); missing != "" {
		return missing
	}
	return executable(v.controlBinary())
}

func (v *viaduct) controlBinary() string {
	return filepath.Join(filepath.Dir(v.binary), "viaduct-control")
}

// Checksums: the asavie backend has no TX metadata to ask the kernel for them.
func (v *viaduct) Checksums() bool { return v.name != "asavie" }

func (v *viaduct) PIDs() []int {
	var pids []int
	for _, p := range []*process{v.control, v.dataplane} {
		if p != nil {
			pids = append(pids, p.cmd.Process.Pid)
		}
	}
	return pids
}

func (v *viaduct) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := v.start(ctx, r, s); err != nil {
		_ = v.Stop() // that the program has ended is what err says
		return err
	}
	return nil
}

func (v *viaduct) start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := v.directory(); err != nil {
		return err
	}
	manifests := filepath.Join(v.dir, "manifests")
	if err := WriteManifests(manifests, r, s, v.spec); err != nil {
		return err
	}
	return v.launch(ctx, r.DUT, s.CPUs, manifests)
}

// startTime is how long the programs may take to have all manifests in force.
const startTime = 2 * time.Minute

// launch starts both programs, control with more flags, and returns when the dataplane forwards what the manifests say.
func (v *viaduct) launch(ctx context.Context, in *rig.Namespace, cpus []int, manifests string, more ...string) error {
	if err := v.startControl(in, cpus, append([]string{"--source", "dir:" + manifests}, more...)...); err != nil {
		return err
	}
	if err := v.startDataplane(in, cpus); err != nil {
		return err
	}
	if err := v.dataplane.await(ctx, "ready", startTime); err != nil {
		return fmt.Errorf("%w; %s: %s", err, v.controlBinary(), v.control.output.last())
	}
	return nil
}

func (v *viaduct) directory() (err error) {
	if v.dir, err = os.MkdirTemp("", "viaduct-perf-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// common are the flags of both programs.
func (v *viaduct) common(more ...string) []string {
	return append([]string{"--run", v.run(), "--state", filepath.Join(v.dir, "state")}, more...)
}

func (v *viaduct) run() string { return filepath.Join(v.dir, "run") }

func (v *viaduct) startControl(in *rig.Namespace, cpus []int, flags ...string) (err error) {
	v.control, err = launch(in, cpus, v.controlBinary(), v.common(flags...)...)
	return err
}

func (v *viaduct) startDataplane(in *rig.Namespace, cpus []int) (err error) {
	if err := v.keepPins(); err != nil {
		return err
	}
	flags := v.common("--bpf", v.pins())
	v.dataplane, err = launch(in, cpus, v.binary, append(flags, v.flags...)...)
	return err
}

func (v *viaduct) pins() string { return filepath.Join(v.dir, "bpf") }

// keepPins mounts where pins are, if they are to be kept.
func (v *viaduct) keepPins() error {
	if !v.keep || v.kept {
		return nil
	}
	if err := os.MkdirAll(v.pins(), 0o700); err != nil {
		return fmt.Errorf("make directory of pins: %w", err)
	}
	if err := unix.Mount("bpf", v.pins(), "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount directory of pins: %w", err)
	}
	v.kept = true
	return nil
}

func (v *viaduct) Stop() error {
	var errs []error
	for _, p := range []*process{v.dataplane, v.control} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	v.dataplane, v.control = nil, nil
	if v.kept {
		_ = unix.Unmount(v.pins(), unix.MNT_DETACH) // it goes with the directory where the dataplane removed that
		v.kept = false
	}
	if v.dir != "" {
		errs = append(errs, os.RemoveAll(v.dir))
		v.dir = ""
	}
	return errors.Join(errs...)
}

// WriteManifests writes a NodeConfig that owns both ports of the DUT, with more of its specification by lines, and the
// routes in one file, into a directory that it makes.
func WriteManifests(dir string, r *rig.Rig, s Setup, spec string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make manifest directory: %w", err)
	}
	err := writeFile(filepath.Join(dir, "node.yaml"), func(w io.Writer) { writeNode(w, r, spec) })
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

func writeNode(w io.Writer, r *rig.Rig, spec string) {
	fmt.Fprintf(w, "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\nspec:\n", nodeName)
	fmt.Fprintf(w, "  workers: 1\n%s  ports:\n", spec)
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
