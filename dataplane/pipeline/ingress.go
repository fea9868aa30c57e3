// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// source is the source MAC of a packet, zero where it is too short to have one.
func source(p *packet.Packet) packet.MAC {
	if p.End-p.Start < 12 {
		return packet.MAC{}
	}
	return p.SrcMAC()
}

// admit checks the link layer: a known port, a destination MAC of ours and a source MAC that can be one.
func admit(p *packet.Packet, port *tables.Port) verdict.Reason {
	dst, src := p.DstMAC(), p.SrcMAC()
	if port == nil {
		return unknown(p, src)
	}
	if dst != port.MAC && !dst.IsMulticast() {
		return verdict.NotOurMAC
	}
	if src.IsMulticast() || src.IsZero() || src == port.MAC || port.Station.Only() && src != port.Station.MAC {
		return verdict.SourceMACInvalid
	}
	return verdict.None
}

// unknown says why a packet is no port's: its tags, or, on the trunk, that its port is not in the tables.
func unknown(p *packet.Packet, src packet.MAC) verdict.Reason {
	if p.VLANs == (packet.VLANs{}) && packet.TrunkPort(src) != 0 {
		return verdict.UnknownPort
	}
	return verdict.UnknownVLAN
}

// martian checks the IP addresses. The unspecified IPv6 source is for duplicate address detection only (RFC 4862).
func martian(p *packet.Packet, port *tables.Port) verdict.Reason {
	if p.Src.MartianSource() && (!p.Src.IsUnspecified() || !p.IsND()) {
		return martianSource(p.Src)
	}
	if port.Broadcasts(p.Src) {
		return verdict.BroadcastSource
	}
	if p.Dst.MartianDestination() {
		return verdict.MartianDestination
	}
	return verdict.None
}

// martianSource says which kind of martian a source is.
func martianSource(a packet.Addr) verdict.Reason {
	switch {
	case a.IsMulticast():
		return verdict.MulticastSource
	case a.IsBroadcast():
		return verdict.BroadcastSource
	case a.IsReserved():
		return verdict.BogonSource
	}
	return verdict.MartianSource
}

// spoofed checks that the source is the station's where there is but one. Link-local IPv6 sources do not go beyond the
// port, and the unspecified one is duplicate address detection's: martian has seen to that. The hook at a port of the
// trunk asks the same, so that a flood of such packets ends there.
func spoofed(p *packet.Packet, port *tables.Port) verdict.Reason {
	s := &port.Station
	switch {
	case !s.Only() || s.Router || s.Has(p.Src):
	case p.Flags&packet.IPv6 != 0 && (p.Src.IsLinkLocal() || p.Src.IsUnspecified()):
	default:
		return verdict.SpoofedSource
	}
	return verdict.None
}
