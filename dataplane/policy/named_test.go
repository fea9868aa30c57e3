// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestManyNames: a pod with many names for ports and a rule that names many do not make a verdict cost their product.
func TestManyNames(t *testing.T) {
	const many = 4000
	s := &api.Snapshot{Epoch: 1}
	s.PeerSets = []*api.PeerSet{{Id: 1, Identities: []uint32{1}}, {Id: 2, Identities: []uint32{2}}}
	here, there := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for i, a := range []netip.Addr{here, there} {
		id := &api.Identity{Id: uint32(i + 1), Kind: api.Identity_KIND_POD, Namespace: "default"}
		s.Identities = append(s.Identities, id)
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{Prefix: wire(netip.PrefixFrom(a, 32)),
			Identity: id.Id})
	}
	rule := &api.PolicyRule{Name: "r", Direction: api.PolicyRule_DIRECTION_EGRESS, Action: api.PolicyRule_ACTION_ALLOW,
		Peers: []uint32{2}}
	for i := range many {
		rule.Ports = append(rule.Ports, &api.PortRange{Name: fmt.Sprintf("b%05d", i)})
		s.Identities[1].NamedPorts = append(s.Identities[1].NamedPorts, &api.NamedPort{
			Name: fmt.Sprintf("a%05d", i), Protocol: api.Protocol_PROTOCOL_TCP, Port: 80})
	}
	s.Identities[1].NamedPorts = append(s.Identities[1].NamedPorts, &api.NamedPort{
		Name: "b00007", Protocol: api.Protocol_PROTOCOL_TCP, Port: 81})
	s.Policies = []*api.Policy{{Name: "p", Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{1}, Egress: true,
		Rules: []*api.PolicyRule{rule}}}
	table := must(policy.Build(s, must(identity.Build(s)), []identity.ID{1}))
	q := policy.Query{Src: packet.AddrFrom(here), Dst: packet.AddrFrom(there), Proto: packet.ProtoTCP, DstPort: 80,
		Egress: true}
	const judged = 50
	began := time.Now()
	for range judged {
		if v := table.Judge(&q); v.Reason != verdict.EgressDenied {
			t.Fatalf("port 80: %v", v)
		}
	}
	if each := time.Since(began) / judged; each > 5*time.Millisecond {
		t.Errorf("a verdict took %v", each)
	}
	if q.DstPort = 81; table.Judge(&q).Reason != verdict.None {
		t.Error("port 81 is denied")
	}
}

// TestNamesOfPeers: of egress rules that name ports the first counts that names the peer too.
func TestNamesOfPeers(t *testing.T) {
	s := &api.Snapshot{Epoch: 1}
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"),
		netip.MustParseAddr("10.0.0.3")}
	for i, a := range addresses {
		id := uint32(i + 1)
		s.Identities = append(s.Identities, &api.Identity{Id: id, Kind: api.Identity_KIND_POD, Namespace: "default",
			NamedPorts: []*api.NamedPort{{Name: "dns", Protocol: api.Protocol_PROTOCOL_UDP, Port: 80},
				{Name: "web", Protocol: api.Protocol_PROTOCOL_TCP, Port: 80}}})
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{Prefix: wire(netip.PrefixFrom(a, 32)),
			Identity: id})
		s.PeerSets = append(s.PeerSets, &api.PeerSet{Id: id, Identities: []uint32{id}})
	}
	rule := func(name string, action api.PolicyRule_Action, port string, peers ...uint32) *api.PolicyRule {
		return &api.PolicyRule{Name: name, Direction: api.PolicyRule_DIRECTION_EGRESS, Action: action, Peers: peers,
			AnyPeer: len(peers) == 0, Ports: []*api.PortRange{{Name: port}}}
	}
	const allow, deny = api.PolicyRule_ACTION_ALLOW, api.PolicyRule_ACTION_DENY
	s.Policies = []*api.Policy{{Name: "p", Subjects: []uint32{1}, Rules: []*api.PolicyRule{
		rule("a", deny, "web", 2), rule("b", allow, "web", 2, 3), rule("c", deny, "web"), rule("d", deny, "dns", 3),
	}}}
	table := must(policy.Build(s, must(identity.Build(s)), []identity.ID{1}))
	for _, c := range []struct {
		to    int
		proto packet.IPProto
		port  uint16
		want  string
	}{
		{1, packet.ProtoTCP, 80, "a"}, {2, packet.ProtoTCP, 80, "b"}, {2, packet.ProtoUDP, 80, "d"},
		{1, packet.ProtoUDP, 80, ""}, {1, packet.ProtoTCP, 81, ""},
	} {
		v := table.Judge(&policy.Query{Src: packet.AddrFrom(addresses[0]), Dst: packet.AddrFrom(addresses[c.to]),
			Proto: c.proto, DstPort: c.port, Egress: true})
		if _, r, _ := table.Rule(v.Rule); r.GetName() != c.want {
			t.Errorf("to %v, %v %d: rule %q, want %q", addresses[c.to], c.proto, c.port, r.GetName(), c.want)
		}
	}
}
