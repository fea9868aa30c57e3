// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

const (
	maxPorts = api.MaxPort + 1 // they index Tables.Ports
	// minMTU is what every IPv4 link carries (RFC 791); minMTU6 the same for IPv6 (RFC 8200 5).
	minMTU, minMTU6 = 68, 1280
	maxMTU          = 65535
)

func (b *build) buildPorts() error {
	top := uint32(0)
	for i, p := range b.snap.GetPorts() {
		if p.GetId() == 0 || p.GetId() >= maxPorts {
			return b.invalid(p.GetOrigin(), fmt.Sprintf("ports[%d].id", i), "%d is not from 1 to %d", p.GetId(), maxPorts-1)
		}
		top = max(top, p.GetId())
	}
	b.t.Ports = make([]Port, top+1)
	b.t.byName = make(map[string]packet.PortID, len(b.snap.GetPorts()))
	owner := make(map[netip.Addr]string)
	for i, p := range b.snap.GetPorts() {
		if err := b.buildPort(fmt.Sprintf("ports[%d]", i), p, owner); err != nil {
			return err
		}
	}
	return nil
}

// buildPort checks and enters one port. owner collects whose each address is.
func (b *build) buildPort(field string, cfg *api.Port, owner map[netip.Addr]string) error {
	if cfg.Attach == api.Port_ATTACH_DIRECT {
		return b.buildDirect(field, cfg, owner)
	}
	return b.buildTrunked(field, cfg)
}

// buildDirect is buildPort for a port whose device has sockets of its own.
func (b *build) buildDirect(field string, cfg *api.Port, owner map[netip.Addr]string) error {
	bad := func(part, reason string, args ...any) error {
		return b.invalid(cfg.GetOrigin(), field+part, reason, args...)
	}
	if part, reason := b.unnamed(cfg); reason != "" {
		return bad(part, "%s", reason)
	}
	switch {
	case cfg.OuterVlan > 4094:
		return bad(".outer_vlan", "%d is not from 0 to 4094", cfg.OuterVlan)
	case cfg.InnerVlan > 4094:
		return bad(".inner_vlan", "%d is not from 0 to 4094", cfg.InnerVlan)
	case cfg.InnerVlan != 0 && cfg.OuterVlan == 0:
		return bad(".inner_vlan", "needs an outer tag")
	}
	link, present := b.links(cfg.Device)
	if link.Index < 0 || link.Index >= maxDevices {
		return bad(".device", "the index %d of %s is not from 0 to %d", link.Index, cfg.Device, maxDevices-1)
	}
	p := Port{
		ID: packet.PortID(cfg.Id), Name: cfg.Name, Device: cfg.Device, DeviceIndex: link.Index,
		VLANs: packet.VLANs{Outer: uint16(cfg.OuterVlan), Inner: uint16(cfg.InnerVlan)},
		MTU:   int(cfg.Mtu), Present: present, IfIndex: link.IfIndex, Uplink: b.uplink(cfg.Device),
	}
	p.Masquerades = p.Uplink && b.t.Node.GetMasquerade()
	if present {
		p.MAC, p.Up, p.MTU = link.MAC, link.Up, usableMTU(&p, link)
	}
	if part, reason := p.setStation(cfg); reason != "" {
		return bad(part, "%s", reason)
	}
	for i, a := range cfg.Addresses {
		if reason := p.addAddress(a, owner); reason != "" {
			return bad(fmt.Sprintf(".addresses[%d]", i), "%s", reason)
		}
	}
	p.setCarried(cfg)
	p.chooseSources()
	if cfg.Mtu != 0 && cfg.Mtu < minMTU6 && p.hasIPv6() {
		return bad(".mtu", "%d is less than the %d that IPv6 needs", cfg.Mtu, minMTU6)
	}
	for p.DeviceIndex >= len(b.t.demux) {
		b.t.demux = append(b.t.demux, demux{})
	}
	if other := b.t.demux[p.DeviceIndex].add(p.ID, p.VLANs); other != 0 {
		return bad(".device", "port %s has the same device and tags", b.t.Ports[other].Name)
	}
	b.t.Ports[p.ID], b.t.byName[p.Name] = p, p.ID
	return nil
}

// unnamed says what is wrong with what every port has, and where.
func (b *build) unnamed(cfg *api.Port) (part, reason string) {
	switch {
	case cfg.Name == "":
		return ".name", "is missing"
	case b.t.byName[cfg.Name] != 0:
		return ".name", fmt.Sprintf("there is another port %q", cfg.Name)
	case cfg.Device == "":
		return ".device", "is missing"
	case cfg.Mtu != 0 && (cfg.Mtu < minMTU || cfg.Mtu > maxMTU):
		return ".mtu", fmt.Sprintf("%d is not from %d to %d", cfg.Mtu, minMTU, maxMTU)
	}
	return "", ""
}

// usableMTU is the configured MTU as far as the device takes it. A device accepts one tag beyond its MTU
// (is_skb_forwardable in net/core/dev.c of the kernel); a second one is at the packet's cost.
func usableMTU(p *Port, link Link) int {
	most := link.MTU
	if p.VLANs.Inner != 0 {
		most -= 4
	}
	most = min(max(most, 0), maxMTU)
	if p.MTU == 0 {
		return most
	}
	return min(p.MTU, most)
}

// addAddress enters an address of ours, and returns what is wrong with it.
func (p *Port) addAddress(cfg *api.Prefix, owner map[netip.Addr]string) (reason string) {
	a := address(cfg.GetAddress())
	if !a.IsValid() {
		return "is not an IPv4 or IPv6 address"
	}
	if cfg.GetBits() > uint32(a.BitLen()) {
		return fmt.Sprintf("%d bits are more than the address has", cfg.GetBits())
	}
	prefix := netip.PrefixFrom(a, int(cfg.GetBits()))
	zeros, ones, ok := broadcasts(prefix)
	switch {
	case !host(a):
		return fmt.Sprintf("%s cannot be an address of a port", a)
	case prefix.Bits() == 0:
		return fmt.Sprintf("%s: a subnet has at least one bit", prefix)
	case ok && (a == zeros || a == ones):
		return fmt.Sprintf("%s is a broadcast address of its own subnet", prefix)
	case p.HasAddr(packet.AddrFrom(a)):
		return fmt.Sprintf("%s is there twice", a)
	}
	if routable(a) {
		if other := owner[a]; other != "" {
			return fmt.Sprintf("%s is an address of port %s as well", a, other)
		}
		owner[a] = p.Name
	}
	p.Prefixes = append(p.Prefixes, prefix)
	p.Addrs = append(p.Addrs, packet.AddrFrom(a))
	p.subnets = append(p.subnets, subnetOf(prefix))
	return ""
}

// chooseSources sets the link-local address and those to send from: the first routable one of each family, else the
// first link-local one.
func (p *Port) chooseSources() {
	var zero packet.Addr
	for i, prefix := range p.Prefixes {
		a, own := prefix.Addr(), p.Addrs[i]
		source := &p.Source6
		if a.Is4() {
			source = &p.Source4
		}
		if *source == zero && routable(a) {
			*source = own
		}
		if !routable(a) && a.Is6() && p.LinkLocal == zero {
			p.LinkLocal = own
		}
	}
	if p.LinkLocal == zero && !p.MAC.IsZero() {
		p.LinkLocal = p.MAC.LinkLocal()
		p.Addrs = append(p.Addrs, p.LinkLocal)
	}
	if p.Source6 == zero {
		p.Source6 = p.LinkLocal
	}
	for i, prefix := range p.Prefixes {
		if p.Source4 == zero && prefix.Addr().Is4() {
			p.Source4 = p.Addrs[i]
		}
	}
}

func (p *Port) hasIPv6() bool {
	for _, prefix := range p.Prefixes {
		if prefix.Addr().Is6() {
			return true
		}
	}
	return false
}

// statics checks the snapshot's static neighbours.
func (b *build) statics() ([]neighbor.Static, error) {
	list := make([]neighbor.Static, 0, len(b.snap.GetNeighbors()))
	for i, n := range b.snap.GetNeighbors() {
		bad := func(part, reason string, args ...any) error {
			return b.invalid(n.GetOrigin(), fmt.Sprintf("neighbors[%d].%s", i, part), reason, args...)
		}
		a := address(n.GetAddress())
		port := b.t.Port(packet.PortID(n.GetPort()))
		switch mac := n.GetMac(); {
		case port == nil:
			return nil, bad("port", "there is no port %d", n.GetPort())
		case !a.IsValid():
			return nil, bad("address", "is not an IPv4 or IPv6 address")
		case len(mac) != 6 || packet.MAC(mac).IsMulticast() || packet.MAC(mac).IsZero():
			return nil, bad("mac", "is not a unicast MAC address")
		}
		if reason := b.notNeighbor(port, a); reason != "" {
			return nil, bad("address", "%s", reason)
		}
		list = append(list, neighbor.Static{Port: port.ID, Addr: packet.AddrFrom(a), MAC: packet.MAC(n.GetMac())})
	}
	return list, nil
}

// notNeighbor says why a cannot be a neighbour on the port, empty when it can.
func (b *build) notNeighbor(port *Port, a netip.Addr) (reason string) {
	switch {
	case !host(a):
		return fmt.Sprintf("%s cannot be the address of one station", a)
	case port.HasAddr(packet.AddrFrom(a)):
		return fmt.Sprintf("%s is our own address on port %s", a, port.Name)
	case !port.OnLink(packet.AddrFrom(a)):
		return fmt.Sprintf("%s is in none of the subnets of port %s", a, port.Name)
	}
	for _, p := range port.Prefixes {
		if zeros, ones, ok := broadcasts(p); ok && (a == zeros || a == ones) {
			return fmt.Sprintf("%s is a broadcast address of port %s", a, port.Name)
		}
	}
	return ""
}
