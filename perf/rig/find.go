// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device finds a device and its first global address of each family.
func (n *Namespace) Device(name string) (Device, error) {
	h, err := n.Netlink()
	if err != nil {
		return Device{}, err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return Device{}, fmt.Errorf("find device %s: %w", name, err)
	}
	d := Device{Name: name, Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr}
	addresses, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return Device{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addresses {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		switch p := netip.PrefixFrom(ip.Unmap(), bits); {
		case a.Scope != int(netlink.SCOPE_UNIVERSE):
		case p.Addr().Is4() && !d.Addr4.IsValid():
			d.Addr4 = p
		case p.Addr().Is6() && !d.Addr6.IsValid():
			d.Addr6 = p
		}
	}
	return d, nil
}

// Peer finds the other end of a veth pair, which is in the namespace other.
func (n *Namespace) Peer(d Device, other *Namespace) (Device, error) {
	h, err := n.Netlink()
	if err != nil {
		return Device{}, err
	}
	defer h.Close()
	link, err := h.LinkByIndex(d.Index)
	if err != nil {
		return Device{}, fmt.Errorf("find device %s: %w", d.Name, err)
	}
	there, err := other.Netlink()
	if err != nil {
		return Device{}, err
	}
	defer there.Close()
	peer, err := there.LinkByIndex(link.Attrs().ParentIndex)
	if err != nil {
		return Device{}, fmt.Errorf("find peer of device %s: %w", d.Name, err)
	}
	a := peer.Attrs()
	return Device{Name: a.Name, Index: a.Index, MAC: a.HardwareAddr}, nil
}

// LimitMTU bounds packets to an address, in bytes, by a route of its own where they go anyway.
func (n *Namespace) LimitMTU(to netip.Addr, mtu int) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	found, err := lookUp(h, to)
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: found.LinkIndex, Dst: ipNet(netip.PrefixFrom(to, to.BitLen())), Gw: found.Gw, MTU: mtu,
		Scope: netlink.SCOPE_LINK,
	}
	if found.Gw != nil {
		route.Scope = netlink.SCOPE_UNIVERSE
		route.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("limit MTU of route to %s: %w", to, err)
	}
	return nil
}

func lookUp(h *netlink.Handle, to netip.Addr) (netlink.Route, error) {
	routes, err := h.RouteGet(to.AsSlice())
	if err != nil {
		return netlink.Route{}, fmt.Errorf("look up route to %s: %w", to, err)
	}
	return routes[0], nil
}

// NextHop resolves the MAC that packets to an address are sent to: that of its gateway, or its own.
func (n *Namespace) NextHop(to netip.Addr) (net.HardwareAddr, error) {
	h, err := n.Netlink()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	route, err := lookUp(h, to)
	if err != nil {
		return nil, err
	}
	hop, family := to, unix.AF_INET
	if via, ok := netip.AddrFromSlice(route.Gw); ok {
		hop = via.Unmap()
	}
	if hop.Is6() {
		family = unix.AF_INET6
	}
	for deadline := time.Now().Add(resolveTime); ; time.Sleep(5 * time.Millisecond) {
		if err := n.Do(func() error { return touch(to) }); err != nil {
			return nil, err
		}
		neighbors, err := h.NeighList(route.LinkIndex, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbors: %w", err)
		}
		for _, neighbor := range neighbors {
			if neighbor.IP.Equal(hop.AsSlice()) && len(neighbor.HardwareAddr) > 0 {
				return neighbor.HardwareAddr, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s, on the way to %s, does not say its MAC", hop, to)
		}
	}
}

// resolveTime is how long a neighbor may take to answer.
const resolveTime = 5 * time.Second

// touch sends a byte, so that the kernel resolves where to.
func touch(to netip.Addr) error {
	const discard = 9
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, discard)))
	if err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	defer c.Close()
	_, _ = c.Write([]byte{0}) // refused when one before has reached a host that does not listen
	return nil
}
