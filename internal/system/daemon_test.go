// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// daemon is a process of a site.
type daemon struct {
	s              *site
	name           string // "control", "dataplane" or "up"
	process        *netlab.Process
	stdout, stderr *output
}

// Metrics are served inside the node's namespace, so that these addresses are every site's.
const (
	controlMetrics   = "127.0.0.1:9441"
	dataplaneMetrics = "127.0.0.1:9440"
)

// startControl starts control with the site's directory of manifests, unless flags say otherwise.
func (s *site) startControl(flags ...string) *daemon {
	s.t.Helper()
	if len(flags) == 0 {
		flags = []string{"--source", "dir:" + s.manifests}
	}
	return s.start("control", "viaduct-control", s.controlFlags(flags)...)
}

func (s *site) controlFlags(more []string) []string {
	return append([]string{
		"--run", s.run, "--state", s.state, "--node", s.name, "--metrics", controlMetrics}, more...)
}

// startControlIn starts control with the directory of manifests where it sees what another process mounts, as it does
// in a container with the node's mounts.
func (s *site) startControlIn(other *daemon) *daemon {
	s.t.Helper()
	args := append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", other.process.PID()),
		filepath.Join(s.bin, "viaduct-control")}, s.controlFlags([]string{"--source", "dir:" + s.manifests})...)
	return s.start("control", "/usr/bin/nsenter", args...)
}

func (s *site) startDataplane(flags ...string) *daemon {
	s.t.Helper()
	return s.start("dataplane", "viaduct-dataplane", append([]string{
		"--run", s.run, "--state", s.state, "--bpf", s.bpf, "--metrics", dataplaneMetrics},
		slices.Concat(s.ending, flags)...)...)
}

// startUp starts both in one process.
func (s *site) startUp(flags ...string) *daemon {
	s.t.Helper()
	return s.start("up", "viaduct", append([]string{"up",
		"--run", s.run, "--state", s.state, "--bpf", s.bpf, "--manifests", s.manifests},
		slices.Concat(s.ending, flags)...)...)
}

func (s *site) start(name, program string, args ...string) *daemon {
	s.t.Helper()
	d := &daemon{s: s, name: name, stdout: &output{}, stderr: &output{}}
	if !filepath.IsAbs(program) {
		program = filepath.Join(s.bin, program)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = d.stdout, d.stderr
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=0")
	var err error
	d.process, err = s.lab.Start(s.node, cmd)
	s.must(err)
	s.daemons = append(s.daemons, d)
	return d
}

func (d *daemon) running() bool {
	select {
	case <-d.process.Done():
		return false
	default:
		return true
	}
}

// ready waits until the process says so.
func (d *daemon) ready() {
	d.s.t.Helper()
	d.s.soon(d.name+" to be ready", func() (bool, error) {
		if d.stdout.has("ready\n") {
			return false, nil
		}
		return !d.running(), errors.New("it has not said so")
	})
}

// kill ends the process as a fault would.
func (d *daemon) kill() {
	d.s.t.Helper()
	if !d.running() {
		d.s.t.Fatalf("%s had ended before it was killed: %v\n%s", d.name, d.process.Err(), d.stderr.last(20))
	}
	d.s.must(syscall.Kill(d.process.PID(), syscall.SIGKILL))
	<-d.process.Done()
}

func (d *daemon) signal(signal syscall.Signal) {
	d.s.t.Helper()
	d.s.must(syscall.Kill(d.process.PID(), signal))
}

// stop ends the process as an operator does, and wants it to end well.
func (d *daemon) stop() {
	d.s.t.Helper()
	if err := d.process.Stop(within); err != nil {
		d.s.t.Errorf("%s ended with %v\n%s", d.name, err, d.stderr.last(20))
	}
}

// status is the exit status of a process that ends by itself.
func (d *daemon) status() int {
	d.s.t.Helper()
	select {
	case <-d.process.Done():
	case <-time.After(within):
		d.s.t.Fatalf("%s did not end\n%s", d.name, d.stderr.last(20))
	}
	err := d.process.Err()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	d.s.must(err)
	return 0
}

// checkWords looks for what no process may ever say.
func (d *daemon) checkWords() {
	d.s.t.Helper()
	text := d.stderr.text()
	for _, word := range []string{"DATA RACE", "panic:", "fatal error:", "SIGSEGV", "goroutine "} {
		if at := strings.Index(text, word); at >= 0 {
			d.s.t.Errorf("%s said %q:\n%s", d.name, word, text[max(0, at-500):min(len(text), at+4000)])
			return
		}
	}
}

// usage is what a process has of the machine.
type usage struct {
	descriptors int
	threads     int
	resident    int // KiB
}

func (d *daemon) usage() usage {
	d.s.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", d.process.PID())
	descriptors, err := os.ReadDir(proc + "fd")
	d.s.must(err)
	u := usage{descriptors: len(descriptors)}
	status, err := os.ReadFile(proc + "status")
	d.s.must(err)
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "Threads: %d", &u.threads) // of other lines nothing is taken
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &u.resident)
	}
	return u
}

// links lists what the process's descriptors lead to, for messages.
func (d *daemon) links() string {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.process.PID()))
	var b strings.Builder
	for _, p := range paths {
		to, _ := os.Readlink(p)
		fmt.Fprintf(&b, "%s %s\n", filepath.Base(p), to)
	}
	return b.String()
}

// output keeps all that a process says.
type output struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.Write(b)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.String()
}

func (o *output) has(text string) bool { return strings.Contains(o.text(), text) }

// last is the last lines.
func (o *output) last(n int) string {
	lines := strings.SplitAfter(o.text(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
