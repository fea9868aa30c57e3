// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"math/bits"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Tuple is a flow as its opener sends it. Of ICMP queries both ports are the identifier; ports are 0 of protocols that
// have none.
type Tuple struct {
	Src, Dst         packet.Addr
	SrcPort, DstPort uint16
	Proto            packet.IPProto
}

func (t Tuple) reverse() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort, Proto: t.Proto}
}

// key is what a flow is found by, the same for packets of both directions: its ends in the order of addresses and
// ports.
type key struct {
	lo, hi packet.Addr
	word   uint64 // lo's port, hi's port from bit 16, the protocol from 32, the kind from 40
}

const (
	protoShift = 32
	kindShift  = 40
)

// The kinds keep ICMP queries apart that have one identifier. kindHi says that it is hi who asks: two hosts may ask
// each other at once under one identifier, and each may have the answers to its own questions alone.
const (
	kindEcho      = 1
	kindTimestamp = 2
	kindHi        = 0x80
)

// set orders the ends. It returns 1 when the source is hi, else 0. answer says that the packet answers a query. There
// is no branch on the order, for it would be mispredicted at every other packet.
func (k *key) set(src, dst packet.Addr, srcPort, dstPort uint16, proto packet.IPProto, kind uint8, answer bool) uint8 {
	_, b := bits.Sub64(uint64(dstPort), uint64(srcPort), 0)
	_, b = bits.Sub64(dst.Lo, src.Lo, b)
	_, b = bits.Sub64(dst.Hi, src.Hi, b)
	mask := -b
	x := (src.Hi ^ dst.Hi) & mask
	k.lo.Hi, k.hi.Hi = src.Hi^x, dst.Hi^x
	x = (src.Lo ^ dst.Lo) & mask
	k.lo.Lo, k.hi.Lo = src.Lo^x, dst.Lo^x
	x = uint64(srcPort^dstPort) & mask
	k.word = uint64(srcPort) ^ x | (uint64(dstPort)^x)<<16 | uint64(proto)<<protoShift
	if kind != 0 {
		if (b != 0) != answer && src != dst {
			kind |= kindHi
		}
		k.word |= uint64(kind) << kindShift
	}
	return uint8(b)
}

// is compares in one expression: == would call a function for so many bytes.
func (k *key) is(l *key) bool {
	return (k.lo.Lo^l.lo.Lo)|(k.hi.Lo^l.hi.Lo)|(k.word^l.word)|(k.lo.Hi^l.lo.Hi)|(k.hi.Hi^l.hi.Hi) == 0
}

// tuple is the flow as sent by lo (from 0) or by hi (1).
func (k *key) tuple(from uint8) Tuple {
	t := Tuple{Src: k.lo, Dst: k.hi, SrcPort: uint16(k.word), DstPort: uint16(k.word >> 16), Proto: k.proto()}
	if from != 0 {
		return t.reverse()
	}
	return t
}

// ends is tuple without the protocol.
func (k *key) ends(from uint8, x *packet.Ends) {
	lo, hi := uint16(k.word), uint16(k.word>>16)
	if from != 0 {
		x.Src, x.Dst, x.SrcPort, x.DstPort = k.hi, k.lo, hi, lo
		return
	}
	x.Src, x.Dst, x.SrcPort, x.DstPort = k.lo, k.hi, lo, hi
}

// kind is what is asked by ICMP, whichever end asks.
func (k *key) kind() uint8 { return uint8(k.word>>kindShift) &^ kindHi }

func (k *key) proto() packet.IPProto { return packet.IPProto(k.word >> protoShift) }

// portsOf is the packet's ports as a tuple has them. Parse reads those of ICMP of echoes alone.
func portsOf(p *packet.Packet, kind uint8) (src, dst uint16) {
	if kind == kindTimestamp && p.L4 != 0 {
		if b := p.Frame[p.L4:p.End]; len(b) >= 8 {
			id := binary.BigEndian.Uint16(b[4:])
			return id, id
		}
	}
	return p.SrcPort, p.DstPort
}
