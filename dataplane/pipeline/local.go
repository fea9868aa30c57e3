// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// local handles a packet addressed to the dataplane itself, which answers echo requests and serves nothing else.
func (l *Pipeline) local(p *packet.Packet, port *tables.Port) verdict.Reason {
	if p.Flags&packet.Fragment != 0 {
		return verdict.LocalFragment
	}
	switch p.Proto {
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return l.localICMP(p, port)
	case packet.ProtoUDP, packet.ProtoTCP, packet.ProtoSCTP:
		return l.icmpError(p, port, packet.PortUnreachable, 0, verdict.PortUnreachable)
	}
	return l.icmpError(p, port, packet.ProtocolUnreachable, 0, verdict.ProtocolUnreachable)
}

func (l *Pipeline) localICMP(p *packet.Packet, port *tables.Port) verdict.Reason {
	ours := packet.ProtoICMP
	if p.Flags&packet.IPv6 != 0 {
		ours = packet.ProtoICMPv6
	}
	if p.Proto != ours {
		return verdict.MalformedICMP
	}
	if p.ICMPType != packet.ICMPEchoRequest && p.ICMPType != packet.ICMPv6EchoRequest {
		return verdict.LocalICMP
	}
	if !l.limits.reply(port.ID, l.now) {
		return verdict.ICMPRateLimited
	}
	if !p.BuildEchoReply() {
		return verdict.LocalICMP
	}
	return l.answer(p, verdict.EchoReplied)
}
