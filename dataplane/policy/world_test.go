// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

// A small world for tables of rows: three pods, of which web and db are here, this node, another one, and the outside.
const (
	idWeb = iota + 1
	idDB
	idClient
	idNode
	idOther
)

var hosts = map[string]byte{"web": 1, "db": 2, "client": 3, "node": 4, "other": 5, "outside": 200, "excepted": 210}

// addr is a host's address of either family.
func addr(host string, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0xfd, 15: hosts[host]})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, hosts[host]})
}

// Sets of the world.
const (
	web = iota + 1
	db
	client
	pods
	nodes
	subnet // all of the world's addresses but excepted, and but db
	wide   // excepted and db, by a block of its own, in a set with one that excepts them
	names1 // www.example.com
	thisNode
)

func block(v4, v6 string, except ...string) (list []*api.PrefixSet) {
	for _, p := range []string{v4, v6} {
		b := &api.PrefixSet{Prefix: wire(netip.MustParsePrefix(p))}
		for _, host := range except {
			if a := addr(host, p == v6); netip.MustParsePrefix(p).Contains(a) {
				b.Except = append(b.Except, wire(netip.PrefixFrom(a, a.BitLen())))
			}
		}
		list = append(list, b)
	}
	return list
}

func worldOf(policies ...*api.Policy) *api.Snapshot {
	s := &api.Snapshot{Epoch: 1, Policies: policies, Node: &api.NodeSettings{}}
	ids := map[string]uint32{"web": idWeb, "db": idDB, "client": idClient, "node": idNode, "other": idOther}
	for host, id := range ids {
		kind := api.Identity_KIND_POD
		if id >= idNode {
			kind = api.Identity_KIND_NODE
		}
		s.Identities = append(s.Identities, &api.Identity{Id: id, Kind: kind})
		for _, v6 := range []bool{false, true} {
			a := addr(host, v6)
			s.IdentityPrefixes = append(s.IdentityPrefixes,
				&api.IdentityPrefix{Prefix: wire(netip.PrefixFrom(a, a.BitLen())), Identity: id})
		}
	}
	s.PeerSets = []*api.PeerSet{
		{Id: web, Identities: []uint32{idWeb}}, {Id: db, Identities: []uint32{idDB}},
		{Id: client, Identities: []uint32{idClient}}, {Id: pods, Identities: []uint32{idWeb, idDB, idClient}},
		{Id: nodes, Identities: []uint32{idNode, idOther}},
		{Id: subnet, Blocks: block("10.0.0.0/24", "fd00::/64", "excepted", "db")},
		{Id: wide, Blocks: append(block("10.0.0.0/24", "fd00::/64", "excepted", "db"), block("10.0.0.208/29",
			"fd00::d0/125")...)},
		{Id: names1, Domains: []string{"www.example.com"}},
		{Id: thisNode, Identities: []uint32{idNode}},
	}
	s.Order()
	s.Identities[idWeb-1].NamedPorts = []*api.NamedPort{{Name: "http", Protocol: 6, Port: 8080}, {Name: "dns",
		Protocol: 17, Port: 53}}
	s.Identities[idDB-1].NamedPorts = []*api.NamedPort{{Name: "http", Protocol: 6, Port: 9090}}
	slices.SortFunc(s.Policies, func(a, b *api.Policy) int { return cmpStrings(a.Name, b.Name) })
	return s
}

func tableOf(s *api.Snapshot) *policy.Table {
	return must(policy.Build(s, must(identity.Build(s)), []identity.ID{idWeb, idDB, idNode}))
}

// Policies in few words.

func networkPolicy(name string, subject uint32, rules ...*api.PolicyRule) *api.Policy {
	p := &api.Policy{Name: name, Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{subject}, Rules: rules}
	for _, r := range rules {
		p.Ingress = p.Ingress || r.Direction == api.PolicyRule_DIRECTION_INGRESS
		p.Egress = p.Egress || r.Direction == api.PolicyRule_DIRECTION_EGRESS
	}
	return p
}

func isolate(name string, subject uint32) *api.Policy {
	return &api.Policy{Name: name, Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{subject}, Ingress: true,
		Egress: true}
}

func admin(name string, priority int32, subject uint32, rules ...*api.PolicyRule) *api.Policy {
	return &api.Policy{Name: name, Priority: priority, Subjects: []uint32{subject}, Rules: rules}
}

func baseline(name string, subject uint32, rules ...*api.PolicyRule) *api.Policy {
	return &api.Policy{Name: name, Tier: api.Policy_TIER_BASELINE, Subjects: []uint32{subject}, Rules: rules}
}

func staged(p *api.Policy) *api.Policy { p.Staged = true; return p }

const (
	allow = api.PolicyRule_ACTION_ALLOW
	deny  = api.PolicyRule_ACTION_DENY
	pass  = api.PolicyRule_ACTION_PASS
)

// anyone is the peer of a rule for all.
const anyone = 0

func rule(d api.PolicyRule_Direction, a api.PolicyRule_Action, peer uint32, ports []*api.PortRange) *api.PolicyRule {
	r := &api.PolicyRule{Name: "rule", Direction: d, Action: a, AnyPeer: peer == anyone, Ports: ports,
		AnyPort: ports == nil}
	if peer != anyone {
		r.Peers = []uint32{peer}
	}
	return r
}

func from(peer uint32, a api.PolicyRule_Action, ports ...*api.PortRange) *api.PolicyRule {
	return rule(api.PolicyRule_DIRECTION_INGRESS, a, peer, ports)
}

func to(peer uint32, a api.PolicyRule_Action, ports ...*api.PortRange) *api.PolicyRule {
	return rule(api.PolicyRule_DIRECTION_EGRESS, a, peer, ports)
}

func tcp(first, last uint32) *api.PortRange {
	return &api.PortRange{Protocol: 6, First: first, Last: last}
}
func udp(first, last uint32) *api.PortRange {
	return &api.PortRange{Protocol: 17, First: first, Last: last}
}
func sctp(first, last uint32) *api.PortRange {
	return &api.PortRange{Protocol: 132, First: first, Last: last}
}
func every(first, last uint32) *api.PortRange {
	return &api.PortRange{First: first, Last: last}
}
func port(proto api.Protocol, name string) *api.PortRange {
	return &api.PortRange{Protocol: proto, Name: name}
}

// flow is a query between hosts: web, db and node are stations of this node.
func flow(src, dst string, proto packet.IPProto, port uint16, v6 bool) *policy.Query {
	here := func(h string) bool { return h == "web" || h == "db" || h == "node" }
	return &policy.Query{
		Src: packet.AddrFrom(addr(src, v6)), Dst: packet.AddrFrom(addr(dst, v6)), Proto: proto, DstPort: port,
		Egress: here(src), Ingress: here(dst), FromNode: src == "node", ToNode: dst == "node", Port: 1, Now: 1,
	}
}
