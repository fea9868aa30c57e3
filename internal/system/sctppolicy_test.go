// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSCTPPolicy: of associations those begin that policy lets, and only answers to what began pass the other way.
// Packets are crafted, so that it needs no SCTP of the kernel's.
func TestSCTPPolicy(t *testing.T) {
	const open, closed, mine, tag, theirs = 5000, 5001, 6000, 0x11223344, 0x55667788
	s := newStage(t)
	s.write("policy.yaml", networkPolicy("shop", "sctp", "{podSelector: {matchLabels: {app: db}}, ingress: "+
		"[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: SCTP, port: 5000}]}]}"))
	s.hasPolicies(1)
	s.is("TCP, UDP and ICMP to be denied", func(w way) bool { return w.to != "db" || w.from == "node" })
	for f := range families {
		web, db := s.raw(s.of("web"), f, unix.IPPROTO_SCTP), s.raw(s.of("db"), f, unix.IPPROTO_SCTP)
		spy := s.raw(s.of("spy"), f, unix.IPPROTO_SCTP)
		toWeb, toDB := s.address("web", f), s.address("db", f)

		begin := sctpPacket(mine, open, 0, sctpInit, tag)
		s.drops("web", "ingress_denied", 1, func() { web.say(toDB, sctpPacket(mine, closed, 0, sctpInit, tag)) })
		s.drops("spy", "ingress_denied", 1, func() { spy.say(toDB, begin) })
		s.drops("web", "sctp_without_flow", 1, func() { web.say(toDB, sctpPacket(mine, open, theirs, sctpCookieEcho, 0)) })
		answer := sctpPacket(open, mine, tag, sctpInitAck, theirs)
		s.drops("db", "sctp_without_flow", 1, func() { db.say(toWeb, answer) })
		web.say(toDB, begin)
		db.hears("an INIT", begin)
		s.drops("db", "sctp_without_flow", 1, func() { db.say(toWeb, sctpPacket(open, mine, tag+1, sctpInitAck, theirs)) })
		db.say(toWeb, answer)
		web.hears("an INIT ACK", answer)
		s.drops("spy", "sctp_without_flow", 1, func() { spy.say(toWeb, answer) })
		echo := sctpPacket(mine, open, theirs, sctpCookieEcho, 0)
		web.say(toDB, echo)
		db.hears("a COOKIE ECHO", echo)
	}
	s.balanced()
}

// Chunk types (RFC 9260 3.2).
const (
	sctpInit       = 1
	sctpInitAck    = 2
	sctpCookieEcho = 10
)

// sctpPacket is one of a single chunk, without a checksum, which nobody on the way looks at.
func sctpPacket(from, to uint16, tag uint32, chunk byte, initiate uint32) []byte {
	p := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	p = append(binary.BigEndian.AppendUint32(p, tag), 0, 0, 0, 0)
	body := binary.BigEndian.AppendUint32(nil, initiate)
	body = append(body, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	return append(append(p, chunk, 0, 0, byte(4+len(body))), body...)
}
