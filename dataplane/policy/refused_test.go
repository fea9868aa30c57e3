// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

// fault is one thing wrong with a world of one policy of each tier.
type fault struct {
	want string
	make func(s *api.Snapshot)
}

func (f fault) apply() (err error) {
	s := worldOf(networkPolicy("a", web, from(client, allow, tcp(80, 80))), admin("b", 1, web, from(client, deny)))
	s.Policies[0].Origin = 7
	f.make(s)
	_, err = policy.Build(s, must(identity.Build(s)), nil)
	return err
}

func onRule(f func(r *api.PolicyRule)) func(s *api.Snapshot) {
	return func(s *api.Snapshot) { f(s.Policies[0].Rules[0]) }
}

func onPorts(p *api.PortRange) func(s *api.Snapshot) {
	return onRule(func(r *api.PolicyRule) { r.Ports = append(r.Ports, p) })
}

func onSet(id int, f func(s *api.PeerSet)) func(s *api.Snapshot) {
	return func(s *api.Snapshot) { f(s.PeerSets[id-1]) }
}

var faults = []fault{
	{"policies[0].name: is empty", func(s *api.Snapshot) { s.Policies[0].Name = "" }},
	{"policies[1]: is there twice", func(s *api.Snapshot) { s.Policies[1].Name = "a" }},
	{"policies[1]: is out of order", func(s *api.Snapshot) { s.Policies[0].Name = "c" }},
	{"policies[0].tier: 3 is not known", func(s *api.Snapshot) { s.Policies[0].Tier = 3 }},
	{"policies[1].tier: only policies of the Namespace tier isolate",
		func(s *api.Snapshot) { s.Policies[1].Egress = true }},
	{"policies[0].subjects[1]: there is no peer set 99",
		func(s *api.Snapshot) { s.Policies[0].Subjects = []uint32{web, 99} }},
	{"policies[0].subjects[0]: peer set 6 is not of identities alone",
		func(s *api.Snapshot) { s.Policies[0].Subjects = []uint32{subnet} }},
	{"policies[0].rules[0].direction: 2 is not known", onRule(func(r *api.PolicyRule) { r.Direction = 2 })},
	{"policies[0].rules[0].direction: the policy does not isolate this direction",
		onRule(func(r *api.PolicyRule) { r.Direction = 1 })},
	{"policies[0].rules[0].action: 0 is not known", onRule(func(r *api.PolicyRule) { r.Action = 0 })},
	{"policies[0].rules[0].action: 4 is not known", onRule(func(r *api.PolicyRule) { r.Action = 4 })},
	{"policies[0].rules[0].action: rules of the Namespace tier only allow",
		onRule(func(r *api.PolicyRule) { r.Action = deny })},
	{"policies[0].rules[0].peers: every peer matches already", onRule(func(r *api.PolicyRule) { r.AnyPeer = true })},
	{"policies[0].rules[0].ports: every port matches already", onRule(func(r *api.PolicyRule) { r.AnyPort = true })},
	{"policies[0].rules[0].peers[1]: is not in ascending order",
		onRule(func(r *api.PolicyRule) { r.Peers = []uint32{3, 2} })},
	{"policies[0].rules[0].peers[1]: there is no peer set 99",
		onRule(func(r *api.PolicyRule) { r.Peers = []uint32{3, 99} })},
	{"policies[0].rules[0].peers[0]: peer set 8 has domain names, which sources are not known by",
		onRule(func(r *api.PolicyRule) { r.Peers = []uint32{names1} })},
	{"policies[0].rules[0].ports[1].protocol: 50 is not known", onPorts(&api.PortRange{Protocol: 50, Last: 65535})},
	{"policies[0].rules[0].ports[1].protocol: 1 has no ports", onPorts(&api.PortRange{Protocol: 1, Last: 80})},
	{"policies[0].rules[0].ports[1].first: 81 is more than the last, 80", onPorts(tcp(81, 80))},
	{"policies[0].rules[0].ports[1].last: 65536 is more than 65535", onPorts(tcp(0, 65536))},
	{"policies[0].rules[0].ports[1].name: is there beside numbers", onPorts(&api.PortRange{Name: "http", Last: 80})},
	{"policies[0].rules[0].ports[1].name: protocol 1 has no ports", onPorts(port(1, "http"))},
	{"peer_sets[0].id: 0 is no peer set", onSet(web, func(s *api.PeerSet) { s.Id = 0 })},
	{"peer_sets[1]: is there twice", onSet(web, func(s *api.PeerSet) { s.Id = 2 })},
	{"peer_sets[1]: is out of order", onSet(web, func(s *api.PeerSet) { s.Id = 3 })},
	{"peer_sets[3].identities[1]: is not in ascending order", onSet(pods,
		func(s *api.PeerSet) { s.Identities = []uint32{2, 2} })},
	{"peer_sets[3].identities[1]: there is no identity 9", onSet(pods,
		func(s *api.PeerSet) { s.Identities = []uint32{2, 9} })},
	{"peer_sets[5].blocks[0].prefix: 10.0.0.1/24 has bits set behind its length",
		onSet(subnet, func(s *api.PeerSet) { s.Blocks[0].Prefix.Address = []byte{10, 0, 0, 1} })},
	{"peer_sets[5].blocks[0].prefix: is not an IPv4 or IPv6 address",
		onSet(subnet, func(s *api.PeerSet) { s.Blocks[0].Prefix = nil })},
	{"peer_sets[5].blocks[0].except[0]: 10.0.1.0/32 is not inside 10.0.0.0/24",
		onSet(subnet, func(s *api.PeerSet) { s.Blocks[0].Except[0].Address = []byte{10, 0, 1, 0} })},
	{"peer_sets[5].blocks[0].except[0]: 10.0.0.0/16 is not inside 10.0.0.0/24",
		onSet(subnet, func(s *api.PeerSet) { s.Blocks[0].Except[0] = &api.Prefix{Address: []byte{10, 0, 0, 0}, Bits: 16} })},
	{"peer_sets[5].blocks[0].except[0]: 33 bits are more than the address has",
		onSet(subnet, func(s *api.PeerSet) { s.Blocks[0].Except[0].Bits = 33 })},
	{`peer_sets[7].domains[0]: "WWW.x" is not in lower case`, onSet(names1,
		func(s *api.PeerSet) { s.Domains[0] = "WWW.x" })},
	{"identities[0].named_ports[0].name: is empty", func(s *api.Snapshot) { s.Identities[0].NamedPorts[0].Name = "" }},
	{"identities[0].named_ports[0].protocol: 1 has no ports",
		func(s *api.Snapshot) { s.Identities[0].NamedPorts[0].Protocol = 1 }},
	{"identities[0].named_ports[0].port: 0 is not from 1 to 65535",
		func(s *api.Snapshot) { s.Identities[0].NamedPorts[0].Port = 0 }},
	{"identities[4].id: 16777216 is more than 16777215", func(s *api.Snapshot) {
		s.Identities = append(s.Identities[:4:4], &api.Identity{Id: 1 << 24, Kind: api.Identity_KIND_POD})
		s.IdentityPrefixes = nil
	}},
	{"node.fail_safe_ingress[0].first: 5 is more than the last, 4",
		func(s *api.Snapshot) { s.Node.FailSafeIngress = []*api.PortRange{tcp(5, 4)} }},
	{"node.fail_safe_egress[0].name: a node has no names for ports",
		func(s *api.Snapshot) { s.Node.FailSafeEgress = []*api.PortRange{port(6, "ssh")} }},
}

func TestRefusals(t *testing.T) {
	for _, f := range faults {
		var invalid *policy.InvalidError
		if err := f.apply(); !errors.As(err, &invalid) || err.Error() != f.want {
			t.Errorf("%v, want %s", err, f.want)
		}
	}
	f := fault{make: func(s *api.Snapshot) { s.Policies[0].Tier = 9 }}
	var invalid *policy.InvalidError
	if !errors.As(f.apply(), &invalid) || invalid.Origin != 7 {
		t.Errorf("origin %d, want the policy's", invalid.Origin)
	}
}

// What a delta may not do to a table, which stays as it is.
func TestRefusedUpdates(t *testing.T) {
	s := worldOf(networkPolicy("a", web, from(client, allow)))
	ids := must(identity.Build(s))
	table := must(policy.Build(s, ids, []identity.ID{idWeb}))
	subject := &api.PeerSet{Id: web, Identities: []uint32{idWeb}, Blocks: block("10.0.0.0/24", "fd00::/64")}
	set := func(s *api.Snapshot) *api.Delta { return &api.Delta{Set: s} }
	change := func(id uint32, added, removed []uint32) *api.Delta {
		return &api.Delta{PeerSetChanges: []*api.PeerSetChange{{Id: id, Added: added, Removed: removed}}}
	}
	ports := []*api.NamedPort{{Name: "a", Protocol: 6, Port: 65536}}
	safe := []*api.PortRange{tcp(2, 1)}
	for want, d := range map[string]*api.Delta{
		`removed_policies[0]: there is no policy "z"`:                    {RemovedPolicies: []string{"z"}},
		"removed_peer_sets[0]: there is no peer set 99":                  {RemovedPeerSets: []uint32{99}},
		`removed_peer_sets[0]: peer set 1 is subject of "a"`:             {RemovedPeerSets: []uint32{web}},
		"removed_peer_sets[0]: 1 rules name peer set 3":                  {RemovedPeerSets: []uint32{client}},
		"removed_identities[0]: peer set 1 has identity 1":               {RemovedIdentities: []uint32{idWeb}},
		"peer_set_changes[0].id: there is no peer set 99":                change(99, nil, nil),
		"peer_set_changes[0].removed[0]: identity 2 is not in the set":   change(web, nil, []uint32{2}),
		"peer_set_changes[0].added[0]: identity 1 is in the set already": change(web, []uint32{1}, nil),
		"peer_set_changes[0].added[1]: there is no identity 9":           change(web, []uint32{2, 9}, nil),
		`peer_sets[0]: is subject of "a" and not of identities alone`: set(
			&api.Snapshot{PeerSets: []*api.PeerSet{subject}}),
		`peer_sets[0].domains: an ingress rule of "a" names the set`: set(
			&api.Snapshot{PeerSets: []*api.PeerSet{{Id: client, Domains: []string{"a.b"}}}}),
		"policies[0].subjects[0]: there is no peer set 99": set(
			&api.Snapshot{Policies: []*api.Policy{isolate("b", 99)}}),
		"node.fail_safe_ingress[0].first: 2 is more than the last, 1": set(
			&api.Snapshot{Node: &api.NodeSettings{FailSafeIngress: safe}}),
		"identities[0].named_ports[0].port: 65536 is not from 1 to 65535": set(
			&api.Snapshot{Identities: []*api.Identity{{Id: 1, NamedPorts: ports}}}),
	} {
		if _, err := table.Update(s, d, ids, []identity.ID{idWeb}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for host, allowed := range map[string]bool{"client": true, "db": false} {
		if v := table.Judge(flow(host, "web", protoTCP, 1, false)); allowed != (v.Reason == 0) {
			t.Errorf("%s: %+v", host, v)
		}
	}
}
