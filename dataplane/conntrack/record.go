// SPDX-License-Identifier: Apache-2.0

package conntrack

import "github.com/viaduct-net/viaduct/dataplane/packet"

// record is what is kept of a translated flow beside its entry, whose key is the ends that the other end sees: a cache
// line.
type record struct {
	ends    packet.Ends // as the opener sends; ports as a Tuple has them; of oneWay, Dst and DstPort are who answers
	hash    uint64      // of the key of these ends
	asked   int64       // when it was opened, in ns; 0: it has been answered, or nobody sees it
	backend uint32      // 0: none; with left, once Config.Left was told
	stamp   uint32      // what no other translated flow of the table has, nor had for 2^32 of them
}

// left is a bit that no backend's number has.
const left = 1 << 31

// answerer is the backend's number; 0: none.
func (r *record) answerer() uint32 { return r.backend &^ left }

// ends are those of the flow's packets in direction d, on the opener's side and on the other's. They are what Parse
// reads of the packets: of ICMP timestamps no identifier.
func (sh *shard) ends(n uint32, d uint8) (near, far packet.Ends) {
	e := &sh.entries[n-1]
	u := e.tuple()
	near, far = sh.records[n-1].ends, packet.Ends{Src: u.Src, Dst: u.Dst, SrcPort: u.SrcPort, DstPort: u.DstPort}
	if e.flags&translated == 0 || e.flags&oneWay != 0 {
		near = far
	}
	if e.key.kind() == kindTimestamp {
		near.SrcPort, near.DstPort, far.SrcPort, far.DstPort = 0, 0, 0, 0
	}
	if d != 0 {
		return near.Reverse(), far.Reverse()
	}
	return near, far
}

// tuple is the flow for policy: from who has opened it, under his own address, to who gets it.
func (sh *shard) tuple(n uint32) Tuple {
	e := &sh.entries[n-1]
	u := e.tuple()
	if e.flags&translated != 0 {
		r := &sh.records[n-1]
		u.Src, u.SrcPort = r.ends.Src, r.ends.SrcPort
		if e.flags&oneWay != 0 {
			u.DstPort, u.Dst = r.ends.DstPort, r.ends.Dst
		}
	}
	return u
}

// source is the opener's own address.
func (sh *shard) source(n uint32) packet.Addr {
	switch e := &sh.entries[n-1]; {
	case e.flags&translated != 0:
		return sh.records[n-1].ends.Src
	case e.opener() != 0:
		return e.key.hi
	default:
		return e.key.lo
	}
}

// translate says what a packet in direction d, which the flow has taken, becomes: as ends has it, but written to where
// it lies, for every packet needs it.
func (sh *shard) translate(n uint32, p *packet.Packet, d uint8, s *Seen) {
	e, r, x := &sh.entries[n-1], &sh.records[n-1], &s.Ends
	if e.flags&oneWay != 0 {
		if d != 0 {
			return
		}
		s.Direct = r.ends.Dst
	}
	s.Translated, s.Backend = true, r.answerer()
	if d == 0 {
		e.key.ends(e.opener(), x)
	} else {
		x.Src, x.Dst, x.SrcPort, x.DstPort = r.ends.Dst, r.ends.Src, r.ends.DstPort, r.ends.SrcPort
		if r.asked != 0 && answers(p) {
			s.Waited, r.asked = r.asked, 0
		}
	}
	if s.kind == kindTimestamp {
		x.SrcPort, x.DstPort = 0, 0
	}
}

// answers: the packet, of the end that was asked, says that it is there. Of TCP it is the SYN-ACK, or a RST.
func answers(p *packet.Packet) bool {
	if p.Proto != packet.ProtoTCP || p.L4 == 0 {
		return p.Proto != packet.ProtoTCP
	}
	flags := p.Frame[p.L4+13]
	return flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK || flags&tcpRST != 0
}

// forgetTranslation is free for what a translated flow has beside its entry.
func (sh *shard) forgetTranslation(n uint32, why cause) {
	e := &sh.entries[n-1]
	sh.translated--
	unheard := e.packets[1] == 0 && e.flags&(revoked|oneWay) == 0
	inVain := why == causeExpired && unheard && !e.state.closed()
	if e.mayMeetPair() {
		sh.unclaimFar(n)
		if !e.state.closed() {
			sh.countEnds(n, -1)
		}
	}
	sh.leave(n, !inVain)
	if e.flags&aliased != 0 {
		sh.unalias(n)
	}
}

// leave tells, once, that a translated flow is its backend's no longer: it is gone, or its connection is over and only
// the entry waits.
func (sh *shard) leave(n uint32, answered bool) {
	r := &sh.records[n-1]
	if sh.table.left == nil || r.backend == 0 || r.backend&left != 0 || sh.entries[n-1].flags&unlinked != 0 {
		return
	}
	sh.table.left(r.backend, answered)
	r.backend |= left
}

// record writes the record of an entry that is being filled.
func (sh *shard) record(n uint32, o *opening) {
	e := &sh.entries[n-1]
	sh.stamps += uint32(len(sh.table.shards))
	sh.records[n-1] = record{ends: o.ends, hash: o.sent.hash, asked: o.now, backend: o.tr.Backend, stamp: sh.stamps}
	e.flags |= translated
	if o.tr.Direct {
		r := &sh.records[n-1]
		r.ends.Dst, r.ends.DstPort, r.asked = o.tr.Dst, o.tr.DstPort, 0
		e.flags |= oneWay
	}
	if !o.k.is(&o.sent.k) {
		e.flags |= aliased | unlinked
	}
	sh.translated++
	if e.mayMeetPair() {
		sh.countEnds(n, 1)
	}
}
