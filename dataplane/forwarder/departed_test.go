// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// What a pod's port knows of flows must not be the next pod's, whichever way that comes; what a link's knows is still
// so when its device returns.
func TestDeparted(t *testing.T) {
	pod := tables.Station{MAC: packet.MAC{2, 0, 0, 0, 0, 9}}
	host := tables.Station{MAC: packet.MAC{2, 0, 0, 0, 0, 1}, Router: true}
	port := func(name string, ifindex int, station tables.Station) tables.Port {
		return tables.Port{ID: 1, Name: name, IfIndex: ifindex, Station: station}
	}
	link := tables.Station{}
	for what, row := range map[string]struct {
		was, is tables.Port
		departs bool
	}{
		"a pod that stays":            {port("a", 5, pod), port("a", 5, pod), false},
		"another pod of one number":   {port("a", 5, pod), port("b", 5, pod), true},
		"a pod's new device":          {port("a", 5, pod), port("a", 6, pod), true},
		"a pod without its device":    {port("a", 5, pod), port("a", 0, pod), true},
		"a link's device that is new": {port("a", 5, link), port("a", 6, link), false},
		"the host's device":           {port("a", 5, host), port("a", 6, host), false},
		"a link that becomes a pod's": {port("a", 5, link), port("a", 6, pod), true},
	} {
		prev, next := &tables.Tables{Ports: []tables.Port{{}, row.was}}, &tables.Tables{Ports: []tables.Port{{}, row.is}}
		delta := &api.Delta{Set: &api.Snapshot{Ports: []*api.Port{{Id: 1}}}}
		for _, list := range [][]packet.PortID{allDeparted(prev, next), departed(prev, next, delta)} {
			if slices.Contains(list, 1) != row.departs {
				t.Errorf("%s: departed are %v", what, list)
			}
		}
	}
	prev := &tables.Tables{Ports: []tables.Port{{}, {ID: 1}, {}, {ID: 3}}}
	next := &tables.Tables{Ports: prev.Ports[:2]}
	if list := allDeparted(prev, next); !slices.Equal(list, []packet.PortID{3}) {
		t.Errorf("departed are %v", list)
	}
}
