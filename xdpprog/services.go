// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Services is the hooks by which services get traffic that would otherwise be the host's: from_uplink at devices of the
// host's, and those of the node's own sockets at a cgroup. Its methods may be called concurrently. Devices are those of
// the calling thread's network namespace, which must be the same for all calls.
type Services struct {
	maps map[string]*ebpf.Map
	pins string // empty: not pinned

	mu         sync.Mutex
	fromUplink *ebpf.Program
	sockets    map[string]*ebpf.Program // by name; nil until AttachCgroup
	uplinks    map[int]link.Link        // by ifindex
	atCgroup   map[string]link.Link     // by the program's name
	current    map[string]bool          // hooks, by their pins' names, that have this process's program
}

// Beginnings of the names of pinned links.
const (
	uplinkPin = "uplink-" // and the ifindex
	socketPin = "socket-" // and the program's name
)

// LoadServices loads from_uplink, which will send by the trunk, and its maps. Maps pinned in pinDir, a directory of its
// own on a bpffs, are taken over with what is in them; hooks that are pinned there go on with the programs they have,
// until AttachUplink and AttachCgroup. Empty: nothing is pinned, and Close takes off all hooks. Errors: ErrNotSupported
// when the kernel lacks something.
func (t *Trunk) LoadServices(pinDir string) (*Services, error) {
	s := &Services{pins: pinDirOf(pinDir), uplinks: make(map[int]link.Link), atCgroup: make(map[string]link.Link),
		current: make(map[string]bool)}
	if err := s.load(t); err != nil {
		return nil, fmt.Errorf("load hooks of services: %w", errors.Join(err, s.release()))
	}
	return s, nil
}

// trunksMaps are those of from_uplink that the trunk's hooks have, and pin.
var trunksMaps = []string{"trunk", "port_counters", "carried_counters"}

func (s *Services) load(t *Trunk) error {
	spec, err := loadFromUplink()
	if err != nil {
		return err
	}
	own := spec.Copy()
	dropSpecs(own, append(trunksMaps, flowMaps...))
	pinned := pinnedMaps(s.pins, own)
	defer closeMaps(pinned) // the collection has its own descriptors
	use := maps.Clone(pinned)
	for _, name := range trunksMaps {
		use[name] = t.maps[name]
		spec.Maps[name].MaxEntries = t.maps[name].MaxEntries()
	}
	t.flows.into(spec, use)
	l, err := loadProgram(spec, _FromUplinkBytes, fromUplinkProgFromUplink, use, s.pins)
	if err != nil {
		return err
	}
	s.fromUplink, s.maps = l.program, l.maps
	dropMaps(s.maps, append(trunksMaps, flowMaps...))
	if err := s.pinMaps(l.maps, pinned); err != nil {
		return err
	}
	l.pinProgram(_FromUplinkBytes, fromUplinkProgFromUplink, s.pins)
	return s.openPinnedUplinks()
}

// pinMaps pins those maps that were not taken over, in place of any that did not fit.
func (s *Services) pinMaps(made, pinned map[string]*ebpf.Map) error {
	if s.pins == "" {
		return nil
	}
	if err := os.MkdirAll(s.pins, 0o700); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	for name, m := range made {
		if pinned[name] != nil {
			continue
		}
		path := filepath.Join(s.pins, name)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove pin of map %s: %w", name, err)
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin map %s (is %s on a bpffs?): %w", name, s.pins, err)
		}
	}
	return nil
}

// Node is what the hooks know of the node.
type Node struct {
	HostPort  uint32       // PortID of the host's stack; 0: none, and what is for services is dropped
	Dataplane []netip.Addr // the dataplane's own addresses, one of a family at most
}

// nodeValue is struct node of bpf/shared.h.
type nodeValue struct {
	NetNS     uint64
	HostPort  uint32
	_         uint32
	Dataplane [2]mappedAddress // IPv4, IPv6
}

// SetNode tells the hooks of the node. Without an address of a family, sockets' destinations of that family stay as
// they are.
func (s *Services) SetNode(n Node) error {
	cookie, err := namespaceCookie()
	if err != nil {
		return fmt.Errorf("set node: %w", err)
	}
	v := nodeValue{NetNS: cookie, HostPort: n.HostPort}
	for _, a := range n.Dataplane {
		if a.Is4() {
			v.Dataplane[0] = a.As16()
		} else {
			v.Dataplane[1] = a.As16()
		}
	}
	if err := s.maps["node"].Put(uint32(0), v); err != nil {
		return fmt.Errorf("set node: %w", err)
	}
	return nil
}

// namespaceCookie is the number of the calling thread's network namespace, which no other ever has.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, &NotSupportedError{Feature: "the cookie of a network namespace", Since: "5.14", Err: err}
	}
	return cookie, nil
}

// Close lets go of the hooks. With pins they stay where they are, and the next LoadServices takes them over. Closing
// twice is no error.
func (s *Services) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.release()
}

// Detach takes off all hooks, removes the pins and closes. Devices may be gone already.
func (s *Services) Detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fromUplink == nil {
		return nil
	}
	err := s.openPinnedSockets()
	for ifindex := range s.uplinks {
		err = errors.Join(err, s.leaveUplink(ifindex))
	}
	if err = errors.Join(err, s.leaveCgroup(), removePins(s.pins), s.release()); err != nil {
		return fmt.Errorf("detach hooks of services: %w", err)
	}
	return nil
}

// release closes all descriptors.
func (s *Services) release() error {
	var err error
	for _, l := range s.uplinks {
		err = errors.Join(err, l.Close())
	}
	for _, l := range s.atCgroup {
		err = errors.Join(err, l.Close())
	}
	for _, p := range s.sockets {
		err = errors.Join(err, p.Close())
	}
	err = errors.Join(err, s.fromUplink.Close()) // nil is closed
	closeMaps(s.maps)
	s.maps, s.fromUplink, s.sockets = nil, nil, nil
	clear(s.uplinks)
	clear(s.atCgroup)
	return err
}

// update has a hook that is in its place have this process's program.
func (s *Services) update(l link.Link, pin string, p *ebpf.Program) error {
	if s.current[pin] {
		return nil
	}
	err := l.Update(p)
	s.current[pin] = err == nil
	return err
}

// keep pins a hook that was attached.
func (s *Services) keep(l link.Link, pin string) error {
	if s.pins != "" {
		if err := l.Pin(filepath.Join(s.pins, pin)); err != nil {
			return errors.Join(fmt.Errorf("pin hook: %w", err), l.Close()) // it goes with its last descriptor
		}
	}
	s.current[pin] = true
	return nil
}

// drop takes a hook off and removes its pin.
func (s *Services) drop(l link.Link, pin string) error {
	delete(s.current, pin)
	err := l.Detach()
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOLINK) {
		err = nil // the device or the cgroup went, and the hook with it
	}
	if s.pins != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.pins, pin)))
	}
	return errors.Join(err, l.Close())
}
