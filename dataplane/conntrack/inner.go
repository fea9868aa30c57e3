// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// inner is what an ICMP error quotes of the packet that it is about. Whoever sends an error can write there what he
// likes.
type inner struct {
	src, dst packet.Addr
	proto    packet.IPProto
	rest     []byte // of the transport header: 8 bytes or more
}

const (
	icmpHeader  = 8
	ipv4Header  = 20
	ipv6Header  = 40
	leastQuoted = 8 // bytes of the transport header (RFC 792)
)

// quoted reads the packet that an ICMP error is about.
func quoted(p *packet.Packet) (in inner, ok bool) {
	b := p.Frame[p.L4:min(p.End, p.L3+p.L3Len)]
	if len(b) < icmpHeader {
		return in, false
	}
	b = b[icmpHeader:]
	if p.Proto == packet.ProtoICMPv6 {
		return quoted6(b)
	}
	return quoted4(b)
}

func quoted4(b []byte) (in inner, ok bool) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return in, false
	}
	header := int(b[0]&0xf) * 4
	offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff
	if header < ipv4Header || len(b) < header+leastQuoted || offset != 0 {
		return in, false
	}
	in.src = packet.Addr4(binary.BigEndian.Uint32(b[12:]))
	in.dst = packet.Addr4(binary.BigEndian.Uint32(b[16:]))
	in.proto, in.rest = packet.IPProto(b[9]), b[header:]
	return in, true
}

func quoted6(b []byte) (in inner, ok bool) {
	if len(b) < ipv6Header || b[0]>>4 != 6 {
		return in, false
	}
	in.src = packet.Addr{Hi: binary.BigEndian.Uint64(b[8:]), Lo: binary.BigEndian.Uint64(b[16:])}
	in.dst = packet.Addr{Hi: binary.BigEndian.Uint64(b[24:]), Lo: binary.BigEndian.Uint64(b[32:])}
	if in.src.Is4() || in.dst.Is4() {
		return in, false
	}
	in.proto, b = packet.IPProto(b[6]), b[ipv6Header:]
	for n := 0; len(b) >= leastQuoted; n++ {
		size := (int(b[1]) + 1) * 8
		switch in.proto {
		case 0, 43, 60: // hop-by-hop, routing, destination options
		case 44: // fragment
			size = 8
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return in, false
			}
		case 51: // authentication (RFC 4302 2.2)
			size = (int(b[1]) + 2) * 4
		default:
			in.rest = b
			return in, true
		}
		if n == packet.MaxExtensionHeaders || size > len(b) {
			return in, false
		}
		in.proto, b = packet.IPProto(b[0]), b[size:]
	}
	return in, false
}

// key is that of the quoted packet's flow; from is as of key.set.
func (in *inner) key() (k key, from uint8, ok bool) {
	var src, dst uint16
	var q query
	switch in.proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		src, dst = binary.BigEndian.Uint16(in.rest), binary.BigEndian.Uint16(in.rest[2:])
	case packet.ProtoICMP, packet.ProtoICMPv6:
		if q = queryOf(in.proto, in.rest[0]); q.kind == 0 {
			return k, 0, false
		}
		src = binary.BigEndian.Uint16(in.rest[4:])
		dst = src
	}
	from = k.set(in.src, in.dst, src, dst, in.proto, q.kind, q.answer)
	return k, from, true
}

// mayBeOf says whether the flow can have had the quoted packet, in direction d: without having seen the flow nobody can
// guess that (RFC 5927 4.1, RFC 9260 10).
func (sh *shard) mayBeOf(n uint32, in *inner, d uint8) bool {
	e := &sh.entries[n-1]
	if e.flags&oneWay != 0 && d != 0 { // it was not seen; who answers has to know
		return true
	}
	word := binary.BigEndian.Uint32(in.rest[4:])
	switch in.proto {
	case packet.ProtoTCP:
		most, width := e.end[d&1], max(e.width(d^1), leastWidth)
		if e.flags&offloaded != 0 {
			return sh.maySent(n, d, word, width)
		}
		return most-word <= width
	case packet.ProtoSCTP:
		return word == e.end[d&1] || word == 0 && e.state == sctpCookieWait
	}
	return true
}

// trackError is Track for ICMP messages that are no queries. An error goes back to where the packet came from; it
// changes no state and keeps no flow.
func (t *Table) trackError(p *packet.Packet, port packet.PortID, now int64, generation uint32, s *Seen) {
	s.Reason = verdict.ICMPWithoutFlow
	if p.L4 == 0 || !isError(p.Proto, p.ICMPType) {
		return
	}
	in, ok := quoted(p)
	if !ok || in.src != p.Dst {
		return
	}
	k, from, ok := in.key()
	if !ok {
		return
	}
	s.hash = t.keys.hash(&k)
	sh, tick := t.shard(s.hash), tickOf(now)
	sh.lock.Lock()
	if n := sh.find(s.hash, &k); n != 0 && sh.relates(n, &in, from^sh.entries[n-1].opener(), tick) {
		sh.related(n, from^sh.entries[n-1].opener(), false, tick, generation, s)
		sh.lock.Unlock()
		return
	}
	a := alias{}
	if sh.aliases.used != 0 {
		if at := sh.aliases.find(s.hash, &k); at != 0 {
			a = sh.aliases.all[at-1]
		}
	}
	sh.lock.Unlock()
	if a.n == 0 {
		t.relatePair(p, &in, port, s)
		return
	}
	s.hash = a.hash
	sh = t.shard(a.hash)
	sh.lock.Lock()
	if sh.holds(&a) && sh.relates(a.n, &in, from^a.from, tick) {
		sh.related(a.n, from^a.from, true, tick, generation, s)
	}
	sh.lock.Unlock()
}

// relates: the flow can have had the quoted packet, in direction d.
func (sh *shard) relates(n uint32, in *inner, d uint8, tick uint32) bool {
	return !sh.expired(n, tick) && sh.mayBeOf(n, in, d) && sh.hasSent(n, d)
}

// hasSent: there was something in direction d, or may have been where nobody looked.
func (sh *shard) hasSent(n uint32, d uint8) bool {
	e := &sh.entries[n-1]
	return e.packets[d&1] != 0 || e.flags&oneWay != 0 || e.flags&offloaded != 0 && sh.carriages[n-1].adrift>>(d&1)&1 != 0
}

// related fills in what an error about a flow's packet in direction d is. near says that it quotes the packet as it was
// on the opener's side. It goes to who has sent that packet, and is to quote it as he knows it: as the opener sent it,
// or as the other end did.
func (sh *shard) related(n uint32, d uint8, near bool, tick, generation uint32, s *Seen) {
	e := &sh.entries[n-1]
	s.Status, s.Reason = Related, verdict.None
	s.at, s.Rule, s.Reply, s.kind = n, e.rule, d == 0, e.key.kind()
	s.Opener, s.Other = packet.PortID(uint32(e.ports)), packet.PortID(e.ports>>32)
	switch {
	case e.flags&oneWay != 0 && d == 0: // it goes to the opener, as it is
	case e.flags&translated != 0:
		byOpener, byOther := sh.ends(n, d)
		s.Translated, s.Backend = true, sh.records[n-1].answerer()
		s.Ends, s.Quoted = byOther, byOther
		if near {
			s.Quoted = byOpener
		}
		if d == 0 {
			s.Ends, s.Waited = byOpener, sh.records[n-1].asked
		}
		if e.flags&oneWay != 0 {
			s.Direct = sh.records[n-1].ends.Dst
		}
	}
	switch {
	case e.generation != generation:
		s.Status, s.Tuple, s.tick, s.Error = Stale, sh.tuple(n), tick, true
	case e.flags&revoked != 0:
		s.refuse(e.denied())
		s.Backend = 0
	}
}
