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

// Of says it of a port, to people.
func (u Uncarried) Of(p *Port) string {
	switch u {
	case NodeOff:
		return "offload is off on this node"
	case PortOff:
		return "offload is off for port " + p.Name
	case DirectPort:
		return "port " + p.Name + " is attached directly"
	case LimitedPort:
		return "port " + p.Name + " has a bandwidth limit"
	case AbsentPort:
		return "the device of port " + p.Name + " is absent"
	}
	return ""
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
