// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Packets as the tables write them, and read them:
//
//	tcp  a:1000 > vip:80 syn        flags: syn synack ack answer fin rst rstack
//	udp  a:1000 > vip:53            of 32 bytes; with "first" a first fragment, with "partial" a partial checksum
//	udp  a > vip later              a fragment behind it
//	sctp a:1000 > vip:80 init       chunks: init initack data
//	echo a:7 > vip:7 request        the ports are the identifier; or reply
//	error b > a about udp a:1000 > b:53
//	toobig node > dataplane about …    the same, of an MTU of 1400
//	tunnel dataplane > b of udp a:1000 > vip:53
const (
	worldPayload = 24
	wireUDP      = 8
)

// Of who opens a connection all numbers are from 100 on, of the other end from 200; answer is data of the latter.
var worldSegments = map[string]struct {
	flags    byte
	seq, ack uint32
}{
	"syn": {0x02, 100, 0}, "synack": {0x12, 200, 101}, "ack": {0x10, 101, 201}, "answer": {0x18, 201, 101},
	"fin": {0x11, 101, 201}, "rst": {0x04, 101, 0}, "rstack": {0x14, 0, 101},
}

var worldChunks = map[string]byte{"data": 0, "init": 1, "initack": 2}

// end reads "a:1000".
func (w *world) end(text string) (packet.Addr, uint16) {
	name, port := splitPort(text)
	return w.addr(name), port
}

// build makes an Ethernet frame of a packet.
func (w *world) build(what string) []byte { return w.frame(w.ip(what)) }

func (w *world) frame(ip []byte) []byte {
	kind := []byte{8, 0}
	if w.v6 {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(portMACs[0][:], hostMACs[0][:], kind, ip)
}

func (w *world) ip(what string) []byte {
	f := strings.Fields(what)
	src, srcPort := w.end(f[1])
	dst, dstPort := w.end(f[3])
	var b []byte
	var proto packet.IPProto
	sum := 0
	ports := func(rest ...byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, srcPort)
		return append(binary.BigEndian.AppendUint16(b, dstPort), rest...)
	}
	option := strings.Join(f[4:], " ")
	switch f[0] {
	case "udp":
		proto, sum = packet.ProtoUDP, 6
		b = append(ports(0, wireUDP+worldPayload, 0, 0), make([]byte, worldPayload)...)
		if option == "later" {
			b, sum = b[wireUDP:], 0
		}
	case "tcp":
		proto, sum = packet.ProtoTCP, 16
		segment := worldSegments[f[4]]
		b = binary.BigEndian.AppendUint32(ports(), segment.seq)
		b = binary.BigEndian.AppendUint32(b, segment.ack)
		b = append(b, 0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0)
	case "sctp":
		proto = packet.ProtoSCTP
		b = append(ports(0, 0, 0, 0, 0, 0, 0, 0), worldChunks[f[4]], 0, 0, 20)
		b = append(b, 0, 0, 0, 9, 0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1) // tag, window, streams, TSN
		if f[4] != "init" {
			binary.BigEndian.PutUint32(b[4:], 9)
		}
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	case "echo":
		proto, sum = packet.ProtoICMP, 2
		kinds := map[string]byte{"request": 8, "reply": 0}
		if w.v6 {
			proto, kinds = packet.ProtoICMPv6, map[string]byte{"request": 128, "reply": 129}
		}
		b = []byte{kinds[f[4]], 0, 0, 0, byte(srcPort >> 8), byte(srcPort), 0, 1, 1, 2, 3}
	case "error":
		proto, sum = packet.ProtoICMP, 2
		b = []byte{3, 3, 0, 0, 0, 0, 0, 0}
		if w.v6 {
			proto, b[0], b[1] = packet.ProtoICMPv6, 1, 4
		}
		b = append(b, w.ip(strings.TrimPrefix(option, "about "))...)
	case "toobig":
		proto, sum = packet.ProtoICMP, 2
		b = []byte{3, 4, 0, 0, 0, 0, 1400 >> 8, 1400 & 0xff}
		if w.v6 {
			proto, b[0], b[1] = packet.ProtoICMPv6, 2, 0
		}
		b = append(b, w.ip(strings.TrimPrefix(option, "about "))...)
	case "tunnel":
		proto = packet.ProtoIPv4
		if w.v6 {
			proto = packet.ProtoIPv6
		}
		b = w.ip(strings.TrimPrefix(option, "of "))
	default:
		w.t.Fatalf("no packet: %q", what)
	}
	pseudo := packet.PseudoSum(src, dst, proto, len(b))
	if proto == packet.ProtoICMP {
		pseudo = 0
	}
	switch {
	case sum == 0:
	case option == "partial":
		binary.BigEndian.PutUint16(b[sum:], packet.Fold(pseudo))
	default:
		binary.BigEndian.PutUint16(b[sum:], ^packet.Fold(packet.Sum(b, pseudo)))
	}
	return w.header(src, dst, proto, option, b)
}

// udpWith is build for UDP with a payload.
func (w *world) udpWith(what string, payload []byte) []byte {
	f := strings.Fields(what)
	src, srcPort := w.end(f[1])
	dst, dstPort := w.end(f[3])
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, srcPort), dstPort)
	b = append(binary.BigEndian.AppendUint16(b, uint16(wireUDP+len(payload))), 0, 0)
	b = append(b, payload...)
	sum := packet.Sum(b, packet.PseudoSum(src, dst, packet.ProtoUDP, len(b)))
	binary.BigEndian.PutUint16(b[6:], ^packet.Fold(sum))
	return w.frame(w.header(src, dst, packet.ProtoUDP, "", b))
}

// header puts an IP header in front of a transport message, or of the fragment of one that option says.
func (w *world) header(src, dst packet.Addr, proto packet.IPProto, option string, b []byte) []byte {
	offset, more := uint16(0), uint16(0)
	switch option {
	case "first":
		b, more = b[:16], 1
	case "later":
		b, offset = b[8:], 2
	}
	if w.v6 {
		s, d := src.Netip().As16(), dst.Netip().As16()
		next := byte(proto)
		if offset|more != 0 {
			b = append([]byte{byte(proto), 0, byte(offset << 3 >> 8), byte(offset<<3 | more), 0, 0, 0, 77}, b...)
			next = 44
		}
		return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(b)), next, 64}, s[:], d[:], b)
	}
	s, d := src.Netip().As4(), dst.Netip().As4()
	h := slices.Concat([]byte{0x45, 0, 0, byte(20 + len(b)), 0, 77, 0, 0, 64, byte(proto), 0, 0}, s[:], d[:])
	binary.BigEndian.PutUint16(h[6:], more<<13|offset)
	binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h, 0)))
	return append(h, b...)
}

func (w *world) name(a packet.Addr) string {
	if name, ok := w.names[a]; ok {
		return name
	}
	return a.String()
}

func keyOf[V comparable](m map[string]V, v V) string {
	for k, is := range m {
		if is == v {
			return k
		}
	}
	return fmt.Sprint(v)
}

func segmentName(flags byte) string {
	for name, segment := range worldSegments {
		if segment.flags == flags {
			return name
		}
	}
	return fmt.Sprintf("flags %x", flags)
}

// describe says what a frame is that left, and fails where a checksum does not hold.
func (w *world) describe(data []byte) string {
	w.t.Helper()
	p := &packet.Packet{Frame: slices.Clone(data), End: len(data)}
	if r := p.Parse(); r != verdict.None {
		return r.String()
	}
	option := ""
	if p.Flags&packet.PartialChecksum != 0 {
		option = " partial"
		p.CompleteChecksum(nil)
	}
	if !p.VerifyTransport(nil) {
		w.t.Errorf("the checksum of what left does not hold: %x", data)
	}
	src, dst := w.name(p.Src), w.name(p.Dst)
	if p.Flags&(packet.Fragment|packet.FirstFragment) == packet.Fragment {
		return fmt.Sprintf("udp %s > %s later", src, dst)
	}
	if p.Flags&packet.FirstFragment != 0 {
		option = " first"
	}
	ends := fmt.Sprintf("%s:%d > %s:%d", src, p.SrcPort, dst, p.DstPort)
	b := p.Frame[p.L4:p.End]
	switch p.Proto {
	case packet.ProtoUDP:
		return "udp " + ends + option
	case packet.ProtoTCP:
		return "tcp " + ends + " " + segmentName(b[13]) + option
	case packet.ProtoIPv4, packet.ProtoIPv6:
		inner := w.describe(slices.Concat(p.Frame[:p.L3], b))
		return fmt.Sprintf("tunnel %s > %s of %s", src, dst, inner)
	case packet.ProtoSCTP:
		return "sctp " + ends + " " + keyOf(worldChunks, b[12])
	}
	switch p.ICMPType {
	case packet.ICMPEchoReply, packet.ICMPv6EchoReply:
		return "echo " + ends + " reply"
	case packet.ICMPEchoRequest, packet.ICMPv6EchoRequest:
		return "echo " + ends + " request"
	}
	return fmt.Sprintf("error %s > %s about %s", src, dst, w.quoted(b[8:]))
}

// quoted says what an ICMP error quotes.
func (w *world) quoted(b []byte) string {
	p := &packet.Packet{Frame: slices.Concat(make([]byte, 12), []byte{8, 0}, b)}
	header := 20
	if w.v6 {
		p.Frame[12], p.Frame[13] = 0x86, 0xdd
		header = 40
	}
	p.End = len(p.Frame)
	if r := p.Parse(); r != verdict.None { // also a wrong checksum
		return r.String()
	}
	if len(b) < header+8 {
		return "too little"
	}
	if !p.VerifyTransport(nil) {
		w.t.Error("the checksum of what is quoted does not hold")
	}
	return w.describe(p.Frame)
}
