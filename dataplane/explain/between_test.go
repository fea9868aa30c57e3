// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"testing"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

// A node reaches its own pods whatever a NetworkPolicy says, and not those of others; its fail-safe ports are its own
// whoever the other end is.
func TestANodeAndPodsOfItsOwnAndOfOthers(t *testing.T) {
	node, pod := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.244.1.7")
	prefix := func(a netip.Addr, id uint32) *controlapi.IdentityPrefix {
		return &controlapi.IdentityPrefix{Prefix: &controlapi.Prefix{Address: a.AsSlice(), Bits: 32}, Identity: id}
	}
	s := &controlapi.Snapshot{
		Node: &controlapi.NodeSettings{FailSafeEgress: []*controlapi.PortRange{
			{Protocol: controlapi.Protocol_PROTOCOL_TCP, First: 53, Last: 53}}},
		Identities: []*controlapi.Identity{
			{Id: 1, Kind: controlapi.Identity_KIND_POD, Namespace: "shop"}, {Id: 2, Kind: controlapi.Identity_KIND_NODE}},
		IdentityPrefixes: []*controlapi.IdentityPrefix{prefix(pod, 1), prefix(node, 2)},
		PeerSets:         []*controlapi.PeerSet{{Id: 1, Identities: []uint32{1}}, {Id: 2, Identities: []uint32{2}}},
		Policies: []*controlapi.Policy{
			{Name: "host", Tier: controlapi.Policy_TIER_ADMIN, Subjects: []uint32{2}, Rules: []*controlapi.PolicyRule{{
				Name: "egress", Direction: controlapi.PolicyRule_DIRECTION_EGRESS, AnyPeer: true,
				Action: controlapi.PolicyRule_ACTION_DENY, Ports: []*controlapi.PortRange{
					{Protocol: controlapi.Protocol_PROTOCOL_TCP, First: 50, Last: 59}}}}},
			{Name: "isolated", Tier: controlapi.Policy_TIER_NAMESPACE, Subjects: []uint32{1}, Ingress: true},
		},
	}
	ids, err := identity.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	table, err := policy.Build(s, ids, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		own  bool // the pod is the node's
		port uint16
		want string
	}{
		{true, 80, "allow NetworkPolicy never parts a node from its own pods"},
		{false, 80, "deny isolated isolates the end, and no rule of a NetworkPolicy allows it"},
		{true, 50, "deny host egress"},
		{true, 53, "allow NetworkPolicy never parts a node from its own pods"},
		{false, 53, "deny isolated isolates the end, and no rule of a NetworkPolicy allows it"},
	} {
		q := policy.Query{Src: packet.AddrFrom(node), Dst: packet.AddrFrom(pod), Proto: packet.ProtoTCP, DstPort: tt.port}
		out, in := q, q
		out.Egress, out.FromNode = true, true
		in.Ingress, in.FromNode = true, tt.own
		if r := Between(table, &out, &in); r.Verdict+" "+r.Rule != tt.want {
			t.Errorf("own %t, port %d: got %s %s, want %s", tt.own, tt.port, r.Verdict, r.Rule, tt.want)
		}
	}
}

// The whole is what both nodes say.
func TestMerge(t *testing.T) {
	reply := func(verdict, rule, staged, stagedRule string) *api.ExplainReply {
		return &api.ExplainReply{Verdict: verdict, Rule: rule, StagedVerdict: staged, StagedRule: stagedRule,
			Steps: []string{"from", "to", rule}}
	}
	for _, tt := range []struct {
		name    string
		out, in *api.ExplainReply
		want    string
	}{
		{"both let", reply("allow", "a", "", ""), reply("allow", "b", "", ""), "allow b   [from to a b]"},
		{"no rule at the destination", reply("allow", "a", "", ""), reply("allow", "", "", ""), "allow a   [from to a ]"},
		{"the destination denies", reply("allow", "a", "", ""), reply("deny", "b", "", ""), "deny b   [from to a b]"},
		{"the source denies", reply("deny", "a", "", ""), reply("allow", "b", "", ""), "deny a   [from to a]"},
		{"staged denies at the source", reply("allow", "a", "deny", "s"), reply("allow", "b", "", ""),
			"allow b deny s [from to a b]"},
		{"staged denies at the destination", reply("allow", "a", "", ""), reply("allow", "b", "deny", "s"),
			"allow b deny s [from to a b]"},
		{"staged lets at the source", reply("deny", "a", "allow", "s"), reply("allow", "b", "", ""),
			"deny a allow b [from to a]"},
		{"staged lets at the source, the destination denies", reply("deny", "a", "allow", "s"), reply("deny", "b", "", ""),
			"deny a   [from to a]"},
		{"staged lets at the destination", reply("allow", "a", "", ""), reply("deny", "b", "allow", "s"),
			"deny b allow s [from to a b]"},
		{"staged lets at the source without a rule", reply("deny", "a", "allow", ""), reply("allow", "", "", ""),
			"deny a allow  [from to a]"},
		{"staged lets at the destination without a rule", reply("allow", "", "", ""), reply("deny", "b", "allow", ""),
			"deny b allow  [from to  b]"},
	} {
		r := merge(tt.out, tt.in)
		if got := fmt.Sprint(r.Verdict, " ", r.Rule, " ", r.StagedVerdict, " ", r.StagedRule, " ", r.Steps); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
