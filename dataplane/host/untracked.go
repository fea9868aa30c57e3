// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// leaveUntracked has the kernel not track what the dataplane sends outside for services: what comes in by the host port,
// from an address of the host's own or of the answers, and is for somebody else. The other direction goes to the
// dataplane before the kernel tracks anything, so that of each connection it would see a half, which is invalid to it,
// and firewalls drop that. What the dataplane sends to the host itself is of connections that the host has begun.
//
// What is not tracked is not translated, either: no masquerade touches it.
func (f family) leaveUntracked(answers *nftables.Set) [][]expr.Any {
	local := binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)
	outside := func() []expr.Any {
		return append([]expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: deviceName(PairStack)},
		}, append(f.is(),
			&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: local})...)
	}
	rules := [][]expr.Any{append(outside(),
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagSADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: local},
		&expr.Notrack{})}
	if answers != nil {
		rules = append(rules, append(outside(), f.load(f.source),
			&expr.Lookup{SourceRegister: 1, SetName: answers.Name, SetID: answers.ID},
			&expr.Notrack{}))
	}
	return rules
}
