// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/link"
)

// The tests run in network and mount namespaces of their own, so that nothing they do outlives them: the binary
// starts itself there.
const insideEnv = "XDPPROG_TEST_INSIDE"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(holdEnv) != "":
		holdPinned()
	case os.Getenv(holdTrunkEnv) != "":
		holdTrunk()
	case os.Geteuid() != 0:
		os.Exit(m.Run())
	case os.Getenv(insideEnv) == "":
		os.Exit(runInside())
	}
	warmUp()
	before := descriptors()
	code := m.Run()
	if after := descriptors(); len(after) != len(before) && code == 0 {
		fmt.Fprintf(os.Stderr, "descriptors leaked: %d before, %d after: %v\n", len(before), len(after), after)
		code = 1
	}
	if n := xdpLinks(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d XDP links of these tests are left\n", n)
		code = 1
	}
	os.Exit(code)
}

func runInside() int {
	runtime.LockOSThread() // Pdeathsig is of the thread
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), insideEnv+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start tests in namespaces:", err)
		return 1
	}
	return 0
}

// warmUp opens what the runtime keeps open for good.
func warmUp() {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	if p, err := Load(Options{Queues: 1}); err == nil {
		p.Close()
	}
	Features("")
}

func descriptors() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var open []string
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		open = append(open, e.Name()+" "+target)
	}
	return open
}

// xdpLinks counts the links whose device is in this namespace and has one of our hooks.
func xdpLinks() int {
	n := 0
	all := new(link.Iterator)
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil || info.XDP() == nil {
			continue
		}
		if d, err := attached(int(info.XDP().Ifindex)); err == nil && d.program == info.Program {
			n++
		}
	}
	return n
}
