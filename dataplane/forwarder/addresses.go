// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"slices"
)

// setNodeAddresses has the tables in force, and those that follow them, know the addresses of the host's devices: node
// ports are there.
func (f *Forwarder) setNodeAddresses(addresses []netip.Addr) {
	sorted := slices.Clone(addresses)
	slices.SortFunc(sorted, netip.Addr.Compare)
	sorted = slices.Compact(sorted)
	f.mu.Lock()
	defer f.mu.Unlock()
	if was := f.tables.Load(); was.WithDevices(sorted) != was {
		f.tables.Store(was.WithDevices(sorted))
		f.review()
	}
}
