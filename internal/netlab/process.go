// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// Process is a program that runs inside a namespace.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Start starts cmd inside the namespace. The kernel kills it when this process ends, however it ends; so does
// Lab.Close. Mounts that it makes are seen by it alone and vanish with it.
func (l *Lab) Start(n *Namespace, cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS
	cmd.SysProcAttr.Setpgid = true // Ctrl-C on the terminal is for this process: it stops the other in order
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(n, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s in namespace %s: %w", cmd.Path, n.name, err)
	}
	l.processes = append(l.processes, p)
	return p, nil
}

// run starts the program from a thread inside the namespace. The thread lives until the program has ended: the
// parent-death signal follows the thread that started it (prctl(2), PR_SET_PDEATHSIG).
func (p *Process) run(n *Namespace, started chan<- error) {
	runtime.LockOSThread() // never unlocked
	if err := netns.Set(n.handle); err != nil {
		started <- err
		return
	}
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the program ended: nil for exit code 0. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop asks the program to end with SIGTERM, kills it after grace, and returns how it ended.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM", p.cmd.Path, grace), p.kill())
	}
}

func (p *Process) kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		select {
		case <-p.done:
		case <-time.After(time.Second):
			return fmt.Errorf("kill %s: %w", p.cmd.Path, err)
		}
	}
	<-p.done
	return nil
}
