// SPDX-License-Identifier: Apache-2.0

package forwarder

import "net/netip"

// setNodeAddresses has the tables in force, and those that follow them, know the addresses of the host's devices: node
// ports are there.
func (f *Forwarder) setNodeAddresses([]netip.Addr) {}
