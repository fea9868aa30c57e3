// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// icmpError turns the packet into an ICMP error about itself, sent back to its source, unless the packet may not have
// one or too many were sent already (RFC 1812 4.3.2, RFC 4443 2.4). mtu is the MTU to tell, in bytes, or 0.
func (l *Pipeline) icmpError(
	p *packet.Packet, in *tables.Port, kind packet.ErrorKind, mtu int, reason verdict.Reason,
) verdict.Reason {
	if !p.MayHaveError() {
		return verdict.NoErrorAboutError
	}
	src := p.Dst // of a packet to us, the error comes from where it was sent (RFC 4443 2.2 (a))
	if kind != packet.PortUnreachable && kind != packet.ProtocolUnreachable {
		src = l.errorSource(in, p.Src)
	}
	if src.IsZero() || !l.limits.error(in.ID, p.Src, l.now) {
		return verdict.ICMPRateLimited
	}
	if !p.BuildICMPError(kind, src, uint32(mtu)) {
		return verdict.NoErrorAboutError
	}
	return l.answer(p, reason)
}

// errorSource is the address an error to a sender comes from: one of the port that the packet came in by, so that a
// traceroute shows the way taken, or the host's or any port's when that one has none of the family and of the sender's
// scope: a link-local address means nothing beyond its link (RFC 4291 2.5.6).
func (l *Pipeline) errorSource(in *tables.Port, to packet.Addr) packet.Addr {
	a := in.Source(to)
	if !a.IsZero() && (to.IsLinkLocal() || !a.IsLinkLocal()) {
		return a
	}
	if b := pick(to, l.t.Node4, l.t.Node6); !b.IsZero() {
		return b
	}
	for i := range l.t.Ports {
		if b := pick(to, l.t.Ports[i].Source4, l.t.Ports[i].Source6); !b.IsZero() && !b.IsLinkLocal() {
			return b
		}
	}
	return a
}

// pick is the one of two addresses that is of a's family.
func pick(a, four, six packet.Addr) packet.Addr {
	if a.Is4() {
		return four
	}
	return six
}

// answer sends a packet of our own, built in the frame of the one received, to its destination by the routes in
// force; on the port the packet came in by when the destination is link-local.
func (l *Pipeline) answer(p *packet.Packet, reason verdict.Reason) verdict.Reason {
	hop := route.Hop{Port: p.In}
	if !p.Dst.IsLinkLocal() {
		group := l.t.FIB.Lookup(p.Dst)
		if group == nil || group.Kind != route.Forward {
			return reason
		}
		hop = *group.Select(p.FlowHash)
	}
	out := l.t.Port(hop.Port)
	if out == nil || !out.Up {
		return reason
	}
	if p.L3Len > pathMTU(&hop, out) { // an echo reply; nothing of our own is cut
		return reason
	}
	mac, wait := l.nextHop(&hop, out, p.Dst)
	switch wait {
	case known:
	case failed, full:
		return reason
	default:
		return l.wait(wait, reason)
	}
	if !p.SetEthernet(mac, out.MAC, out.VLANs) {
		return reason
	}
	return l.send(p, out.ID, reason)
}
