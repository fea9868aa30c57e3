// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// maxWires is how many devices a hook's packets may be redirected to.
const maxWires = 1024

// VLANs are a packet's VLAN identifiers, outer first, 1 to 4094; 0: no such tag. It is struct vlans of bpf/shared.h.
type VLANs struct{ Outer, Inner uint16 }

// CarriedFrom says which of a device's packets the hook may carry, and to where. The zero value: none.
type CarriedFrom struct {
	MAC   [6]byte          // of the device
	Ports map[VLANs]uint32 // PortID by the tags that its packets have
	Wires []int            // devices, by ifindex, that XDP can redirect packets to: at most 1024
}

// SetCarried says what the hook carries from the next packet on, of the flows that the flow table has. Where a flow
// leads to a device that is not among the wires, its packets go to userspace. An error may leave some of the changes
// made; the call can be repeated.
func (p *Port) SetCarried(c CarriedFrom) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wires := make(map[uint32]uint32, len(c.Wires))
	for _, ifindex := range c.Wires {
		wires[uint32(ifindex)] = uint32(ifindex)
	}
	tagged := make(map[VLANs]uint32, len(c.Ports))
	for tags, id := range c.Ports {
		if tags != (VLANs{}) {
			tagged[tags] = id
		}
	}
	config := p.config
	config.MAC, config.Port = c.MAC, c.Ports[VLANs{}]
	err := errors.Join(put(p.maps["wires"], wires), put(p.maps["tagged"], tagged))
	if err == nil && config != p.config {
		err = p.configure(config)
	}
	if err != nil {
		return fmt.Errorf("set what is carried: %w", err)
	}
	return nil
}

// put brings a map to hold these entries, removals first.
func put[K comparable](m *ebpf.Map, want map[K]uint32) error {
	var stale []K
	var key K
	var value uint32
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if is, wanted := want[key]; !wanted {
			stale = append(stale, key)
		} else if is == value {
			delete(want, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read map: %w", err)
	}
	for _, key := range stale {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove %v: %w", key, err)
		}
	}
	for key, value := range want {
		if err := m.Put(key, value); err != nil {
			return fmt.Errorf("add %v: %w", key, err)
		}
	}
	return nil
}

// LeadsOn says whether flows are carried from the device to pods and the host, or why not.
func (p *Port) LeadsOn() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notOnward
}

// loadTC loads from_wire_tc, where there is a flow table.
func (p *Port) loadTC() error {
	if p.options.Flows == nil {
		return nil
	}
	spec, err := loadWireTC()
	if err != nil {
		return err
	}
	use := make(map[string]*ebpf.Map)
	p.options.Flows.into(spec, use)
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use})
	if err != nil {
		return explainLoad(err)
	}
	p.tc = collection.Programs[wireTCProgFromWireTc]
	closeMaps(collection.Maps)
	return nil
}

// leadOn attaches from_wire_tc to the device, takes it over, or takes it off where nothing is carried. Without it the
// XDP hook passes it nothing.
func (p *Port) leadOn() {
	l, err := p.pinnedTC()
	switch {
	case err != nil:
	case p.tc == nil:
		err = ErrNoFlowTable
		if l != nil {
			err = errors.Join(err, dropLink(l))
		}
	case l != nil:
		p.onward, err = l, l.Update(p.tc)
	default:
		p.onward, err = p.attachTC()
	}
	config := p.config
	config.TC = 0
	if err == nil {
		config.TC = 1
	}
	p.notOnward = errors.Join(err, p.configure(config))
}

// pinnedTC is the link of from_wire_tc that a process before left at the device; what is left elsewhere goes.
func (p *Port) pinnedTC() (link.Link, error) {
	if p.pins == "" {
		return nil, nil
	}
	l, err := link.LoadPinnedLink(filepath.Join(p.pins, pinnedTC), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned hook: %w", err)
	}
	at, err := deviceOf(l)
	if err == nil && at == p.ifindex {
		return l, nil
	}
	return nil, errors.Join(err, dropLink(l))
}

func (p *Port) attachTC() (link.Link, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: p.ifindex, Program: p.tc,
		Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if err != nil {
		return nil, explainTCX(err)
	}
	if p.pins == "" {
		return l, nil
	}
	if err := l.Pin(filepath.Join(p.pins, pinnedTC)); err != nil {
		return nil, errors.Join(fmt.Errorf("pin hook: %w", err), l.Detach(), l.Close())
	}
	return l, nil
}

// dropLink takes off a hook that is pinned.
func dropLink(l link.Link) error { return errors.Join(l.Detach(), l.Unpin(), l.Close()) }

// stopLeading takes from_wire_tc off.
func (p *Port) stopLeading() error {
	if p.onward == nil {
		return nil
	}
	return p.onward.Detach()
}
