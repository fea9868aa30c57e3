// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// TrunkDevice is the trunk's end that has the sockets: by it come and go the packets of all ports that have none.
const TrunkDevice = "viaduct-trunk1"

// buildTrunked is buildPort for a port at the trunk. Such ports have link-local addresses of ours alone, so that no
// other port's matter to them: a delta may set one without looking at the rest.
func (b *build) buildTrunked(field string, cfg *api.Port) error {
	bad := func(part, reason string) error { return b.invalid(cfg.GetOrigin(), field+part, "%s", reason) }
	if part, reason := b.unnamed(cfg); reason != "" {
		return bad(part, reason)
	}
	device, present := b.links(cfg.Device)
	trunk, ready := b.links(TrunkDevice)
	p := Port{
		ID: packet.PortID(cfg.Id), Name: cfg.Name, Device: cfg.Device, DeviceIndex: trunk.Index, IfIndex: device.IfIndex,
		MAC: packet.GatewayMAC, MTU: int(cfg.Mtu), Present: present && ready, Trunk: true,
		Host: cfg.Attach == api.Port_ATTACH_HOST,
	}
	switch {
	case cfg.Attach > api.Port_ATTACH_HOST:
		return bad(".attach", fmt.Sprintf("%d is not known", cfg.Attach))
	case len(cfg.Queues) > 0:
		return bad(".queues", "a port at the trunk has none")
	case cfg.OuterVlan != 0 || cfg.InnerVlan != 0:
		return bad(".outer_vlan", "a port at the trunk has no VLAN tags")
	case cfg.Station == nil:
		return bad(".station", "a port at the trunk has one")
	case trunk.Index < 0 || trunk.Index >= maxDevices:
		return bad(".device", fmt.Sprintf("the index %d of the trunk is not from 0 to %d", trunk.Index, maxDevices-1))
	case p.Host && b.otherHost(p.ID):
		return bad(".attach", "the host has one port")
	case b.other(&p) != "":
		return bad(".device", fmt.Sprintf("port %s has the same device", b.other(&p)))
	}
	if p.Present {
		p.Up, p.MTU = true, usableMTU(&p, Link{MTU: min(device.MTU, trunk.MTU)})
	}
	for i, a := range cfg.Addresses {
		if reason := p.addLinkLocal(a); reason != "" {
			return bad(fmt.Sprintf(".addresses[%d]", i), reason)
		}
	}
	if part, reason := p.setStation(cfg); reason != "" {
		return bad(part, reason)
	}
	if p.Host {
		p.Station.Own = device.MAC
	}
	p.setCarried(cfg)
	p.chooseSources()
	b.enterTrunked(p)
	return nil
}

// enterTrunked puts the port into the tables.
func (b *build) enterTrunked(p Port) {
	for p.DeviceIndex >= len(b.t.demux) {
		b.t.demux = append(b.t.demux, demux{})
	}
	b.t.demux[p.DeviceIndex].trunk = true
	b.t.Ports[p.ID], b.t.byName[p.Name] = p, p.ID
	if !p.Host {
		return
	}
	for _, a := range p.Station.Addrs {
		switch {
		case a.Is4() && b.t.Node4.IsZero():
			b.t.Node4 = a
		case !a.Is4() && b.t.Node6.IsZero():
			b.t.Node6 = a
		}
	}
}

// otherHost says whether another port than this one leads to the host.
func (b *build) otherHost(than packet.PortID) bool {
	for i := range b.t.Ports {
		if b.t.Ports[i].Host && b.t.Ports[i].ID != than {
			return true
		}
	}
	return false
}

// other is the name of another port that has p's device, empty for none.
func (b *build) other(p *Port) string {
	for i := range b.t.Ports {
		if o := &b.t.Ports[i]; o.ID != 0 && o.ID != p.ID && o.Device == p.Device {
			return o.Name
		}
	}
	return ""
}

func (p *Port) addLinkLocal(cfg *api.Prefix) (reason string) {
	if a := address(cfg.GetAddress()); a.IsValid() && routable(a) {
		return fmt.Sprintf("%s is not link-local, as ours at the trunk are", a)
	}
	return p.addAddress(cfg, nil)
}

// setStation enters who is behind the port, or returns the part of it that is wrong and why.
func (p *Port) setStation(cfg *api.Port) (part, reason string) {
	s := cfg.GetStation()
	if s == nil {
		return "", ""
	}
	mac := s.GetMac()
	switch {
	case p.Host && len(mac) == 0: // its device is the dataplane's to make
	case len(mac) != 6 || packet.MAC(mac).IsMulticast() || packet.MAC(mac).IsZero():
		return ".station.mac", "is not a unicast MAC address"
	case len(s.GetAddresses()) == 0:
		return ".station.addresses", "are missing"
	}
	p.Station = Station{Router: s.GetRouter()}
	for i, b := range s.GetAddresses() {
		a := address(b)
		switch {
		case !a.IsValid():
			reason = "is not an IPv4 or IPv6 address"
		case !host(a) || !routable(a):
			reason = fmt.Sprintf("%s cannot be the address of a station", a)
		case p.Station.Has(packet.AddrFrom(a)):
			reason = fmt.Sprintf("%s is there twice", a)
		}
		if reason != "" {
			return fmt.Sprintf(".station.addresses[%d]", i), reason
		}
		p.Station.Addrs = append(p.Station.Addrs, packet.AddrFrom(a))
	}
	p.Station.MAC = packet.TrunkMAC(p.ID)
	if len(mac) == 6 {
		p.Station.Own = packet.MAC(mac)
	}
	if !p.Trunk {
		p.Station.MAC = p.Station.Own
	}
	p.Up = p.Present // a pod may come up at any moment, and its first packet be answered: its carrier does not matter
	return "", ""
}
