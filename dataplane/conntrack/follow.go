// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// reopen is no reason: the packet opens anew a flow that is over.
const reopen = verdict.NumReasons

// follow takes a packet in direction d (0 the opener's, 1 the reply's) into its flow's state. It returns why the
// packet is not of the flow, None, or reopen.
func (sh *shard) follow(n uint32, p *packet.Packet, in packet.PortID, d uint8, tick uint32) verdict.Reason {
	e := &sh.entries[n-1]
	if p.Flags&(packet.Fragment|packet.FirstFragment) == packet.Fragment {
		return verdict.None
	}
	switch p.Proto {
	case packet.ProtoTCP:
		return sh.followTCP(n, p, in, d, tick)
	case packet.ProtoUDP:
		sh.followUDP(n, d, tick)
	case packet.ProtoSCTP:
		return sh.followSCTP(n, p, d, tick)
	case packet.ProtoICMP, packet.ProtoICMPv6:
		sh.followQuery(n, d, tick)
	default:
		if d != 0 {
			sh.enter(n, otherReplied)
		}
		e.refresh(tick)
	}
	return verdict.None
}
