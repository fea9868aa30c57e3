// SPDX-License-Identifier: Apache-2.0

package tables

import "github.com/viaduct-net/viaduct/control/api"

// Uncarried is why the kernel does not carry flows of a port; the zero value: it may.
type Uncarried uint8

// The reasons.
const (
	NotUncarried Uncarried = iota
	NodeOff                // as the NodeConfig has it
	PortOff                // as the annotation of the pod or its namespace has it
	DirectPort             // userspace sees every packet of a station whose device has sockets of its own
	LimitedPort            // its packets wait in userspace for the bandwidth limit
	AbsentPort             // its device is not there
)

// String says it of a port, to people.
func (u Uncarried) String() string {
	if u > AbsentPort {
		return "out of range"
	}
	return [...]string{
		"", "offload is off on this node", "offload is off for it", "it is attached directly",
		"it has a bandwidth limit", "its device is absent",
	}[u]
}

// setCarried sets what decides on its own whether the kernel carries the port's flows.
func (p *Port) setCarried(cfg *api.Port) {
	switch {
	case cfg.GetNoOffload():
		p.uncarried = PortOff
	case !p.Trunk && p.Station.Only():
		p.uncarried = DirectPort
	case !p.Present || p.Trunk && p.Station.Own.IsZero():
		p.uncarried = AbsentPort
	}
}

// Carries says whether the kernel may carry flows between two ports.
func (t *Tables) Carries(in, out *Port) bool {
	return t.Node.GetOffload() && in.uncarried|out.uncarried == 0 && in.Limit == nil && out.Limit == nil
}

// Uncarried says why the kernel does not carry flows of a port, if it does not.
func (t *Tables) Uncarried(p *Port) Uncarried {
	switch {
	case !t.Node.GetOffload():
		return NodeOff
	case p.uncarried != NotUncarried:
		return p.uncarried
	case p.Limit != nil:
		return LimitedPort
	}
	return NotUncarried
}
