// SPDX-License-Identifier: Apache-2.0

package packet

// Ends is where a packet comes from and where it goes. Ports are as Packet has them: of ICMP echoes both are the
// identifier.
type Ends struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
}

// Ends are the packet's, as parsed.
func (p *Packet) Ends() Ends { return Ends{p.Src, p.Dst, p.SrcPort, p.DstPort} }

// Reverse is those of the answer.
func (e Ends) Reverse() Ends { return Ends{e.Dst, e.Src, e.DstPort, e.SrcPort} }
