// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
)

// reserveSlots gives each device with sockets its index in the tables, which is its own for as long as a snapshot in
// force names it.
func (f *Forwarder) reserveSlots(snapshot *api.Snapshot) {
	for _, p := range withSockets(snapshot) {
		f.slotOf(p.Device)
	}
}

func (f *Forwarder) slotOf(name string) int {
	i := slices.Index(f.slots, name)
	if i >= 0 {
		return i
	}
	if i = slices.Index(f.slots, ""); i >= 0 {
		f.slots[i] = name
		return i
	}
	f.slots = append(f.slots, name)
	return len(f.slots) - 1
}
