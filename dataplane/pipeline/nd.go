// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// nd learns from neighbour solicitations and advertisements and answers solicitations for the port's addresses, and for
// those that are announced there (RFC 4861 sections 7.2.3 and 7.2.5). Router messages and redirects are read by nobody:
// we are the router.
func (l *Pipeline) nd(p *packet.Packet, port *tables.Port) verdict.Reason {
	m, r := packet.ParseND(p)
	if r != verdict.None {
		return r
	}
	switch p.ICMPType {
	case packet.ICMPv6NeighborSolicitation:
		return l.neighborSolicitation(p, port, m)
	case packet.ICMPv6NeighborAdvertisement:
		if !port.Station.Only() {
			l.neighborAdvertisement(port, m)
		}
	}
	return verdict.NDConsumed
}

func (l *Pipeline) neighborAdvertisement(port *tables.Port, m packet.ND) {
	if !port.OnLink(m.Target) || l.t.Answers(port, m.Target) {
		return
	}
	var how neighbor.How
	if m.Solicited {
		how |= neighbor.Solicited
	}
	if m.Override {
		how |= neighbor.Override
	}
	if m.LinkLayer.IsZero() {
		if m.Solicited {
			l.t.Neighbors.Confirm(port.ID, m.Target, l.now)
		}
		return
	}
	l.t.Neighbors.Learn(port.ID, m.Target, m.LinkLayer, how, l.now)
}

func (l *Pipeline) neighborSolicitation(p *packet.Packet, port *tables.Port, m packet.ND) verdict.Reason {
	if !l.t.Answers(port, m.Target) {
		return verdict.NDConsumed
	}
	if !p.Src.IsUnspecified() { // which is the source of duplicate address detection (RFC 4862 5.4.3)
		if !port.OnLink(p.Src) {
			return verdict.MartianSource
		}
		if !m.LinkLayer.IsZero() && !port.Station.Only() {
			l.t.Neighbors.Learn(port.ID, p.Src, m.LinkLayer, neighbor.RequestSeen, l.now)
		}
	}
	if !l.limits.reply(port.ID, l.now) {
		return verdict.ICMPRateLimited
	}
	if !packet.BuildNA(p, m, port.MAC) || !toStation(p, port) {
		return verdict.MalformedND
	}
	return l.send(p, port.ID, verdict.NDConsumed)
}
