// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

const (
	ndLen            = 24  // bytes of a neighbour solicitation or advertisement, without options
	ndOption         = 8   // bytes of a link-layer address option for Ethernet (RFC 2464 6)
	ndHopLimit       = 255 // proves that no router forwarded it
	ndSourceLink     = 1
	ndTargetLink     = 2
	ndFlagRouter     = 0x80
	ndFlagSolicited  = 0x40
	ndFlagOverride   = 0x20
	ndFrameLen       = ethernetLen + ipv6Len + ndLen + ndOption
	allNodesLow      = 1
	allNodesHigh     = 0xff02 << 48
	solicitedNodeLow = 0x1_ff00_0000
)

// ND is a neighbour solicitation or advertisement (RFC 4861 4.3, 4.4).
type ND struct {
	Type   uint8 // ICMPv6NeighborSolicitation or …Advertisement; another type of ND has no further fields
	Target Addr
	// LinkLayer is the solicitation's source or the advertisement's target link-layer address, zero when it has none.
	LinkLayer                   MAC
	Router, Solicited, Override bool // flags of an advertisement
}

// IsND tells whether the parsed packet is of neighbour discovery: types 133 to 137.
func (p *Packet) IsND() bool {
	return p.Flags&IPv6 != 0 && p.Proto == ProtoICMPv6 && p.L4 != 0 &&
		p.ICMPType >= ICMPv6RouterSolicitation && p.ICMPType <= ICMPv6Redirect
}

// ParseND reads and validates (RFC 4861 7.1) the neighbour solicitation or advertisement of a packet for which IsND
// holds. Other types of ND give only their Type. Fragmented ones are refused (RFC 6980), and with them all that have
// extension headers.
func ParseND(p *Packet) (ND, verdict.Reason) {
	b := p.Frame[p.L4:p.End]
	nd := ND{Type: p.ICMPType}
	if nd.Type != ICMPv6NeighborSolicitation && nd.Type != ICMPv6NeighborAdvertisement {
		return nd, verdict.None
	}
	if p.TTL != ndHopLimit || p.ICMPCode != 0 || p.L4 != p.L3+ipv6Len || p.Tail != 0 || p.Flags&Fragment != 0 ||
		len(b) < ndLen || !p.VerifyTransport(nil) {
		return ND{}, verdict.MalformedND
	}
	nd.Target = addr16(b[8:])
	if nd.Target.IsMulticast() || nd.Target.IsUnspecified() || nd.Target.Is4() {
		return ND{}, verdict.MalformedND
	}
	link := uint8(ndSourceLink)
	if nd.Type == ICMPv6NeighborAdvertisement {
		link = ndTargetLink
		nd.Router, nd.Solicited, nd.Override = b[4]&ndFlagRouter != 0, b[4]&ndFlagSolicited != 0, b[4]&ndFlagOverride != 0
	}
	if !nd.parseOptions(b[ndLen:], link) || !p.plausible(&nd) {
		return ND{}, verdict.MalformedND
	}
	return nd, verdict.None
}

// parseOptions walks the options and takes the link-layer address of the given type.
func (nd *ND) parseOptions(b []byte, link uint8) bool {
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return false
		}
		size := int(b[1]) * 8
		if b[0] == link {
			mac := MAC(b[2:8])
			if size != ndOption || mac.IsMulticast() || mac.IsZero() {
				return false
			}
			nd.LinkLayer = mac
		}
		b = b[size:]
	}
	return true
}

// plausible checks addresses against each other: a solicitation from :: is a duplicate address detection, which goes to
// the solicited-node group and does not tell a link-layer address; an advertisement to a group answers nobody.
func (p *Packet) plausible(nd *ND) bool {
	if p.Src.IsMulticast() {
		return false
	}
	if nd.Type == ICMPv6NeighborAdvertisement {
		return !p.Src.IsUnspecified() && !(p.Dst.IsMulticast() && nd.Solicited)
	}
	if p.Src.IsUnspecified() {
		return nd.LinkLayer.IsZero() && p.Dst.Hi == allNodesHigh && p.Dst.Lo&^0xff_ffff == solicitedNodeLow
	}
	return true
}

// BuildNA turns a solicitation that ParseND took into the router's advertisement that our MAC has the target's address
// (RFC 4861 7.2.4), Ethernet header and tags included: to the asker, or to all nodes when that was duplicate address
// detection. It returns false when the frame has no room for that.
func BuildNA(p *Packet, nd ND, ourMAC MAC) bool {
	end := p.L3 + ipv6Len + ndLen + ndOption
	dst, dstMAC, flags := p.Src, p.SrcMAC(), byte(ndFlagRouter|ndFlagSolicited|ndFlagOverride)
	if !nd.LinkLayer.IsZero() {
		dstMAC = nd.LinkLayer
	}
	if dst.IsUnspecified() {
		dst = Addr{allNodesHigh, allNodesLow}
		dstMAC, flags = MulticastMAC(dst), ndFlagRouter|ndFlagOverride
	}
	if end > len(p.Frame) || !p.SetEthernet(dstMAC, ourMAC, p.VLANs) {
		return false
	}
	p.Src, p.Dst = nd.Target, dst
	p.putND(ICMPv6NeighborAdvertisement, flags, nd.Target, ndTargetLink, ourMAC)
	return true
}

// BuildUnsolicitedNA writes the router's advertisement to all nodes that our MAC has an address (RFC 4861 7.2.6) to
// frame[start:], without tags, and returns its end, 86 bytes on. A Packet over it takes tags by Parse and SetEthernet.
func BuildUnsolicitedNA(frame []byte, start int, ourMAC MAC, target Addr) (end int) {
	p := Packet{Frame: frame, L3: start + ethernetLen, EtherType: EtherTypeIPv6, Src: target,
		Dst: Addr{allNodesHigh, allNodesLow}}
	p.SetEthernet(MulticastMAC(p.Dst), ourMAC, VLANs{})
	p.putND(ICMPv6NeighborAdvertisement, ndFlagRouter|ndFlagOverride, target, ndTargetLink, ourMAC)
	return p.End
}

// BuildNS writes a solicitation for the MAC of target to frame[start:], without tags, and returns its end, 86 bytes on.
// With the zero dstMAC it goes to the target's solicited-node group, else to the target itself, to probe that it is
// still there. A Packet over it takes tags by Parse and SetEthernet.
func BuildNS(frame []byte, start int, srcMAC MAC, srcIP, target Addr, dstMAC MAC) (end int) {
	p := Packet{Frame: frame, L3: start + ethernetLen, EtherType: EtherTypeIPv6, Src: srcIP, Dst: target}
	if dstMAC.IsZero() {
		p.Dst = SolicitedNode(target)
		dstMAC = MulticastMAC(p.Dst)
	}
	p.SetEthernet(dstMAC, srcMAC, VLANs{})
	p.putND(ICMPv6NeighborSolicitation, 0, target, ndSourceLink, srcMAC)
	return p.End
}

// putND writes the IPv6 and ICMPv6 part of a message from Src to Dst with one link-layer address option.
func (p *Packet) putND(kind, flags byte, target Addr, option byte, mac MAC) {
	p.L3Len, p.L4 = ipv6Len+ndLen+ndOption, p.L3+ipv6Len
	p.End, p.Tail = p.L3+p.L3Len, 0
	p.ICMPType, p.ICMPCode, p.TTL = kind, 0, ndHopLimit
	p.SrcPort, p.DstPort = 0, 0
	p.putIPv6(ProtoICMPv6)
	b := p.Frame[p.L4:p.End]
	binary.BigEndian.PutUint32(b, uint32(kind)<<24)
	binary.BigEndian.PutUint32(b[4:], uint32(flags)<<24)
	target.put16(b[8:])
	b[ndLen], b[ndLen+1] = option, 1
	copy(b[ndLen+2:], mac[:])
	binary.BigEndian.PutUint16(b[2:], ^Fold(Sum(b, p.pseudoSum())))
	p.setFlowHash()
}
