// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TrunkOptions say what LoadTrunk is to load.
type TrunkOptions struct {
	// PinDir is the trunk's own directory on a bpffs (see MountBPFFS), which LoadTrunk creates. Empty: nothing is pinned,
	// and Close takes off all hooks.
	PinDir string
	// MaxPorts is how many ports there may be; 0: 65536. Pinned maps of another size are not taken over.
	MaxPorts uint32
	// Flows is by what from_port, and from_uplink of the trunk's services, carry flows; nil: all packets go to
	// userspace. It must stay open for as long as the trunk is, and its maps are pinned by itself.
	Flows *FlowTable
}

const defaultMaxPorts = 65536

// Trunk is the hooks of pods: from_port at the host's end of each port's veth, through which packets reach userspace by
// the trunk, and to_port at the trunk's inner device, through which they reach the pods. Its methods may be called
// concurrently. Devices are those of the calling thread's network namespace, which must be the same for all calls.
//
// Both hooks fail closed: a packet goes where they say, or is dropped and counted.
type Trunk struct {
	fromPort, toPort *ebpf.Program
	maps             map[string]*ebpf.Map
	flows            *FlowTable // nil: none
	pins             string     // empty: not pinned

	mu     sync.Mutex
	link   link.Link // of to_port; nil until attached
	closed bool
}

// LoadTrunk loads the programs and their maps; maps pinned in PinDir are taken over with the ports in them, whose hooks
// go on with the programs they have until SetPort. Errors: ErrNotSupported when the kernel lacks something.
func LoadTrunk(options TrunkOptions) (*Trunk, error) {
	t := &Trunk{pins: pinDirOf(options.PinDir), flows: options.Flows}
	if err := t.load(options); err != nil {
		return nil, fmt.Errorf("load trunk: %w", errors.Join(err, t.release()))
	}
	return t, nil
}

func (t *Trunk) load(options TrunkOptions) error {
	specs, err := trunkSpecs(options)
	if err != nil {
		return err
	}
	pinned := pinnedMaps(t.pins, specs[1]) // which has the trunk's maps and no others
	defer closeMaps(pinned)                // the collection has its own descriptors
	use := maps.Clone(pinned)
	options.Flows.into(specs[0], use)
	from, err := loadProgram(specs[0], _FromPortBytes, fromPortProgFromPort, use, t.pins)
	if err != nil {
		return err
	}
	t.fromPort, t.maps = from.program, from.maps
	dropMaps(t.maps, flowMaps)
	to, err := loadProgram(specs[1], _ToPortBytes, toPortProgToPort, t.maps, t.pins)
	if err != nil {
		return err
	}
	t.toPort = to.program
	closeMaps(to.maps) // those of t.maps, once more
	if err := t.addCounters(noPort); err != nil {
		return err
	}
	if err := t.pinMaps(pinned); err != nil {
		return err
	}
	from.pinProgram(_FromPortBytes, fromPortProgFromPort, t.pins)
	to.pinProgram(_ToPortBytes, toPortProgToPort, t.pins)
	return nil
}

// trunkSpecs are those of from_port and to_port, with maps of the right size.
func trunkSpecs(options TrunkOptions) ([2]*ebpf.CollectionSpec, error) {
	from, err := loadFromPort()
	if err != nil {
		return [2]*ebpf.CollectionSpec{}, err
	}
	to, err := loadToPort()
	if err != nil {
		return [2]*ebpf.CollectionSpec{}, err
	}
	entries := options.MaxPorts
	if entries == 0 {
		entries = defaultMaxPorts
	}
	specs := [2]*ebpf.CollectionSpec{from, to}
	for _, spec := range specs {
		spec.Maps["stations"].MaxEntries = entries
		spec.Maps["ports"].MaxEntries = entries
		spec.Maps["port_counters"].MaxEntries = entries + 1                // and those of noPort
		spec.Maps["addresses"].MaxEntries = max(2*entries, 2*maxAddresses) // most have one of each family
	}
	return specs, nil
}

// pinMaps pins those maps that were not taken over, in place of any that did not fit.
func (t *Trunk) pinMaps(pinned map[string]*ebpf.Map) error {
	if t.pins == "" {
		return nil
	}
	if err := os.MkdirAll(t.pins, 0o700); err != nil {
		return fmt.Errorf("pin maps: %w", err)
	}
	for name, m := range t.maps {
		if pinned[name] != nil {
			continue
		}
		path := filepath.Join(t.pins, name)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove pin of map %s: %w", name, err)
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin map %s (is %s on a bpffs?): %w", name, t.pins, err)
		}
	}
	return nil
}

// Close lets go of the trunk. The hooks at ports stay with their devices and go on handing packets to the trunk, for
// the next SetPort to replace; with pins the hook at the trunk stays as well, and the next LoadTrunk takes it all over.
// Closing twice is no error.
func (t *Trunk) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.release()
}

// Detach takes off all hooks, removes the pins and closes the trunk. Devices may be gone already. What a port's device
// receives afterwards is for the host's stack.
func (t *Trunk) Detach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	err := t.removeAll()
	if t.link != nil {
		err = errors.Join(err, t.link.Detach())
	}
	if err = errors.Join(err, detachPins(t.pins), t.release()); err != nil {
		return fmt.Errorf("detach trunk: %w", err)
	}
	return nil
}

func (t *Trunk) removeAll() error {
	ids, err := t.ports()
	for _, id := range ids {
		err = errors.Join(err, t.takeOff(id))
	}
	return err
}

// release closes all descriptors.
func (t *Trunk) release() error {
	var err error
	if t.link != nil {
		err = t.link.Close()
		t.link = nil
	}
	for _, p := range []*ebpf.Program{t.fromPort, t.toPort} {
		err = errors.Join(err, p.Close()) // nil is closed
	}
	closeMaps(t.maps)
	t.closed = true
	return err
}
