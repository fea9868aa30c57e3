// SPDX-License-Identifier: Apache-2.0

// Package netlab makes small networks out of network namespaces and veth pairs, for tests and for the demo.
//
// The namespaces have no name: they live as long as a descriptor or a process holds them, so that nothing is left
// behind even of a process that was killed, and any number of labs can run side by side. Both ends of a veth pair are
// made where they belong; the namespace of the process itself is never touched.
package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lab is some namespaces and what runs in them. Close undoes all of it.
type Lab struct {
	namespaces []*Namespace
	processes  []*Process
	links      []ownedLink
}

type ownedLink struct {
	in   *Namespace
	link netlink.Link
}

// New returns an empty lab.
func New() *Lab { return &Lab{} }

// Namespace makes a network namespace with its loopback device up and without IPv6 duplicate address detection. The
// name is for messages only.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	handle, err := create()
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	n := &Namespace{name: name, handle: handle}
	l.namespaces = append(l.namespaces, n)
	if n.links, err = netlink.NewHandleAt(handle, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink in namespace %s: %w", name, err)
	}
	for _, key := range []string{"net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad"} {
		if err := n.Sysctl(key, "0"); err != nil {
			return nil, err
		}
	}
	lo, err := n.links.LinkByName("lo")
	if err == nil {
		err = n.links.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("bring up loopback in namespace %s: %w", name, err)
	}
	return n, nil
}

// create unshares on a thread that ends with the goroutine, for it must not serve others afterwards.
func create() (netns.NsHandle, error) {
	type result struct {
		handle netns.NsHandle
		err    error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		handle, err := netns.New()
		done <- result{handle, err}
	}()
	r := <-done
	return r.handle, r.err
}

// Close stops the lab's processes, removes its devices and lets go of its namespaces, and says what of that failed.
// It may be called again.
func (l *Lab) Close() error {
	var errs []error
	for _, p := range l.processes {
		errs = append(errs, p.kill())
	}
	// The kernel would remove the devices with the namespaces, but some time after the last descriptor is closed.
	for _, o := range l.links {
		if err := o.in.links.LinkDel(o.link); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) &&
			!errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove %s: %w", o.link.Attrs().Name, err))
		}
	}
	for _, n := range l.namespaces {
		if n.links != nil {
			n.links.Close()
		}
		errs = append(errs, n.handle.Close())
	}
	l.processes, l.links, l.namespaces = nil, nil, nil
	return errors.Join(errs...)
}

// Namespace is one network namespace of a lab. It is valid until the lab is closed.
type Namespace struct {
	name   string
	handle netns.NsHandle
	links  *netlink.Handle
}

// Name is what the namespace is called in messages.
func (n *Namespace) Name() string { return n.name }

// FD is the descriptor of the namespace; it stays the lab's.
func (n *Namespace) FD() int { return int(n.handle) }

// Links is a netlink handle inside the namespace, for what this package has no word for.
func (n *Namespace) Links() *netlink.Handle { return n.links }

// Inode is the number by which /proc/*/ns/net shows the namespace.
func (n *Namespace) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.handle), &st); err != nil {
		return 0, fmt.Errorf("stat namespace %s: %w", n.name, err)
	}
	return st.Ino, nil
}

// Do runs f on a thread inside the namespace and returns f's error. Sockets that f opens stay in the namespace and
// may be used from anywhere. Goroutines that f starts are not in it.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and with it its namespace
		var err error
		defer func() { done <- err }() // also when f ends the goroutine, as t.Fatal does
		if err = netns.Set(n.handle); err != nil {
			err = fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		err = errors.New("the function ended its goroutine")
		err = f()
	}()
	return <-done
}

// Sysctl sets a value below /proc/sys, as the namespace has it: Sysctl("net/ipv4/ip_forward", "1").
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl in namespace %s: %w", n.name, err)
		}
		return nil
	})
}

// Counters reads /proc/net/snmp or /proc/net/snmp6 style pairs of the namespace: "Udp.InCsumErrors" or
// "Udp6InCsumErrors" to their values.
func (n *Namespace) Counters() (map[string]uint64, error) {
	counters := make(map[string]uint64)
	err := n.Do(func() error {
		v4, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		v6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		parseSNMP(counters, string(v4))
		parseSNMP6(counters, string(v6))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read counters of namespace %s: %w", n.name, err)
	}
	return counters, nil
}

// parseSNMP reads pairs of lines: one of names and one of values, each after "Proto:".
func parseSNMP(into map[string]uint64, text string) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			if v, ok := number(values[j]); ok {
				into[strings.TrimSuffix(names[0], ":")+"."+names[j]] = v
			}
		}
	}
}

// parseSNMP6 reads lines of a name and a value.
func parseSNMP6(into map[string]uint64, text string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 {
			if v, ok := number(f[1]); ok {
				into[f[0]] = v
			}
		}
	}
}

func number(s string) (uint64, bool) {
	var v uint64
	_, err := fmt.Sscan(s, &v)
	return v, err == nil
}
