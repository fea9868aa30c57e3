// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/binary"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// connection is what a packet opens.
type connection struct {
	from, to         netip.Addr
	protocol         corev1.Protocol
	fromPort, theirs uint16
}

// firstSource is the first source port: none of those that are tried, so that no connection is the answer to another.
const firstSource = 1024

var protocols = map[corev1.Protocol]packet.IPProto{
	corev1.ProtocolTCP: packet.ProtoTCP, corev1.ProtocolUDP: packet.ProtoUDP, corev1.ProtocolSCTP: packet.ProtoSCTP,
}

const ethernet, ipv4, ipv6 = 14, 20, 40 // bytes of headers

// put writes the first packet of a connection, as the hook at a port of the trunk hands it over, and returns its
// length.
func put(b []byte, in packet.PortID, c connection) int {
	clear(b)
	source := packet.TrunkMAC(in)
	copy(b, packet.GatewayMAC[:])
	copy(b[6:], source[:])
	if c.from.Is4() {
		binary.BigEndian.PutUint16(b[12:], uint16(packet.EtherTypeIPv4))
		n := putTransport(b[ethernet+ipv4:], c)
		putIPv4(b[ethernet:], c, n)
		return ethernet + ipv4 + n
	}
	binary.BigEndian.PutUint16(b[12:], uint16(packet.EtherTypeIPv6))
	n := putTransport(b[ethernet+ipv6:], c)
	h := b[ethernet:]
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(n))
	h[6], h[7] = byte(protocols[c.protocol]), 64
	copy(h[8:], c.from.AsSlice())
	copy(h[24:], c.to.AsSlice())
	return ethernet + ipv6 + n
}

func putIPv4(h []byte, c connection, payload int) {
	h[0] = 4<<4 | ipv4/4
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4+payload))
	h[8], h[9] = 64, byte(protocols[c.protocol])
	copy(h[12:], c.from.AsSlice())
	copy(h[16:], c.to.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h[:ipv4], 0)))
}

// putTransport writes what opens a connection: a SYN, a datagram, or an INIT. Checksums are the ends' own.
func putTransport(b []byte, c connection) int {
	binary.BigEndian.PutUint16(b, c.fromPort)
	binary.BigEndian.PutUint16(b[2:], c.theirs)
	switch c.protocol {
	case corev1.ProtocolTCP: // RFC 9293 3.1
		const header, syn, window = 20, 2, 64240
		binary.BigEndian.PutUint32(b[4:], 1)
		b[12], b[13] = header/4<<4, syn
		binary.BigEndian.PutUint16(b[14:], window)
		return header
	case corev1.ProtocolSCTP: // RFC 9260 3.1, 3.3.2
		const header, chunk, init, window = 12, 20, 1, 1 << 16
		h := b[header:]
		h[0] = init
		binary.BigEndian.PutUint16(h[2:], chunk)
		binary.BigEndian.PutUint32(h[4:], 1) // initiate tag
		binary.BigEndian.PutUint32(h[8:], window)
		binary.BigEndian.PutUint16(h[12:], 1) // outbound streams
		binary.BigEndian.PutUint16(h[14:], 1) // inbound streams
		binary.BigEndian.PutUint32(h[16:], 1) // initial TSN
		return header + chunk
	}
	const header = 8 // RFC 768
	binary.BigEndian.PutUint16(b[4:], header)
	return header
}
