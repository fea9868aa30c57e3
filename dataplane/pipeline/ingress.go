// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// admit checks the link layer: a known port, a destination MAC of ours and a source MAC that can be one.
func admit(p *packet.Packet, port *tables.Port) verdict.Reason {
	if port == nil {
		return verdict.UnknownVLAN
	}
	dst, src := p.DstMAC(), p.SrcMAC()
	if dst != port.MAC && !dst.IsMulticast() {
		return verdict.NotOurMAC
	}
	if src.IsMulticast() || src.IsZero() || src == port.MAC {
		return verdict.SourceMACInvalid
	}
	return verdict.None
}

// martian checks the IP addresses. The unspecified IPv6 source is for duplicate address detection only (RFC 4862).
func martian(p *packet.Packet) verdict.Reason {
	if p.Src.MartianSource() && (!p.Src.IsUnspecified() || !p.IsND()) {
		return verdict.MartianSource
	}
	if p.Dst.MartianDestination() {
		return verdict.MartianDestination
	}
	return verdict.None
}
