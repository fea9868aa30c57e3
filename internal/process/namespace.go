// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// InUseError names the process that has what was claimed.
type InUseError struct{ PID int } // 0: of another PID namespace

// Error says who has it.
func (e *InUseError) Error() string { return "in use by process " + known(fmt.Append(nil, e.PID)) }

// ClaimInNamespace makes a name, of 100 bytes at most, this process's own in its network namespace, by an abstract unix
// socket (unix(7)), which ends with the process, however it ends. The error is an InUseError when another has it.
func ClaimInNamespace(name string) (release func(), err error) {
	address := &net.UnixAddr{Name: "@" + name, Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, &InUseError{listener(address)}
	}
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", name, err)
	}
	return func() { _ = l.Close() }, nil
}

// listener is the process that listens, 0 when the kernel does not say.
func listener(address *net.UnixAddr) (pid int) {
	c, err := net.DialUnix("unix", nil, address)
	if err != nil {
		return 0
	}
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}
