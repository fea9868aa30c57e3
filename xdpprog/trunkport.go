// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// TrunkPort is a port on the trunk and the only station behind it.
type TrunkPort struct {
	ID        uint32       // PortID, 1 to 2^24-1
	IfIndex   int          // the host's end of the port's veth, at whose ingress from_port is
	MAC       [6]byte      // of the station
	Addresses []netip.Addr // of the station, at most 4 of each family
	Router    bool         // it forwards for others: its sources are not checked by address
	// Host: the station is the host's own stack. Packets to it enter at HostIfIndex, the other end of the veth, which is
	// in the same namespace.
	Host        bool
	HostIfIndex int
}

// maxAddresses is MAX_ADDRESSES of bpf/shared.h.
const maxAddresses = 4

// noPort has the counters of packets that belong to no port.
const noPort = 0

// AddressesError says that a station has more addresses of a family than its hook can know.
type AddressesError struct {
	Port   uint32
	Family int // 4 or 6
	Count  int
}

// Error says how many there are and may be.
func (e *AddressesError) Error() string {
	return fmt.Sprintf("port %d has %d IPv%d addresses, at most %d are possible", e.Port, e.Count, e.Family, maxAddresses)
}

// stationValue is struct station of bpf/shared.h.
type stationValue struct {
	Port      uint32
	MAC       [6]byte
	Router    uint8
	IPv4Count uint8
	IPv6Count uint8
	_         [3]byte
	IPv4      [maxAddresses][4]byte
	IPv6      [maxAddresses][16]byte
}

// portValue is struct port of bpf/shared.h.
type portValue struct {
	IfIndex     uint32
	HostIfIndex uint32
	MAC         [6]byte
	_           [2]byte
}

func (p TrunkPort) port() (portValue, error) {
	v := portValue{IfIndex: uint32(p.IfIndex), MAC: p.MAC}
	switch {
	case p.ID == noPort || p.ID >= 1<<24:
		return v, fmt.Errorf("a PortID is 1 to %d", 1<<24-1)
	case p.IfIndex <= 0:
		return v, fmt.Errorf("device %d: %w", p.IfIndex, ErrNoDevice)
	case p.Host && p.HostIfIndex <= 0:
		return v, fmt.Errorf("device %d of the host: %w", p.HostIfIndex, ErrNoDevice)
	case p.Host:
		v.HostIfIndex = uint32(p.HostIfIndex)
	}
	return v, nil
}

func (p TrunkPort) station() (stationValue, error) {
	v := stationValue{Port: p.ID, MAC: p.MAC}
	if p.Router {
		v.Router = 1
	}
	var v4, v6 []netip.Addr
	for _, a := range p.Addresses {
		switch {
		case a.Is4():
			v4 = append(v4, a)
		case a.Is6() && !a.Is4In6():
			v6 = append(v6, a)
		default:
			return v, fmt.Errorf("%q is no IPv4 or IPv6 address", a)
		}
	}
	for family, count := range map[int]int{4: len(v4), 6: len(v6)} {
		if count > maxAddresses {
			return v, &AddressesError{Port: p.ID, Family: family, Count: count}
		}
	}
	for i, a := range v4 {
		v.IPv4[i] = a.As4()
	}
	for i, a := range v6 {
		v.IPv6[i] = a.As16()
	}
	v.IPv4Count, v.IPv6Count = uint8(len(v4)), uint8(len(v6))
	return v, nil
}

// addresses are those that the station has.
func (v *stationValue) addresses() []netip.Addr {
	var all []netip.Addr
	for _, a := range v.IPv4[:v.IPv4Count] {
		all = append(all, netip.AddrFrom4(a))
	}
	for _, a := range v.IPv6[:v.IPv6Count] {
		all = append(all, netip.AddrFrom16(a))
	}
	return all
}

// SetPort adds a port or replaces it: first in the maps, so that the hook knows what it meets, then at the device. A
// device has one port: from another that had it, it is taken with its hook. Counters of a port that is replaced go on.
// On an error of the maps or the device the port is in no map: if our hook is at the device, it passes nothing. Errors:
// *AddressesError, ErrNoDevice.
func (t *Trunk) SetPort(p TrunkPort) error {
	port, portErr := p.port()
	station, stationErr := p.station()
	if err := errors.Join(portErr, stationErr); err != nil {
		return fmt.Errorf("set port %d: %w", p.ID, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.makeRoom(p)
	if err == nil {
		err = t.putPort(p, port, station)
	}
	if err == nil {
		err = attachFilter(p.IfIndex, t.fromPort.FD())
	}
	if err != nil {
		return fmt.Errorf("set port %d: %w", p.ID, errors.Join(err, t.forget(p)))
	}
	return nil
}

// forget takes a port out of the maps and leaves its device alone: without a hook that is there already, what the
// device receives would be the host's stack's.
func (t *Trunk) forget(p TrunkPort) error {
	return errors.Join(remove(t.maps["stations"], uint32(p.IfIndex)), t.removeAddresses(p.ID, p.Addresses, nil),
		remove(t.maps["port_counters"], p.ID), remove(t.maps["ports"], p.ID))
}

// makeRoom ends what the port, or another one, had with other or the same device.
func (t *Trunk) makeRoom(p TrunkPort) error {
	var port portValue
	if found, err := lookup(t.maps["ports"], p.ID, &port); err != nil {
		return err
	} else if found && port.IfIndex != uint32(p.IfIndex) {
		if err := t.leaveDevice(p.ID, port.IfIndex); err != nil {
			return err
		}
	}
	var station stationValue
	if found, err := lookup(t.maps["stations"], uint32(p.IfIndex), &station); err != nil {
		return err
	} else if found && station.Port != p.ID {
		return errors.Join(t.removeAddresses(station.Port, station.addresses(), nil),
			remove(t.maps["port_counters"], station.Port), remove(t.maps["ports"], station.Port))
	} else if found {
		return t.removeAddresses(p.ID, station.addresses(), p.Addresses)
	}
	return nil
}

func (t *Trunk) putPort(p TrunkPort, port portValue, station stationValue) error {
	if err := t.addCounters(p.ID); err != nil {
		return err
	}
	if err := t.maps["ports"].Put(p.ID, port); err != nil {
		return fmt.Errorf("add port: %w", err)
	}
	if err := t.maps["stations"].Put(port.IfIndex, station); err != nil {
		return fmt.Errorf("add station: %w", err)
	}
	if p.Host {
		return nil
	}
	for _, a := range p.Addresses {
		if err := t.maps["addresses"].Put(mappedAddress(a.As16()), p.ID); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

// removeAddresses has addresses lead to the port no more, but for those that stay.
func (t *Trunk) removeAddresses(id uint32, addresses, stay []netip.Addr) error {
	for _, a := range addresses {
		if slices.Contains(stay, a) {
			continue
		}
		var leads uint32
		err := t.maps["addresses"].Lookup(mappedAddress(a.As16()), &leads)
		if err == nil && leads == id { // it may be another port's by now
			err = t.maps["addresses"].Delete(mappedAddress(a.As16()))
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove address %s: %w", a, err)
		}
	}
	return nil
}

// RemovePort takes a port out of the maps. It is no error when it is in none. Its hook stays at the device for as long
// as that is there, and passes nothing on: what a pod sends that has lost its port is not the host's stack's, either.
func (t *Trunk) RemovePort(id uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.removePort(id); err != nil {
		return fmt.Errorf("remove port %d: %w", id, err)
	}
	return nil
}

// removePort: the entry in ports goes last, so that what failed can be repeated.
func (t *Trunk) removePort(id uint32) error {
	var port portValue
	found, err := lookup(t.maps["ports"], id, &port)
	if err != nil || !found {
		return err
	}
	if err := t.leaveDevice(id, port.IfIndex); err != nil {
		return err
	}
	return errors.Join(remove(t.maps["port_counters"], id), remove(t.maps["ports"], id))
}

// leaveDevice has a device be no port's, unless it is another's.
func (t *Trunk) leaveDevice(id, ifindex uint32) error {
	var station stationValue
	found, err := lookup(t.maps["stations"], ifindex, &station)
	if err != nil || (found && station.Port != id) {
		return err
	}
	return errors.Join(t.removeAddresses(id, station.addresses(), nil), remove(t.maps["stations"], ifindex))
}

// takeOff removes a port with its hook.
func (t *Trunk) takeOff(id uint32) error {
	var port portValue
	found, err := lookup(t.maps["ports"], id, &port)
	if err != nil || !found {
		return err
	}
	return errors.Join(t.removePort(id), detachFilter(int(port.IfIndex)))
}

// Ports returns the PortIDs in the maps, in no order: also those of which LoadTrunk has taken over the maps.
func (t *Trunk) Ports() ([]uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ports()
}

func (t *Trunk) ports() ([]uint32, error) {
	var ids []uint32
	var id uint32
	var value portValue
	entries := t.maps["ports"].Iterate()
	for entries.Next(&id, &value) {
		ids = append(ids, id)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read ports: %w", err)
	}
	return ids, nil
}

func lookup(m *ebpf.Map, key uint32, value any) (bool, error) {
	err := m.Lookup(key, value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %d of %s: %w", key, m, err)
	}
	return true, nil
}

func remove(m *ebpf.Map, key uint32) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %d of %s: %w", key, m, err)
	}
	return nil
}
