// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// arp learns from an ARP message whose sender is on the port's link, and answers requests for the port's addresses,
// and for those that are announced there (RFC 826).
func (l *Pipeline) arp(p *packet.Packet, port *tables.Port) verdict.Reason {
	a, r := packet.ParseARP(p)
	if r != verdict.None {
		return r
	}
	if a.SenderIP.IsUnspecified() || l.t.Answers(port, a.SenderIP) { // a probe (RFC 5227), or someone who claims to be us
		return l.answerARP(p, port, a)
	}
	if !port.OnLink(a.SenderIP) {
		return verdict.MartianSource
	}
	if !port.Station.Only() {
		l.t.Neighbors.Learn(port.ID, a.SenderIP, a.SenderMAC, l.heard(a, port), l.now)
	}
	return l.answerARP(p, port, a)
}

// heard says how an ARP message names its sender: asking for us, answering us, or telling everybody.
func (l *Pipeline) heard(a packet.ARP, port *tables.Port) neighbor.How {
	switch {
	case !l.t.Answers(port, a.TargetIP):
		return neighbor.UnsolicitedOverride
	case a.Op == packet.ARPRequest:
		return neighbor.RequestSeen
	}
	return neighbor.SolicitedOverride
}

func (l *Pipeline) answerARP(p *packet.Packet, port *tables.Port, a packet.ARP) verdict.Reason {
	if a.Op != packet.ARPRequest || !l.t.Answers(port, a.TargetIP) {
		return verdict.ARPConsumed
	}
	if !l.limits.reply(port.ID, l.now) {
		return verdict.ICMPRateLimited
	}
	if !packet.BuildARPReply(p, port.MAC) || !toStation(p, port) {
		return verdict.MalformedARP
	}
	return l.send(p, port.ID, verdict.ARPConsumed)
}

// toStation has the frame go to the port's station, if there is but one, whatever MAC its message told. It returns
// false when the frame has no room for that.
func toStation(p *packet.Packet, port *tables.Port) bool {
	return !port.Station.Only() || p.SetEthernet(port.Station.MAC, port.MAC, port.VLANs)
}
