// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Port is where packets enter and leave.
type Port struct {
	ID          packet.PortID
	Name        string
	Device      string
	DeviceIndex int // of the device whose sockets its packets come and go by, as the link lookup gave it
	IfIndex     int // the kernel's number of Device, 0 while it is absent
	VLANs       packet.VLANs
	MAC         packet.MAC // our own there; zero while the device is absent
	MTU         int        // bytes of the largest IP packet: the configured one, and no more than the device takes

	Prefixes []netip.Prefix // our addresses as configured, each with its subnet's length
	Addrs    []packet.Addr  // our addresses: those of Prefixes, in order, and the link-local one
	// LinkLocal is the IPv6 link-local address: the configured one, else the MAC's (RFC 4291 appendix A); zero while
	// the device is absent.
	LinkLocal packet.Addr
	Source4   packet.Addr // to send IPv4 from when nothing else decides; zero where the port has no address
	Source6   packet.Addr // the same for IPv6

	Up      bool // the device is present, administratively up, and has a carrier
	Present bool // the device exists

	Masquerades bool // pods' packets that leave the cluster by it take its address

	Uplink bool // of the uplink, whose link is told which addresses are announced

	Trunk     bool // packets come and go by the trunk
	Host      bool // what is behind it is the host's own stack
	Station   Station
	Limit     *Limit    // nil: none
	uncarried Uncarried // why the kernel does not carry its flows, whatever its limit

	subnets []subnet // of Prefixes, in order
}

// Station is the only one behind a port. The zero value is none: there is whoever is on the link.
type Station struct {
	MAC    packet.MAC    // to send to: on the trunk the one that names the port
	Own    packet.MAC    // of its device, behind the trunk as well; zero while the host's is absent
	Addrs  []packet.Addr // that it may send from, and that its port is the way to
	Router bool          // it forwards for others, from whichever address
}

// Only says whether the port has a station, and nobody else.
func (s *Station) Only() bool { return !s.MAC.IsZero() }

// Has says whether a is one of the station's addresses.
func (s *Station) Has(a packet.Addr) bool { return slices.Contains(s.Addrs, a) }

type subnet struct{ addr, mask packet.Addr }

func (s subnet) holds(a packet.Addr) bool {
	return a.Hi&s.mask.Hi == s.addr.Hi && a.Lo&s.mask.Lo == s.addr.Lo
}

func subnetOf(p netip.Prefix) subnet {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	var mask packet.Addr
	mask.Hi = ^uint64(0) << max(64-bits, 0)
	mask.Lo = ^uint64(0) << min(128-bits, 64) // a shift by 64 is 0
	return subnet{packet.AddrFrom(p.Masked().Addr()), mask}
}

// linkLocal6 is fe80::/10 (RFC 4291 2.5.6), which is on every link.
var linkLocal6 = subnet{packet.Addr{Hi: 0xfe80 << 48}, packet.Addr{Hi: 0xffc0 << 48}}

// Shared says whether behind the port there may be the whole world: it has no station, or one that forwards for others.
func (p *Port) Shared() bool { return !p.Station.Only() || p.Station.Router }

// Broadcasts says whether a is one of the two addresses of a subnet of the port's that are no station's, all zeros and
// all ones (RFC 1122 3.2.1.3); IPv6 has none, and subnets of 31 bits and more have none (RFC 3021).
func (p *Port) Broadcasts(a packet.Addr) bool {
	for _, s := range p.subnets {
		if rest := a.Lo &^ s.mask.Lo; a.Is4() && s.holds(a) && s.mask.Lo < ^uint64(1) && (rest == 0 || rest == ^s.mask.Lo) {
			return true
		}
	}
	return false
}

// HasAddr says whether a is one of the port's own addresses.
func (p *Port) HasAddr(a packet.Addr) bool {
	for _, own := range p.Addrs {
		if own == a {
			return true
		}
	}
	return false
}

// OnLink says whether a is an address of the port's link: in one of its subnets or its station's, or IPv6 link-local.
func (p *Port) OnLink(a packet.Addr) bool {
	if linkLocal6.holds(a) {
		return true
	}
	if p.Station.Only() {
		return p.Station.Has(a)
	}
	for _, s := range p.subnets {
		if s.holds(a) {
			return true
		}
	}
	return false
}

// Source returns the address of ours from which to speak to dst on the port's link: one of dst's subnet if there is
// one, else the port's first of the family. It is zero when the port has none.
func (p *Port) Source(dst packet.Addr) packet.Addr {
	for i, s := range p.subnets {
		if s.holds(dst) {
			return p.Addrs[i]
		}
	}
	switch {
	case dst.Is4():
		return p.Source4
	case linkLocal6.holds(dst):
		return p.LinkLocal
	}
	return p.Source6
}
