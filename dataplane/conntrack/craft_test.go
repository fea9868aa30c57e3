// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Packets for the tests are put together from bytes by these and parsed as any.

var testSeed = Seed{1: 0x243f6a8885a308d3, 0: 0x13198a2e03707344, 2: 0xa4093822299f31d0, 3: 0x082efa98ec4e6c89,
	4: 0x452821e638d01377, 5: 0xbe5466cf34e90c6c, 6: 0xc0ac29b7c97c50dd, 7: 0x3f84d5b5b5470917,
	8: 0x9216d5d98979fb1b, 9: 0xd1310ba698dfb5ac, 10: 0x2ffd72dbd01adfb7, 11: 0xb8e1afed6a267e96}

const (
	second = int64(time.Second)
	start  = 1000 * second
	portA  = packet.PortID(7)
	portB  = packet.PortID(9)
)

// ends are the addresses of client and server.
func ends(v6 bool) (a, b packet.Addr) {
	if v6 {
		return addr("2001:db8::a"), addr("2001:db8:1::1")
	}
	return addr("10.1.0.10"), addr("10.1.0.2")
}

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

func be16(b []byte, v ...uint16) []byte {
	for _, w := range v {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// ipPacket is an IP packet without Ethernet header.
func ipPacket(src, dst packet.Addr, proto packet.IPProto, payload []byte) []byte {
	s, d := src.Netip().AsSlice(), dst.Netip().AsSlice()
	if !src.Is4() {
		b := append(be16([]byte{0x60, 0, 0, 0}, uint16(len(payload))), byte(proto), 64)
		return append(append(append(b, s...), d...), payload...)
	}
	b := append(be16([]byte{0x45, 0}, uint16(20+len(payload)), 0, 0), 64, byte(proto), 0, 0)
	b = append(append(b, s...), d...)
	binary.BigEndian.PutUint16(b[10:], ^packet.Fold(packet.Sum(b, 0)))
	return append(b, payload...)
}

func ethernet(ip []byte) []byte {
	kind := []byte{8, 0}
	if ip[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	return append(append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, kind...), ip...)
}

func parse(t testing.TB, ip []byte) *packet.Packet {
	t.Helper()
	b := ethernet(ip)
	p := &packet.Packet{Frame: b, End: len(b)}
	if r := p.Parse(); r != verdict.None {
		t.Fatalf("test packet does not parse: %v", r)
	}
	return p
}

// tcpSegment is a TCP header with payload.
type tcpSegment struct {
	src, dst uint16
	seq, ack uint32
	flags    uint8
	window   uint16
	scale    int // -1: no option
	payload  int
}

func (s tcpSegment) bytes() []byte {
	b := be16(nil, s.src, s.dst)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, s.seq), s.ack)
	header := byte(5)
	if s.scale >= 0 {
		header = 6
	}
	b = append(b, header<<4, s.flags)
	b = be16(b, s.window, 1, 0)
	if s.scale >= 0 {
		b = append(b, 1, 3, 3, byte(s.scale))
	}
	return append(b, make([]byte, s.payload)...)
}

func udpBytes(src, dst uint16, payload int) []byte {
	return append(be16(nil, src, dst, uint16(8+payload), 0), make([]byte, payload)...)
}

func icmpBytes(kind byte, id uint16) []byte {
	return be16([]byte{kind, 0}, 0, id, 1, 0, 0, 0, 0, 0, 0, 0, 0)
}

func icmpError(kind byte, quoted []byte) []byte {
	return append([]byte{kind, 1, 0, 0, 0, 0, 0, 0}, quoted...)
}

func sctpBytes(src, dst uint16, tag uint32, kind, flags byte, initiate uint32) []byte {
	b := binary.BigEndian.AppendUint32(be16(nil, src, dst), tag)
	b = append(b, 0, 0, 0, 0, kind, flags, 0, 20)
	b = binary.BigEndian.AppendUint32(b, initiate)
	return append(b, make([]byte, 12)...)
}

// rig is a table with two ends that talk through it.
type rig struct {
	t    testing.TB
	v6   bool
	tab  *Table
	now  int64
	a, b packet.Addr
}

func newRig(t testing.TB, v6 bool, cfg Config) *rig {
	cfg.Seed = &testSeed
	r := &rig{t: t, v6: v6, tab: New(cfg), now: start}
	r.a, r.b = ends(v6)
	return r
}

// packet is of the client (from 'c') or of the server ('s').
func (r *rig) packet(from byte, proto packet.IPProto, payload []byte) *packet.Packet {
	r.t.Helper()
	if from == 'c' {
		return parse(r.t, ipPacket(r.a, r.b, proto, payload))
	}
	return parse(r.t, ipPacket(r.b, r.a, proto, payload))
}

// see tracks a packet, and opens its flow when it is a new one.
func (r *rig) see(p *packet.Packet) (Seen, verdict.Reason) {
	in, out := portA, portB
	if p.Src == r.b {
		in, out = out, in
	}
	s := r.tab.seen(p, in, r.now, 1)
	if s.Status == NewFlow {
		return s, r.tab.Open(&s, p, in, out, r.now, 1, 42)
	}
	return s, s.Reason
}

// state is that of the only flow.
func (r *rig) state() string {
	name := "none"
	for f := range r.tab.All(r.now) {
		name = f.State
	}
	return name
}

func both(t *testing.T, f func(t *testing.T, v6 bool)) {
	t.Run("v4", func(t *testing.T) { f(t, false) })
	t.Run("v6", func(t *testing.T) { f(t, true) })
}

// seen is what Track finds.
func (t *Table) seen(p *packet.Packet, in packet.PortID, now int64, generation uint32) (s Seen) {
	t.Track(p, in, now, generation, &s)
	return s
}
