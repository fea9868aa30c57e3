// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// TCP's flags (RFC 9293 3.1).
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
)

const (
	tcpHeader    = 20
	tcpToFlags   = 14 // bytes of the header that a first fragment has at least
	optionEnd    = 0
	optionNop    = 1
	optionWScale = 3
	maxScale     = 14 // RFC 7323 2.3
)

// segment is what is read of a TCP header.
type segment struct {
	seq, end uint32 // end: one past the last number taken, SYN and FIN included
	ack      uint32
	window   uint32 // as it stands in the header
	flags    uint8
	whole    bool // not a fragment, of which neither window nor length are known
}

func (g *segment) has(flag uint8) bool { return g.flags&flag != 0 }

// before and after compare sequence numbers (RFC 9293 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
func after(a, b uint32) bool  { return int32(a-b) > 0 }

// read fills a zero segment in where it lies: a copy would stall on its small fields.
func (g *segment) read(p *packet.Packet) {
	b := p.Frame[p.L4:p.End]
	if len(b) < tcpToFlags {
		return
	}
	g.seq, g.ack, g.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
	end := g.seq
	if p.Flags&packet.Fragment != 0 || len(b) < tcpHeader {
		g.end = end + 0xffff - tcpHeader
		return
	}
	g.whole, g.window = true, uint32(binary.BigEndian.Uint16(b[14:]))
	end += uint32(p.L3+p.L3Len-p.L4) - uint32(b[12]>>4)*4
	g.end = end + uint32(b[13]&tcpSYN)>>1 + uint32(b[13]&tcpFIN)
}

// scaleOf reads the window scale option of a SYN. Options that do not parse end the search.
func scaleOf(p *packet.Packet) (scale uint8, ok bool) {
	b := p.Frame[p.L4:p.End]
	if p.Flags&packet.Fragment != 0 || len(b) < tcpHeader {
		return 0, false
	}
	b = b[tcpHeader:max(tcpHeader, min(int(b[12]>>4)*4, len(b)))]
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			break
		}
		if b[0] == optionWScale && b[1] == 3 {
			return min(b[2], maxScale), true
		}
		b = b[b[1]:]
	}
	return 0, false
}

// flagSets has a bit for each set of FIN, SYN, RST, ACK and URG that may be in a segment: of SYN, FIN and RST one at
// most; but for SYN and RST none without ACK (RFC 9293 3.10.7); URG not with RST. PSH goes with anything.
var flagSets = func() (sets uint64) {
	for _, set := range []uint8{tcpSYN, tcpSYN | tcpURG, tcpSYN | tcpACK, tcpRST, tcpRST | tcpACK, tcpACK, tcpACK | tcpURG,
		tcpFIN | tcpACK, tcpFIN | tcpACK | tcpURG} {
		sets |= 1 << set
	}
	return sets
}()

func tcpFlagsValid(p *packet.Packet) bool {
	if p.L4 == 0 { // a fragment behind the first
		return true
	}
	b := p.Frame[p.L4:p.End]
	return len(b) >= tcpToFlags && flagSets>>(b[13]&(tcpURG|tcpACK|tcpRST|tcpSYN|tcpFIN))&1 != 0
}
