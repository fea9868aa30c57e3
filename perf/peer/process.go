// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// stopTime is how long a process has to end after SIGTERM.
const stopTime = 10 * time.Second

// process is a program inside a network namespace, with mounts of its own, so that what it mounts goes with it. The
// kernel ends it if this process dies.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File // kept open: some programs end when their input does
	output tail
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// launch starts a program on the given CPUs.
func launch(in *rig.Namespace, cpus []int, path string, args ...string) (*process, error) {
	input, keep, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer input.Close()
	p := &process{stdin: keep, ended: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = input, &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Unshareflags: unix.CLONE_NEWNS, Setpgid: true}
	err = in.Do(func() error { return onCPUs(cpus, p.cmd.Start) })
	if err != nil {
		_ = keep.Close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// onCPUs runs f with the calling thread bound to CPUs, which child processes inherit.
func onCPUs(cpus []int, f func() error) error {
	if len(cpus) == 0 {
		return f()
	}
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to CPUs %v: %w", cpus, err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return f()
}

// await returns once the program has printed the line.
func (p *process) await(ctx context.Context, line string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for !p.output.has(line) {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended (%v): %s", p.cmd.Path, p.cmd.ProcessState, p.output.last())
		case <-ctx.Done():
			return fmt.Errorf("%s did not print %q: %w: %s", p.cmd.Path, line, ctx.Err(), p.output.last())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// stop ends the program, by force in the end.
func (p *process) stop() error {
	defer p.stdin.Close()
	select {
	case <-p.ended:
		return fmt.Errorf("%s had ended by itself (%v): %s", p.cmd.Path, p.cmd.ProcessState, p.output.last())
	default:
	}
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTime):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return errors.New(p.cmd.Path + " did not stop at SIGTERM and was killed")
}

// tail keeps the end of a program's output.
type tail struct {
	mu    sync.Mutex
	bytes []byte
}

const tailSize = 64 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes = append(t.bytes, b...)
	if over := len(t.bytes) - tailSize; over > 0 {
		t.bytes = t.bytes[over:]
	}
	return len(b), nil
}

// has reports whether the output has a line.
func (t *tail) has(line string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range bytes.Lines(t.bytes) {
		if string(bytes.TrimRight(l, "\r\n")) == line {
			return true
		}
	}
	return false
}

// last is the last few lines, in one.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.bytes)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}
