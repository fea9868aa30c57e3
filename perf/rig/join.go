// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Join makes a veth pair across two namespaces, both ends of which have the same name, and brings both up.
func Join(a, b *Namespace, name string, mtu int) error {
	h, err := a.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, PeerName: name, PeerMTU: uint32(mtu),
		PeerNamespace: netlink.NsFd(b.FD()),
	})
	if err != nil {
		return fmt.Errorf("make veth pair %s: %w", name, err)
	}
	_, errA := a.raise(name)
	_, errB := b.raise(name)
	return errors.Join(errA, errB)
}

// AddAddress gives a device one more.
func (n *Namespace) AddAddress(device string, address netip.Prefix) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", address, device, err)
	}
	return nil
}

// AddRoute routes a prefix through a neighbour.
func (n *Namespace) AddRoute(to netip.Prefix, via netip.Addr) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route to %s: %w", to, err)
	}
	return nil
}
