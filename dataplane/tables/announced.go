// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Announced are addresses, beside the ports' own, that the uplink's link is told of. It does not change.
type Announced struct{ list []packet.Addr }

func (a *Announced) add(addresses ...packet.Addr) {
	for _, one := range addresses {
		if !one.IsZero() && !slices.Contains(a.list, one) {
			a.list = append(a.list, one)
		}
	}
}

// Answers says whether the dataplane answers on a port's link for an address: for the port's own, and at the uplink for
// those that are announced. Where a port of the uplink has the subnet of such an address the others do not.
func (t *Tables) Answers(p *Port, a packet.Addr) bool {
	if p.HasAddr(a) {
		return true
	}
	if !p.Uplink || p.Station.Only() || !t.Announces(a) {
		return false
	}
	if p.OnLink(a) {
		return true
	}
	return !slices.ContainsFunc(t.Ports, func(o Port) bool { return o.Uplink && o.OnLink(a) })
}

// Announces says whether an address is announced.
func (t *Tables) Announces(a packet.Addr) bool {
	return t.announced != nil && slices.Contains(t.announced.list, a) || t.Services.Announces(a)
}

// Announcements are all addresses that are announced, in no order.
func (t *Tables) Announcements() []packet.Addr {
	list := t.Services.Announced()
	if t.announced != nil {
		list = append(list, t.announced.list...)
	}
	return list
}

// SameAnnouncements says whether what is announced, and where, is certain to be the same by other tables.
func (t *Tables) SameAnnouncements(o *Tables) bool {
	return t == o || o != nil && t.announced == o.announced && t.Services.SameAnnounced(o.Services) &&
		len(t.Ports) == len(o.Ports) && (len(t.Ports) == 0 || &t.Ports[0] == &o.Ports[0])
}
