// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that has no name: only open descriptors and processes keep it, so that it goes
// with the process that made it, even if that one is killed. `nsenter --net=/proc/PID/fd/N` reaches it from outside.
type Namespace struct {
	file *os.File
}

// NewNamespace makes a network namespace, with its loopback device up. Needs CAP_SYS_ADMIN.
func NewNamespace() (*Namespace, error) {
	var made *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		made, err = currentNamespace()
		return err
	})
	if err != nil {
		return nil, err
	}
	n := &Namespace{file: made}
	if _, err := n.raise("lo"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// FD is the namespace's descriptor, valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Path leads to the namespace from any process, as long as this one lives: for CNI_NETNS.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// Close lets the namespace go. The kernel removes it and its devices when nothing uses it any more.
func (n *Namespace) Close() error { return n.file.Close() }

// Do runs f on an operating system thread inside the namespace. Processes and sockets that f makes stay there;
// goroutines that it starts do not.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Netlink opens a netlink handle inside the namespace. The caller closes it.
func (n *Namespace) Netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}

// raise brings a device up.
func (n *Namespace) raise(device string) (netlink.Link, error) {
	h, err := n.Netlink()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", device, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set device %s up: %w", device, err)
	}
	return link, nil
}

// Sysctl writes value to /proc/sys/net/KEY of the namespace.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
}

func currentNamespace() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// onThread runs f on a goroutine that has a thread to itself and restores the thread's network namespace. A thread
// that could not be restored is left locked: the runtime ends it with its goroutine.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := currentNamespace()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
		done <- err
	}()
	return <-done
}
