// SPDX-License-Identifier: Apache-2.0

package host

import "errors"

// Trunk is the veth pair through which hooks hand packets to userspace, and get them back.
type Trunk struct {
	Inner, Outer Link // TrunkInner and TrunkOuter
}

// EnsureTrunk makes the trunk, or makes the one that is there as it has to be. queues is the number of queues, from 1,
// in each direction at both ends. A trunk with another number, or with half of it missing, is made anew, which closes
// every socket and drops every program on it; otherwise its programs and sockets stay.
//
// With gro the kernel joins what userspace sends of a flow before to_port sees it.
func (s *Stack) EnsureTrunk(queues int, gro bool) (Trunk, error) {
	return Trunk{}, errors.ErrUnsupported
}
