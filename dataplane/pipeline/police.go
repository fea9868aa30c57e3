// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// police says whether the packet may go from one port to the other: what belongs to a flow that was let in may, and
// what opens one if policy lets it. Between ports of which neither has a station nothing is asked.
func (l *Pipeline) police(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	if !in.Station.Only() && !out.Station.Only() {
		return verdict.None
	}
	if p.Flags&packet.Fragment != 0 {
		return l.policeFragment(p, in, out)
	}
	return l.judgeFlow(p, in, out)
}

// judgeFlow is police for a packet with its transport header.
func (l *Pipeline) judgeFlow(_ *packet.Packet, _, _ *tables.Port) verdict.Reason {
	return verdict.None
}
