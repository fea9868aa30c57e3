// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Frontend is where a service takes traffic.
type Frontend struct {
	Addr  netip.Addr // the unspecified address of a family: all addresses that are AtNodePorts
	Proto uint8      // TCP, UDP or SCTP
	Port  uint16
}

// Uses is what an address is, as far as services go: AT_ bits of bpf/shared.h.
type Uses uint32

// The uses of addresses.
const (
	AtFrontend  Uses = 1 << iota // some frontend has it
	AtNodePorts                  // node ports are there
	AtLoopback                   // node ports are there for the node's own sockets; 127.0.0.1 stands for 127.0.0.0/8
	AtEgress                     // what comes to it is the dataplane's, of one that is AtHost what no socket there is for
	AtHost                       // one of the host's own: what pretends to come from it is left to the stack
)

// mappedAddress is struct ip_address of bpf/shared.h.
type mappedAddress [16]byte

// frontendKey is struct frontend of bpf/shared.h.
type frontendKey struct {
	Address mappedAddress
	Port    [2]byte
	Proto   uint8
	_       uint8
}

func (f Frontend) key() frontendKey {
	return frontendKey{Address: f.Addr.As16(), Port: [2]byte{byte(f.Port >> 8), byte(f.Port)}, Proto: f.Proto}
}

func (k frontendKey) frontend() Frontend {
	return Frontend{netip.AddrFrom16(k.Address).Unmap(), k.Proto, uint16(k.Port[0])<<8 | uint16(k.Port[1])}
}

// SetFrontend has the hooks take what is for a frontend, at an address whose use says so.
func (s *Services) SetFrontend(f Frontend) error {
	if err := s.maps["frontends"].Put(f.key(), uint8(0)); err != nil {
		return fmt.Errorf("add frontend %s: %w", f, err)
	}
	return nil
}

// RemoveFrontend undoes SetFrontend. It is no error when there is none.
func (s *Services) RemoveFrontend(f Frontend) error {
	if err := s.maps["frontends"].Delete(f.key()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove frontend %s: %w", f, err)
	}
	return nil
}

func (f Frontend) String() string {
	return fmt.Sprintf("%s protocol %d port %d", f.Addr, f.Proto, f.Port)
}

// SetAddress says what an address is; 0: nothing to services.
func (s *Services) SetAddress(a netip.Addr, uses Uses) error {
	key, m := mappedAddress(a.As16()), s.maps["service_addresses"]
	var err error
	if uses != 0 {
		err = m.Put(key, uses)
	} else if err = m.Delete(key); errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("set address %s: %w", a, err)
	}
	return nil
}

// Frontends reads what SetFrontend has set, also in the process before.
func (s *Services) Frontends() ([]Frontend, error) {
	var list []Frontend
	var key frontendKey
	var value uint8
	entries := s.maps["frontends"].Iterate()
	for entries.Next(&key, &value) {
		list = append(list, key.frontend())
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	return list, nil
}

// Addresses reads what SetAddress has set, also in the process before.
func (s *Services) Addresses() (map[netip.Addr]Uses, error) {
	all := make(map[netip.Addr]Uses)
	var key mappedAddress
	var uses Uses
	entries := s.maps["service_addresses"].Iterate()
	for entries.Next(&key, &uses) {
		all[netip.AddrFrom16(key).Unmap()] = uses
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read addresses of services: %w", err)
	}
	return all, nil
}

// SetPods says which prefixes are this node's pods': what pretends to come from there is left to the stack.
func (s *Services) SetPods(prefixes []netip.Prefix) error {
	values := make(map[netip.Prefix]uint8, len(prefixes))
	for _, p := range prefixes {
		values[p] = takesAll
	}
	if err := setPrefixes(s.maps["pods"], values); err != nil {
		return fmt.Errorf("set pods' prefixes: %w", err)
	}
	return nil
}
