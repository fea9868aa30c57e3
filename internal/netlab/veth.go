// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a veth pair.
type End struct {
	In        *Namespace
	Device    string         // its name, up to 15 bytes
	MTU       int            // bytes, up to 65535; 0: 1500
	Queues    int            // receive and transmit queues each; 0: 1
	Addresses []netip.Prefix // with the length of their subnets
	MAC       net.HardwareAddr
}

// Veth makes a pair of devices, each in its namespace from the start, gives them their addresses, brings them up and
// waits until they carry packets.
func (l *Lab) Veth(a, b End) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.Device, mtu(a), a.MAC
	attrs.NumTxQueues, attrs.NumRxQueues = queues(a), queues(a)
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: b.Device, PeerHardwareAddr: b.MAC, PeerNamespace: netlink.NsFd(b.In.handle),
		PeerMTU: uint32(mtu(b)), PeerNumTxQueues: uint32(queues(b)), PeerNumRxQueues: uint32(queues(b)),
	}
	if err := a.In.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth pair %s and %s: %w", a.Device, b.Device, err)
	}
	l.links = append(l.links, ownedLink{a.In, veth})
	for _, e := range []End{a, b} {
		if err := e.configure(); err != nil {
			return fmt.Errorf("set up %s in namespace %s: %w", e.Device, e.In.name, err)
		}
	}
	for _, e := range []End{a, b} {
		if err := e.await(); err != nil {
			return fmt.Errorf("wait for %s in namespace %s: %w", e.Device, e.In.name, err)
		}
	}
	return nil
}

// await waits until the device carries packets and its addresses are in use. Both follow the carrier by way of a work
// queue (net/core/link_watch.c): until it has run, the device's qdisc drops in silence.
func (e End) await() error {
	const within = 5 * time.Second
	for deadline := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
		ready, err := e.ready()
		if ready || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not up within %v", within)
		}
	}
}

func (e End) ready() (bool, error) {
	link, err := e.In.links.LinkByName(e.Device)
	if err != nil {
		return false, err
	}
	addresses, err := e.In.links.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return false, err
	}
	for _, a := range addresses {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return false, nil
		}
	}
	return link.Attrs().OperState == netlink.OperUp, nil
}

func mtu(e End) int {
	if e.MTU == 0 {
		return 1500
	}
	return e.MTU
}

func queues(e End) int { return max(e.Queues, 1) }

func (e End) configure() error {
	link, err := e.In.links.LinkByName(e.Device)
	if err != nil {
		return err
	}
	for _, a := range e.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if err := e.In.links.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return e.In.links.LinkSetUp(link)
}

// Address adds an address to a device. It is good at once: nobody is asked whether somebody else has it.
func (n *Namespace) Address(device string, a netip.Prefix) error {
	link, err := n.links.LinkByName(device)
	if err == nil {
		is := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			is.Flags = unix.IFA_F_NODAD
		}
		err = n.links.AddrAdd(link, is)
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s in namespace %s: %w", a, device, n.name, err)
	}
	return nil
}

// Route adds a route by a gateway on a device. mtu is the path's in bytes, 0 for the device's.
func (n *Namespace) Route(destination netip.Prefix, via netip.Addr, device string, mtu int) error {
	link, err := n.links.LinkByName(device)
	if err == nil {
		err = n.links.RouteAdd(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(destination.Masked()), Gw: via.AsSlice(), MTU: mtu,
		})
	}
	if err != nil {
		return fmt.Errorf("add route to %s by %s in namespace %s: %w", destination, via, n.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
