// SPDX-License-Identifier: Apache-2.0

package names

import (
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Learned is that an address fits a pattern until a time, in nanoseconds, monotonic.
type Learned struct {
	Addr    packet.Addr
	Pattern uint64
	Expires int64
}

// Changes is another number once something has been learned or forgotten.
func (s *Store) Changes() uint64 { return s.changes.Load() }

// Ports lists the ports that have learned something, in ascending order.
func (s *Store) Ports() []packet.PortID { return slices.Sorted(maps.Keys(*s.ports.Load())) }

// Learned lists what a port has learned, what has expired included: flows that began before go on by it.
func (s *Store) Learned(port packet.PortID) (list []Learned) {
	t := (*s.ports.Load())[port]
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if e.expires != 0 {
			list = append(list, Learned{e.addr, e.pattern, e.expires})
		}
	}
	return list
}

// Restore has a port know what it had learned in another process, as far as there is room.
func (s *Store) Restore(port packet.PortID, list []Learned) {
	for i := range list {
		s.put(port, list[i].Addr, []uint64{list[i].Pattern}, max(list[i].Expires, 1))
	}
}
