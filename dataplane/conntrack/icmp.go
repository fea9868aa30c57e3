// SPDX-License-Identifier: Apache-2.0

package conntrack

import "github.com/viaduct-net/viaduct/dataplane/packet"

// query is what an ICMP message is to a query: kind 0 for neither a query nor an answer.
type query struct {
	kind   uint8
	answer bool
}

// queryOf knows echo and timestamp (RFC 792), and echo of ICMPv6 (RFC 4443 4).
func queryOf(proto packet.IPProto, kind uint8) query {
	if proto == packet.ProtoICMPv6 {
		switch kind {
		case packet.ICMPv6EchoRequest:
			return query{kindEcho, false}
		case packet.ICMPv6EchoReply:
			return query{kindEcho, true}
		}
		return query{}
	}
	if proto != packet.ProtoICMP {
		return query{}
	}
	switch kind {
	case packet.ICMPEchoRequest:
		return query{kindEcho, false}
	case packet.ICMPEchoReply:
		return query{kindEcho, true}
	case 13:
		return query{kindTimestamp, false}
	case 14:
		return query{kindTimestamp, true}
	}
	return query{}
}

// isError knows the errors that may go through a router: unreachable, time exceeded, parameter problem, and of ICMPv6
// packet too big (RFC 792, RFC 4443 3). Redirects may not, for they speak of the sender's own link; source quench is
// no more (RFC 6633).
func isError(proto packet.IPProto, kind uint8) bool {
	if proto == packet.ProtoICMPv6 {
		return kind >= 1 && kind <= 4
	}
	return kind == 3 || kind == 11 || kind == 12
}

// followQuery: a query keeps the flow, an answer does not, for it needs a query before it.
func (sh *shard) followQuery(n uint32, d uint8, tick uint32) {
	if d != 0 {
		expires := sh.entries[n-1].expires
		sh.enter(n, icmpAnswered)
		sh.entries[n-1].expires = expires
		return
	}
	sh.entries[n-1].refresh(tick)
}
