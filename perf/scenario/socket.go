// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets here are blocking ones, used by threads of their own: what is measured is the path between them, and not
// the runtime's poller. Each blocking call gives up after patience, so that its loop sees a cancelled context.
const (
	patience = 200 * time.Millisecond
	port     = 5201
)

// listen opens a TCP socket on all addresses of the calling thread's namespace.
func listen() (int, error) {
	fd, err := open(unix.AF_INET6)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet6{Port: port}),
		unix.Listen(fd, 1024))
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}

// accept takes one connection.
func accept(ctx context.Context, listener int) (int, error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err == nil {
			return fd, prepare(fd)
		}
		if !again(err) {
			return -1, fmt.Errorf("accept: %w", err)
		}
		if ctx.Err() != nil {
			return -1, ctx.Err()
		}
	}
}

// dial connects once; the kernel's own repetitions of SYN fall within limit.
func dial(to netip.Addr, limit time.Duration) (int, error) { return dialTo(to, port, limit) }

func dialTo(to netip.Addr, port int, limit time.Duration) (int, error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: to.As16()})
	if to.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: to.As4()}
	}
	fd, err := open(family)
	if err != nil {
		return -1, err
	}
	err = setTimeout(fd, limit)
	if err == nil {
		err = connect(fd, sa, limit)
	}
	if err == nil {
		err = setTimeout(fd, patience)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// connect goes on when a signal comes between, as the runtime's own do: a call with a timeout is not begun again by
// the kernel, while the connection goes on (signal(7), connect(2)).
func connect(fd int, sa unix.Sockaddr, limit time.Duration) error {
	err := unix.Connect(fd, sa)
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for deadline := time.Now().Add(limit); ; {
		n, err := unix.Poll(ready, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		}
		failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && failed != 0 {
			err = unix.Errno(failed)
		}
		return err
	}
}

// dialPatiently connects through a subject that has just started.
func dialPatiently(ctx context.Context, to netip.Addr) (int, error) {
	deadline := time.Now().Add(passTimeout)
	for {
		fd, err := dial(to, 500*time.Millisecond)
		if err == nil || time.Now().After(deadline) {
			return fd, err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return -1, err
		}
	}
}

func open(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	return fd, prepare(fd)
}

func prepare(fd int) error {
	err := errors.Join(setTimeout(fd, patience), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("set socket options: %w", err)
	}
	return nil
}

func setTimeout(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

// again reports whether a call gave up after patience, or was interrupted.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// transfer repeats a read or write until it moved something, the other end closed (0), or ctx is done.
func transfer(ctx context.Context, call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		if err == nil {
			return n, nil
		}
		if !again(err) {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}
