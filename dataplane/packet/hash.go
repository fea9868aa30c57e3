// SPDX-License-Identifier: Apache-2.0

package packet

import "math/bits"

// Odd 64-bit constants without structure: fractional parts of the golden ratio, √2, √3 and √5.
const (
	hashHi    = 0x9e3779b97f4a7c15
	hashLow   = 0x6a09e667f3bcc909
	hashHigh  = 0xbb67ae8584caa73b
	hashFinal = 0x3c6ef372fe94f82b
)

// flowHash hashes a flow so that both directions give the same value. The two ends are ordered, not added or xored:
// those let bits move between the ends, and 10.0.0.1–10.0.0.2 would meet 10.0.0.0–10.0.0.3.
func flowHash(src, dst Addr, srcPort, dstPort uint16, proto IPProto) uint32 {
	a := src.Lo ^ uint64(srcPort)<<48 + src.Hi*hashHi
	b := dst.Lo ^ uint64(dstPort)<<48 + dst.Hi*hashHi
	hi, lo := bits.Mul64(min(a, b)^hashLow, max(a, b)^hashHigh^uint64(proto)<<32)
	h := (hi ^ lo) * hashFinal
	return uint32(h >> 32)
}

// FlowHash is Packet.FlowHash of packets with these ends that are no fragments.
func (e *Ends) FlowHash(proto IPProto) uint32 {
	return flowHash(e.Src, e.Dst, e.SrcPort, e.DstPort, proto)
}

// setFlowHash hashes the parsed fields. Fragments are hashed without ports, the first one too, so that all of a packet
// go one way; those of IPv6 without the protocol, which only the first one may tell (RFC 8200 4.5).
func (p *Packet) setFlowHash() {
	src, dst, proto := p.SrcPort, p.DstPort, p.Proto
	if p.Flags&Fragment != 0 {
		src, dst = 0, 0
		if p.Flags&IPv6 != 0 {
			proto = protoFragment
		}
	}
	p.FlowHash = flowHash(p.Src, p.Dst, src, dst, proto)
}
