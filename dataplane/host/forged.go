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

// dropForged drops, and counts, what claims to be from a pod and comes in by another device than the dataplane's: of a
// packet that reaches the dataplane by the host port, the source says whose it is. What pods send comes in by that port
// alone, and goes back by it where the stack has translated its destination into a pod's. By lo comes what the stack
// sends to itself, also from the node's own address in the pods' prefixes.
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
