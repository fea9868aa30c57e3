// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"maps"
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

func (a OnAbsence) action() uint32 {
	if a == Pass {
		return xdpPass
	}
	return xdpDrop
}

// configValue is struct config of bpf/shared.h.
type configValue struct {
	MAC       [6]byte
	TC        uint8
	Owed      uint8 // reserved there: for Owe
	Port      uint32
	OnAbsence uint32
}

// Options say what Load is to load.
type Options struct {
	Mode      Mode
	OnAbsence OnAbsence
	// PinDir is the port's own directory on a bpffs (see MountBPFFS), which Attach creates; dots in its last element
	// are escaped, as a bpffs has none. Empty: nothing is pinned, and the hook goes with the process.
	PinDir string
	// Queues is the device's number of receive queues, at least 1. Packets of higher queues count as without socket.
	Queues int
	// Flows is by what the hook carries flows, once SetCarried says of which ports; nil: it carries none. It must stay
	// open for as long as the port is, and its maps are pinned by itself.
	Flows *FlowTable
}

// Port is the hook at one device. Its methods may be called concurrently.
type Port struct {
	options Options
	program *ebpf.Program
	loaded  *verified // the same
	object  []byte    // that it is of
	name    string
	tc      *ebpf.Program // from_wire_tc; nil without Flows
	maps    map[string]*ebpf.Map
	pins    string // directory of the pins, and the one in which they are built; empty: not pinned
	aside   string

	mu      sync.Mutex
	link    link.Link // nil until attached
	adopted bool      // it was a process's before
	ifindex int
	mode    DriverMode
	config  configValue
	onward  link.Link // of from_wire_tc; nil where that is not attached

	notOnward error // why it is not

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
	spec, object, name, err := specFor(options)
	if err != nil {
		return nil, fmt.Errorf("load hook: %w", err)
	}
	pins := pinDirOf(options.PinDir)
	pinned := pinnedMaps(pins, spec)
	use := maps.Clone(pinned)
	options.Flows.into(spec, use)
	l, err := loadProgram(spec, object, name, use, pins)
	closeMaps(pinned) // what was loaded has its own descriptors
	if err != nil {
		return nil, fmt.Errorf("load hook: %w", err)
	}
	dropMaps(l.maps, flowMaps)
	p := &Port{
		options: options, program: l.program, loaded: l, object: object, name: name, maps: l.maps,
		pins: pins, aside: asideOf(pins),
		rename: os.Rename, update: func(l link.Link, to *ebpf.Program) error { return l.Update(to) },
	}
	if err := p.begin(pinned["config"] != nil); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// begin takes over what the maps say, or has them say what they are to say at first.
func (p *Port) begin(adopted bool) error {
	if err := p.loadTC(); err != nil {
		return err
	}
	if !adopted {
		return p.SetOnAbsence(p.options.OnAbsence)
	}
	if err := p.maps["config"].Lookup(uint32(0), &p.config); err != nil {
		return fmt.Errorf("read pinned settings: %w", err)
	}
	return nil
}

func specFor(options Options) (spec *ebpf.CollectionSpec, object []byte, name string, err error) {
	load, object, name := loadOwned, _OwnedBytes, ownedProgFromWireOwned
	if options.Mode == Shared {
		load, object, name = loadShared, _SharedBytes, sharedProgFromWireShared
	}
	if spec, err = load(); err != nil {
		return nil, nil, "", err
	}
	spec.Maps["sockets"].MaxEntries = uint32(options.Queues)
	spec.Maps["wires"].MaxEntries = maxWires
	return spec, object, name, nil
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
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.setOnAbsence(to)
}

func (p *Port) setOnAbsence(to OnAbsence) error {
	c := p.config
	c.OnAbsence = to.action()
	if err := p.configure(c); err != nil {
		return fmt.Errorf("set on-absence to %s: %w", to, err)
	}
	return nil
}

func (p *Port) configure(c configValue) error {
	if err := p.maps["config"].Put(uint32(0), c); err != nil {
		return err
	}
	p.config = c
	return nil
}

// Owe notes, in what is pinned, that something of the device is to be given back once the hook goes.
func (p *Port) Owe(owed bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.config
	if c.Owed = 0; owed {
		c.Owed = 1
	}
	if err := p.configure(c); err != nil {
		return fmt.Errorf("note what is owed: %w", err)
	}
	return nil
}

// Owes says what Owe was told last, by a process before too.
func (p *Port) Owes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.Owed != 0
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
	if p.onward != nil {
		err = errors.Join(err, p.onward.Close())
		p.onward = nil
	}
	closeMaps(p.maps)
	return errors.Join(err, p.program.Close(), p.tc.Close()) // nil is closed
}

// Detach takes the hook off the device, removes its pins and closes the port. The device may be gone already.
func (p *Port) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.link != nil {
		err = errors.Join(p.link.Detach(), p.stopLeading(), removePins(p.pins))
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
