// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// leaveUntracked has the kernel not track what the dataplane sends outside for services: what comes in by the host
// port, is from no pod, and is for somebody else than the host. Such packets are answers, from an address of the host's
// own, of a load balancer, or of another node, and what has an egress address. The other direction goes to the
// dataplane, or to that other node, before the kernel here tracks anything, so that of each connection it would see a
// half, which is invalid to it, and firewalls drop that. What the dataplane sends to the host itself is of connections
// that the host has begun, and what is from its own address, which is among the pods', comes back through the host.
//
// What is not tracked is not translated, either: no masquerade touches it.
func (f family) leaveUntracked(pods *nftables.Set) []expr.Any {
	rule := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: deviceName(PairStack)},
	}
	rule = append(append(rule, f.is()...), f.load(f.source))
	return append(rule,
		&expr.Lookup{SourceRegister: 1, SetName: pods.Name, SetID: pods.ID, Invert: true},
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
		&expr.Notrack{})
}
