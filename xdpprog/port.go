// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Mode says which packets the hook gives to userspace.
type Mode uint8

const (
	// Owned: the dataplane owns the device; every packet goes to userspace.
	Owned Mode = iota
	// Shared: packets to our addresses go to userspace, everything else to the kernel.
	Shared
)

// String returns "owned" or "shared".
func (m Mode) String() string { return [...]string{"owned", "shared"}[m&1] }

// OnAbsence says what a packet gets that is for userspace while its queue has no socket. The zero value drops.
type OnAbsence uint8

const (
	// Drop discards and counts it.
	Drop OnAbsence = iota
	// Pass gives it to the kernel and counts it.
	Pass
)

// String returns "drop" or "pass".
func (a OnAbsence) String() string { return [...]string{"drop", "pass"}[a&1] }

// Actions of linux/bpf.h, enum xdp_action.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

func (a OnAbsence) config() configValue {
	if a == Pass {
		return configValue{OnAbsence: xdpPass}
	}
	return configValue{OnAbsence: xdpDrop}
}

// configValue is struct config of bpf/shared.h.
type configValue struct{ OnAbsence uint32 }

// Options say what Load is to load.
type Options struct {
	Mode      Mode
	OnAbsence OnAbsence
	// PinDir is the port's own directory on a bpffs (see MountBPFFS), which Attach creates; dots in its last element
	// are escaped, as a bpffs has none. Empty: nothing is pinned, and the hook goes with the process.
	PinDir string
	// Queues is the device's number of receive queues, at least 1. Packets of higher queues count as without socket.
	Queues int
}

// Port is the hook at one device. Its methods may be called concurrently.
type Port struct {
	options Options
	program *ebpf.Program
	maps    map[string]*ebpf.Map
	pins    string // directory of the pins, and the one in which they are built; empty: not pinned
	aside   string

	mu      sync.Mutex
	link    link.Link // nil until attached
	ifindex int
	mode    DriverMode

	// The two commit points of Attach, which a test makes fail.
	rename func(from, to string) error
	update func(link.Link, *ebpf.Program) error
}

// Load loads the program and its maps; maps pinned in PinDir are taken over with what they hold. It changes nothing
// for a hook that is attached. Errors: ErrNotSupported when the kernel lacks something.
func Load(options Options) (*Port, error) {
	if options.Queues < 1 {
		return nil, fmt.Errorf("load hook: %d queues, a port has at least one", options.Queues)
	}
	spec, name, err := specFor(options)
	if err != nil {
		return nil, fmt.Errorf("load hook: %w", err)
	}
	pins := pinDirOf(options.PinDir)
	pinned := pinnedMaps(pins, spec)
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: pinned})
	closeMaps(pinned) // the collection has its own descriptors
	if err != nil {
		return nil, fmt.Errorf("load hook: %w", explainLoad(err))
	}
	p := &Port{
		options: options, program: collection.Programs[name], maps: collection.Maps,
		pins: pins, aside: asideOf(pins),
		rename: os.Rename, update: func(l link.Link, to *ebpf.Program) error { return l.Update(to) },
	}
	if pinned["config"] == nil {
		if err := p.SetOnAbsence(options.OnAbsence); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

func specFor(options Options) (*ebpf.CollectionSpec, string, error) {
	load, name := loadOwned, ownedProgFromWireOwned
	if options.Mode == Shared {
		load, name = loadShared, sharedProgFromWireShared
	}
	spec, err := load()
	if err != nil {
		return nil, "", err
	}
	spec.Maps["sockets"].MaxEntries = uint32(options.Queues)
	return spec, name, nil
}

// SetSocket gives the packets of a receive queue to an AF_XDP socket. The kernel forgets it when the socket closes.
func (p *Port) SetSocket(queue uint32, fd int) error {
	if err := p.maps["sockets"].Put(queue, uint32(fd)); err != nil {
		return fmt.Errorf("set socket of queue %d of %d: %w", queue, p.options.Queues, err)
	}
	return nil
}

// ClearSocket takes a receive queue's packets from its socket; it is no error when there is none.
func (p *Port) ClearSocket(queue uint32) error {
	err := p.maps["sockets"].Delete(queue)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("clear socket of queue %d of %d: %w", queue, p.options.Queues, err)
	}
	return nil
}

// SetOnAbsence changes, from the next packet on, what a packet gets whose queue has no socket.
func (p *Port) SetOnAbsence(to OnAbsence) error {
	if err := p.maps["config"].Put(uint32(0), to.config()); err != nil {
		return fmt.Errorf("set on-absence to %s: %w", to, err)
	}
	return nil
}

// Close lets go of the hook. A pinned hook stays attached, for the next Load and Attach to take over; without pins it
// goes. Closing twice is no error.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.close()
}

func (p *Port) close() error {
	var err error
	if p.link != nil {
		err = p.link.Close()
		p.link = nil
	}
	closeMaps(p.maps)
	return errors.Join(err, p.program.Close())
}

// Detach takes the hook off the device, removes its pins and closes the port. The device may be gone already.
func (p *Port) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.link != nil {
		err = errors.Join(p.link.Detach(), removePins(p.pins))
	}
	if err := errors.Join(err, p.close()); err != nil {
		return fmt.Errorf("detach hook from device %d: %w", p.ifindex, err)
	}
	return nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// dropMaps closes some of a program's that was loaded, which holds them itself.
func dropMaps(maps map[string]*ebpf.Map, names []string) {
	for _, name := range names {
		if m := maps[name]; m != nil {
			m.Close()
			delete(maps, name)
		}
	}
}

func dropSpecs(spec *ebpf.CollectionSpec, names []string) {
	for _, name := range names {
		delete(spec.Maps, name)
	}
}
