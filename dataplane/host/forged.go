// SPDX-License-Identifier: Apache-2.0

package host

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// addPrerouting adds the chain that sees packets before anybody's translation, and before the kernel tracks them.
func addPrerouting(conn *nftables.Conn, table *nftables.Table) *nftables.Chain {
	return conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
}

// dropForged drops, and counts, what claims to be from a pod and comes in by another device than the dataplane's: the
// dataplane takes the host port's packets for those of whose address they have. A pod's own come by the host port alone;
// they return there when the stack has translated their destination into another pod's. What the stack sends to itself
// comes in by lo, where its address may be one of those next to the pods'.
func (f family) dropForged(pods *nftables.Set) []expr.Any {
	rule := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}
	for _, device := range []string{PairStack, "lo"} {
		rule = append(rule, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: deviceName(device)})
	}
	rule = append(append(rule, f.is()...), f.load(f.source))
	return append(rule,
		&expr.Lookup{SourceRegister: 1, SetName: pods.Name, SetID: pods.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop})
}
