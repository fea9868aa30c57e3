// SPDX-License-Identifier: Apache-2.0

// Package rig builds what measurements run in: three network namespaces in a row, joined by veth pairs,
//
//	Generator: gen ── left :DUT: right ── sink :Sink
//
// with a device under test in the middle. Nothing of it is visible outside, so any number of rigs stand side by side.
package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MaxRoutes is the number of distinct prefixes that Prefix can make of either family.
const MaxRoutes = 1 << 15

// Options of a rig.
type Options struct {
	Queues int // receive and transmit queues of each device, at least 1
	MTU    int // of each device, bytes; 68 to 65535
}

// Rig is three namespaces and their devices. The zero value is of no use; see New.
type Rig struct {
	Options
	Generator, DUT, Sink *Namespace
	Gen, Left            Device // one veth pair
	Right, Sunk          Device // the other; Sunk is the sink's end

	// Front is an address that leads the generator to the sink, which has it not; the zero value where there is none.
	Front netip.Addr

	short bool // see Shorten
}

// Target is the IPv4 address that the generator reaches the sink by: Front, or the sink's own.
func (r *Rig) Target() netip.Addr {
	if r.Front.IsValid() {
		return r.Front
	}
	return r.Sunk.Addr4.Addr()
}

// Device is one end of a veth pair. Addr4 and Addr6 are planned, not configured: see ConfigureEnds.
type Device struct {
	Name         string
	Index        int
	MAC          net.HardwareAddr
	Addr4, Addr6 netip.Prefix
}

// New builds a rig. The caller closes it; if the process dies first, the kernel does.
func New(o Options) (*Rig, error) {
	if o.Queues < 1 || o.MTU < 68 || o.MTU > 65535 {
		return nil, fmt.Errorf("rig of %d queues and MTU %d: want at least 1 queue, MTU 68 to 65535", o.Queues, o.MTU)
	}
	r, err := Bare()
	if err != nil {
		return nil, err
	}
	r.Options = o
	r.Gen, r.Left = device("gen", 1, 2), device("left", 1, 1)
	r.Right, r.Sunk = device("right", 2, 1), device("sink", 2, 2)
	if err := r.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("build rig: %w", err), r.Close())
	}
	return r, nil
}

// Bare builds the three namespaces without any device, for a subject that makes them.
func Bare() (*Rig, error) {
	r := &Rig{}
	for _, n := range []**Namespace{&r.Generator, &r.DUT, &r.Sink} {
		made, err := NewNamespace()
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		*n = made
	}
	return r, nil
}

func device(name string, network, host byte) Device {
	v6 := [16]byte{0: 0xfd, 3: network, 15: host}
	return Device{
		Name:  name,
		MAC:   net.HardwareAddr{2, 0, 0, 0, network, host},
		Addr4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, network, 0, host}), 24),
		Addr6: netip.PrefixFrom(netip.AddrFrom16(v6), 64),
	}
}

func (r *Rig) build() error {
	if err := r.pair(r.Generator, &r.Gen, r.DUT, &r.Left); err != nil {
		return err
	}
	return r.pair(r.Sink, &r.Sunk, r.DUT, &r.Right)
}

// Shorten joins a bare rig's generator and sink by one veth pair, whose two devices have one name, and nothing between
// them. Left and Right are then the ends that frames go to.
func (r *Rig) Shorten(name string, o Options) error {
	r.Options, r.short = o, true
	r.Gen, r.Sunk = device(name, 1, 1), device(name, 1, 2)
	if err := r.pair(r.Generator, &r.Gen, r.Sink, &r.Sunk); err != nil {
		return err
	}
	r.Left, r.Right = r.Sunk, r.Gen
	return errors.Join(r.Generator.Configure(r.Gen), r.Sink.Configure(r.Sunk))
}

// NextToGenerator is the namespace that Left is in.
func (r *Rig) NextToGenerator() *Namespace {
	if r.short {
		return r.Sink
	}
	return r.DUT
}

// pair makes a veth pair across two namespaces and brings both ends up.
func (r *Rig) pair(an *Namespace, a *Device, bn *Namespace, b *Device) error {
	h, err := an.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name: a.Name, MTU: r.MTU, HardwareAddr: a.MAC, NumTxQueues: r.Queues, NumRxQueues: r.Queues,
		},
		PeerName: b.Name, PeerHardwareAddr: b.MAC, PeerMTU: uint32(r.MTU), PeerNamespace: netlink.NsFd(bn.FD()),
		PeerNumTxQueues: uint32(r.Queues), PeerNumRxQueues: uint32(r.Queues),
	})
	if err != nil {
		return fmt.Errorf("make veth pair %s, %s: %w", a.Name, b.Name, err)
	}
	for _, end := range []struct {
		in  *Namespace
		dev *Device
	}{{an, a}, {bn, b}} {
		link, err := end.in.raise(end.dev.Name)
		if err != nil {
			return err
		}
		end.dev.Index = link.Attrs().Index
	}
	return nil
}

// Close lets the namespaces go, and with them all devices. It may be called more than once.
func (r *Rig) Close() error {
	var errs []error
	for _, n := range []**Namespace{&r.Generator, &r.DUT, &r.Sink} {
		if *n != nil {
			errs = append(errs, (*n).Close())
			*n = nil
		}
	}
	return errors.Join(errs...)
}

// Prefix is the i-th destination behind the sink, i from 0 to MaxRoutes-1: a /24 from 10.128.0.0 on, or a /64 from
// fd00:128:: on, whose number stands in bits 32 to 63.
func Prefix(i int, ipv6 bool) netip.Prefix {
	if ipv6 {
		a := [16]byte{0: 0xfd, 2: 0x01, 3: 0x28}
		binary.BigEndian.PutUint32(a[4:], uint32(i))
		return netip.PrefixFrom(netip.AddrFrom16(a), 64)
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24|128<<16+uint32(i)<<8)
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// ConfigureEnds gives the generator's and the sink's device their addresses. They reach each other through the DUT's
// addresses (Left, Right); across a transparent DUT, which forwards frames as they are, each names the other's MAC as
// the gateway's.
func (r *Rig) ConfigureEnds(transparent bool) error {
	left, right := r.Left.MAC, r.Right.MAC
	if transparent {
		left, right = r.Sunk.MAC, r.Gen.MAC
	}
	return errors.Join(
		configureEnd(r.Generator, r.Gen, r.Left, r.Right, left, transparent),
		configureEnd(r.Sink, r.Sunk, r.Right, r.Left, right, transparent))
}

// configureEnd gives dev its addresses and a route by gateway to the network of far.
func configureEnd(n *Namespace, dev, gateway, far Device, mac net.HardwareAddr, static bool) error {
	if err := n.Configure(dev); err != nil {
		return err
	}
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, hop := range [][2]netip.Prefix{{far.Addr4, gateway.Addr4}, {far.Addr6, gateway.Addr6}} {
		route := &netlink.Route{LinkIndex: dev.Index, Dst: ipNet(hop[0].Masked()), Gw: hop[1].Addr().AsSlice()}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s: %w", hop[0].Masked(), err)
		}
		if !static {
			continue
		}
		if err := setNeighbor(h, dev, hop[1].Addr(), mac); err != nil {
			return err
		}
	}
	return nil
}

// Configure gives dev its two addresses in the namespace.
func (n *Namespace) Configure(dev Device) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: dev.Index}}
	for _, p := range []netip.Prefix{dev.Addr4, dev.Addr6} {
		addr := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}
		if err := h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, dev.Name, err)
		}
	}
	return nil
}

// SetNeighbor states the MAC of an address behind dev, for good.
func (n *Namespace) SetNeighbor(dev Device, ip netip.Addr, mac net.HardwareAddr) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return setNeighbor(h, dev, ip, mac)
}

func setNeighbor(h *netlink.Handle, dev Device, ip netip.Addr, mac net.HardwareAddr) error {
	neigh := &netlink.Neigh{
		LinkIndex: dev.Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("set neighbor %s of %s: %w", ip, dev.Name, err)
	}
	return nil
}

// AddRoutes routes the first count prefixes of one family (see Prefix) through via, out of dev.
func (n *Namespace) AddRoutes(count int, ipv6 bool, dev Device, via netip.Addr) error {
	h, err := n.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range count {
		route := &netlink.Route{LinkIndex: dev.Index, Dst: ipNet(Prefix(i, ipv6)), Gw: via.AsSlice()}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add route to %s: %w", Prefix(i, ipv6), err)
		}
	}
	return nil
}

// SetFeatures switches offloads of a device, by the names that `ethtool -k` of the kernel uses.
func (n *Namespace) SetFeatures(device string, features map[string]bool) error {
	return n.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return fmt.Errorf("open ethtool: %w", err)
		}
		defer e.Close()
		if err := e.Change(device, features); err != nil {
			return fmt.Errorf("set features of %s: %w", device, err)
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
