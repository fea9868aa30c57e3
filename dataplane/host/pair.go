// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"net"
	"net/netip"
)

// Pair is the veth pair by which the host's stack is a port of the dataplane.
type Pair struct {
	Stack, Hook Link // PairStack and PairHook
}

// EnsurePair makes the host's pair, or makes the one that is there as it has to be. mtu is in bytes, up to 65535; 0: 65535.
// The addresses are the node's own on PairStack, each alone (/32 and /128); others on it are removed. Packets to the
// dataplane go to the MAC gateway.
//
// Notes say which addresses the kernel would not take: IPv6 may be off.
func (s *Stack) EnsurePair(mtu int, addresses []netip.Addr, gateway net.HardwareAddr) (Pair, []Note, error) {
	return Pair{}, nil, errors.ErrUnsupported
}
