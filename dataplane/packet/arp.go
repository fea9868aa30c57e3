// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Operations of ARP (RFC 826).
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

const (
	arpLen      = 28
	arpEthernet = 0x0001_0800_06_04 // hardware Ethernet, protocol IPv4, address lengths 6 and 4
	minFrame    = 60                // bytes of the shortest Ethernet frame, without its check sequence
)

// ARP is an ARP request or reply for IPv4 over Ethernet. SenderIP is 0.0.0.0 in a probe (RFC 5227).
type ARP struct {
	Op                   uint16
	SenderMAC, TargetMAC MAC
	SenderIP, TargetIP   Addr
}

// ParseARP reads the ARP message of a packet whose Parse found EtherTypeARP. Everything but requests and replies from
// one host to one host, of IPv4 over Ethernet, is malformed.
func ParseARP(p *Packet) (ARP, verdict.Reason) {
	b := p.Frame[p.L3:p.End]
	if len(b) < arpLen || binary.BigEndian.Uint64(b)>>16 != arpEthernet {
		return ARP{}, verdict.MalformedARP
	}
	a := ARP{
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: MAC(b[8:14]),
		SenderIP:  addr4(b[14:]),
		TargetMAC: MAC(b[18:24]),
		TargetIP:  addr4(b[24:]),
	}
	probe := a.Op == ARPRequest && a.SenderIP.IsUnspecified()
	switch {
	case a.Op != ARPRequest && a.Op != ARPReply,
		a.SenderMAC.IsMulticast() || a.SenderMAC.IsZero(),
		a.SenderIP.MartianSource() && !probe,
		a.TargetIP.MartianSource():
		return ARP{}, verdict.MalformedARP
	}
	return a, verdict.None
}

// BuildARPReply turns a request that ParseARP took into the answer that our MAC has the target's address, Ethernet
// header and tags included. It returns false when the frame has no room for that.
func BuildARPReply(p *Packet, ourMAC MAC) bool {
	if len(p.Frame)-p.L3 < minFrame-ethernetLen {
		return false
	}
	b := p.Frame[p.L3 : p.L3+minFrame-ethernetLen]
	request := ARP{SenderMAC: MAC(b[8:14]), SenderIP: addr4(b[14:]), TargetIP: addr4(b[24:])}
	if !p.SetEthernet(request.SenderMAC, ourMAC, p.VLANs) {
		return false
	}
	putARP(b, ARP{ARPReply, ourMAC, request.SenderMAC, request.TargetIP, request.SenderIP})
	p.End, p.Tail = p.L3+len(b), 0
	return true
}

// putARP writes a message to b and zeroes what is behind it.
func putARP(b []byte, a ARP) {
	binary.BigEndian.PutUint64(b, arpEthernet<<16|uint64(a.Op))
	copy(b[8:], a.SenderMAC[:])
	a.SenderIP.put4(b[14:])
	copy(b[18:], a.TargetMAC[:])
	a.TargetIP.put4(b[24:])
	clear(b[arpLen:])
}

// BuildARPRequest writes a request for the MAC of target to frame[start:], without tags, padded to 60 bytes, and
// returns its end. dstMAC is BroadcastMAC, or the MAC to probe again. frame must hold 60 bytes from start. A Packet
// over it takes tags by Parse and SetEthernet.
func BuildARPRequest(frame []byte, start int, srcMAC MAC, srcIP Addr, dstMAC MAC, target Addr) (end int) {
	p := Packet{Frame: frame, L3: start + ethernetLen, EtherType: EtherTypeARP}
	p.SetEthernet(dstMAC, srcMAC, VLANs{})
	end = start + minFrame
	putARP(frame[p.L3:end], ARP{Op: ARPRequest, SenderMAC: srcMAC, SenderIP: srcIP, TargetIP: target})
	return end
}
