// SPDX-License-Identifier: Apache-2.0

package service

import (
	"errors"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// front is a frontend of any kind; at empty means every address of the node.
func front(kind api.Frontend_Kind, at string, port uint32, local bool, sources ...string) *api.Frontend {
	f := &api.Frontend{Kind: kind, Port: port, LocalOnly: local}
	if at != "" {
		f.Address = octets(at)
	}
	for _, s := range sources {
		f.Sources = append(f.Sources, prefix(s))
	}
	return f
}

const (
	clusterKind  = api.Frontend_KIND_CLUSTER_IP
	externalKind = api.Frontend_KIND_EXTERNAL_IP
	balancerKind = api.Frontend_KIND_LOAD_BALANCER
	nodeKind     = api.Frontend_KIND_NODE_PORT
	hostKind     = api.Frontend_KIND_HOST_PORT
)

// town is services with every kind of frontend: "here" has a backend on this node and one elsewhere, "there" one
// elsewhere, "nobody" none, and "leaving" one on this node that only traffic for this node alone may go to.
func town() []*api.Service {
	here := &api.Service{Id: 1, Name: "town/here", Protocol: 6, Algorithm: 1, Frontends: []*api.Frontend{
		front(clusterKind, "10.96.0.1", 80, false), front(clusterKind, "10.96.0.2", 80, true),
		front(externalKind, "192.0.2.1", 80, false), front(externalKind, "192.0.2.2", 80, true),
		front(balancerKind, "192.0.2.3", 80, true, "203.0.113.0/24"),
		front(nodeKind, "", 30080, true), front(nodeKind, "", 30443, false),
	}, Backends: []*api.Backend{
		{Address: octets("10.244.1.7"), Port: 8080, Weight: 1, Cluster: true, Local: true},
		{Address: octets("10.244.2.7"), Port: 8080, Weight: 1, Cluster: true},
	}}
	there := &api.Service{Id: 2, Name: "town/there", Protocol: 6, Algorithm: 1, Frontends: []*api.Frontend{
		front(clusterKind, "10.96.1.1", 80, false), front(clusterKind, "10.96.1.2", 80, true),
		front(externalKind, "192.0.2.11", 80, true), front(nodeKind, "", 31080, true),
	}, Backends: []*api.Backend{{Address: octets("10.244.2.9"), Port: 8080, Weight: 1, Cluster: true}}}
	nobody := &api.Service{Id: 3, Name: "town/nobody", Protocol: 17, Algorithm: 1, Frontends: []*api.Frontend{
		front(clusterKind, "10.96.2.1", 53, false), front(externalKind, "192.0.2.21", 53, true),
	}}
	leaving := &api.Service{Id: 4, Name: "town/leaving", Protocol: 6, Algorithm: 1, Frontends: []*api.Frontend{
		front(clusterKind, "10.96.3.1", 80, false), front(clusterKind, "10.96.3.2", 80, true),
	}, Backends: []*api.Backend{{Address: octets("10.244.1.9"), Port: 8080, Weight: 1, Local: true}}}
	pod := &api.Service{Id: 5, Name: "town/pod", Protocol: 6, Algorithm: 1, Frontends: []*api.Frontend{
		front(hostKind, "", 30443, false), front(hostKind, "198.51.100.1", 9000, false),
	}, Backends: []*api.Backend{{Address: octets("10.244.1.5"), Port: 80, Weight: 1, Cluster: true, Local: true}}}
	six := &api.Service{Id: 6, Name: "town/here", Ipv6: true, Protocol: 6, Algorithm: 1, Frontends: []*api.Frontend{
		front(clusterKind, "fd00:96::1", 80, false), front(nodeKind, "", 30080, false),
	}, Backends: []*api.Backend{{Address: octets("fd00:244:1::7"), Port: 8080, Weight: 1, Cluster: true}}}
	return []*api.Service{here, there, nobody, leaving, pod, six}
}

// What becomes of a flow by where it goes, and whether its client is of the cluster.
func TestTrafficPolicies(t *testing.T) {
	r := newRig(t, town()...)
	const any = "any"
	for _, row := range []struct {
		what   string
		dst    string
		port   uint16
		proto  packet.IPProto
		inside bool
		toNode bool
		want   Outcome
		to     string // any: one or the other
	}{
		{"cluster address", "10.96.0.1", 80, 6, true, false, Chosen, any},
		{"cluster address, from outside", "10.96.0.1", 80, 6, false, false, Chosen, any},
		{"internal policy Local", "10.96.0.2", 80, 6, true, false, Chosen, "10.244.1.7"},
		{"internal policy Local, from outside", "10.96.0.2", 80, 6, false, false, Chosen, "10.244.1.7"},
		{"external address", "192.0.2.1", 80, 6, false, false, Chosen, any},
		{"external policy Local", "192.0.2.2", 80, 6, false, false, Chosen, "10.244.1.7"},
		{"external policy Local, from inside", "192.0.2.2", 80, 6, true, false, Chosen, any},
		{"load balancer, denied source", "192.0.2.3", 80, 6, false, false, SourceDenied, ""},
		{"node port, Local", "198.51.100.1", 30080, 6, false, true, Chosen, "10.244.1.7"},
		{"node port, Local, from inside", "198.51.100.1", 30080, 6, true, true, Chosen, any},
		{"node port at another's address", "198.51.100.2", 30080, 6, false, false, NoService, ""},
		{"node port of the other family", "2001:db8::1", 30080, 6, false, true, Chosen, "fd00:244:1::7"},
		{"host port before node port", "198.51.100.1", 30443, 6, false, true, Chosen, "10.244.1.5"},
		{"host port of one address", "198.51.100.1", 9000, 6, false, true, Chosen, "10.244.1.5"},
		{"host port of another address", "198.51.100.2", 9000, 6, false, true, NoService, ""},

		{"all elsewhere", "10.96.1.1", 80, 6, true, false, Chosen, "10.244.2.9"},
		{"all elsewhere, internal Local", "10.96.1.2", 80, 6, true, false, NoLocal, ""},
		{"all elsewhere, external Local", "192.0.2.11", 80, 6, false, false, NoLocal, ""},
		{"all elsewhere, external Local, from inside", "192.0.2.11", 80, 6, true, false, Chosen, "10.244.2.9"},
		{"all elsewhere, node port Local", "198.51.100.1", 31080, 6, false, true, NoLocal, ""},
		{"nobody", "10.96.2.1", 53, 17, true, false, Refused, ""},
		{"nobody, external Local", "192.0.2.21", 53, 17, false, false, Refused, ""},
		{"nobody, external Local, from inside", "192.0.2.21", 53, 17, true, false, Refused, ""},
		{"only for this node's traffic", "10.96.3.1", 80, 6, true, false, Refused, ""},
		{"only for this node's traffic, internal Local", "10.96.3.2", 80, 6, true, false, Chosen, "10.244.1.9"},

		{"no such port", "10.96.0.1", 81, 6, true, false, NoSuchPort, ""},
		{"no such protocol", "10.96.0.1", 80, 17, true, false, NoSuchPort, ""},
		{"echo to a cluster address", "10.96.0.1", 7, packet.ProtoICMP, true, false, NoSuchPort, ""},
		{"another protocol", "10.96.0.1", 0, 47, true, false, NoService, ""},
		{"external address, no such port", "192.0.2.1", 81, 6, false, false, NoService, ""},
		{"a pod", "10.244.1.7", 8080, 6, true, false, NoService, ""},
		{"IPv6", "fd00:96::1", 80, 6, true, false, Chosen, "fd00:244:1::7"},
	} {
		seen := map[string]bool{}
		for range 64 {
			c := r.choose(&Query{Src: addr("198.51.100.99"), SrcPort: 4000, Dst: addr(row.dst), DstPort: row.port,
				Proto: row.proto, Inside: row.inside, ToNode: row.toNode, Now: r.now})
			if c.Outcome != row.want {
				t.Fatalf("%s: outcome %d, want %d", row.what, c.Outcome, row.want)
			}
			nobodys := row.want == NoService || row.want == NoSuchPort
			if (c.Outcome == Chosen) != (c.Number != 0) || (c.Service == nil) != nobodys {
				t.Fatalf("%s: %+v", row.what, c)
			}
			if c.Outcome == Chosen {
				seen[c.Backend.String()] = true
			}
		}
		if len(seen) > 2 || row.to == any && len(seen) != 2 || row.to != any && row.to != "" && !seen[row.to] ||
			row.to != any && len(seen) > 1 {
			t.Errorf("%s: to %v, want %s", row.what, seen, row.to)
		}
	}
}

func TestSources(t *testing.T) {
	r := newRig(t, town()...)
	for client, want := range map[string]Outcome{"203.0.113.9": Chosen, "203.0.114.9": SourceDenied} {
		c := r.choose(&Query{Src: addr(client), Dst: addr("192.0.2.3"), DstPort: 80, Proto: 6, Now: r.now})
		if c.Outcome != want || !c.Outside || c.Service.ID != 1 {
			t.Errorf("%s: %+v", client, c)
		}
	}
	if got := r.b.TotalsOf(r.table.get(1)); got.SourceDenied != 1 {
		t.Errorf("%+v", got)
	}
}

// A flow that another node has chosen goes to the backend that it chose, whatever the policy here.
func TestDirect(t *testing.T) {
	r := newRig(t, town()...)
	q := Query{Src: addr("203.0.113.9"), Dst: addr("192.0.2.2"), DstPort: 80, Proto: 6, Now: r.now}
	var c Choice
	r.table.Direct(&q, addr("10.244.2.7"), &c)
	if c.Outcome != Chosen || c.Backend != addr("10.244.2.7") || c.Port != 8080 || c.Service.ID != 1 || !c.Outside {
		t.Errorf("%+v", c)
	}
	if r.table.Direct(&q, addr("10.244.9.9"), &c); c.Outcome != Refused || c.Service == nil {
		t.Errorf("a backend that is not there: %+v", c)
	}
	q.DstPort = 81
	if r.table.Direct(&q, addr("10.244.2.7"), &c); c.Outcome != NoService {
		t.Errorf("a frontend that is not there: %+v", c)
	}
}

// Of services with the same frontend the one has it whose name comes first, whichever was there before.
func TestConflicts(t *testing.T) {
	a, b, c := web(1, 1), web(2, 1), web(3, 1)
	a.Name, b.Name, c.Name = "default/b", "default/a", "default/c"
	for _, s := range []*api.Service{a, b, c} {
		s.Frontends = append(s.Frontends, front(externalKind, "192.0.2.1", 80, false))
	}
	r := newRig(t, a)
	winner := func() string {
		c := r.choose(&Query{Dst: addr("192.0.2.1"), DstPort: 80, Proto: 6, Now: r.now})
		if c.Service == nil {
			return ""
		}
		return c.Service.Name
	}
	for _, step := range []struct {
		list []*api.Service
		want string
	}{
		{[]*api.Service{a}, "default/b"}, {[]*api.Service{a, c}, "default/b"}, {[]*api.Service{a, b, c}, "default/a"},
		{[]*api.Service{a, c}, "default/b"}, {[]*api.Service{c}, "default/c"}, {nil, ""},
	} {
		r.enter(step.list...)
		if got := winner(); got != step.want {
			t.Errorf("of %v it is %s", step.list, got)
		}
		conflicts := r.table.Conflicts()
		if len(conflicts) != max(len(step.list)-1, 0) || r.table.Contested() != len(conflicts) {
			t.Errorf("of %d: %v", len(step.list), conflicts)
		}
		for _, c := range conflicts {
			if c.Winner.Name != step.want || c.Loser.Name <= step.want || c.Port != 80 || c.Address != addr("192.0.2.1") {
				t.Errorf("%+v", c)
			}
		}
	}
}

func TestNil(t *testing.T) {
	var none *Table
	c := Choice{Outcome: Refused}
	if none.Choose(&Query{}, &Dice{}, &c); c.Outcome != NoService || !none.Empty() {
		t.Errorf("%+v", c)
	}
	none.Enter(NewBackends(), 1)
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		field  string
		change func(s *api.Service)
	}{
		{"services[0].id", func(s *api.Service) { s.Id = 0 }},
		{"services[0].name", func(s *api.Service) { s.Name = "" }},
		{"services[0].protocol", func(s *api.Service) { s.Protocol = 1 }},
		{"services[0].algorithm", func(s *api.Service) { s.Algorithm = 0 }},
		{"services[0].algorithm", func(s *api.Service) { s.Algorithm = 9 }},
		{"services[0].removal", func(s *api.Service) { s.Removal = 2 }},
		{"services[0].frontends[0].kind", func(s *api.Service) { s.Frontends[0].Kind = 0 }},
		{"services[0].frontends[0].kind", func(s *api.Service) { s.Frontends[0] = nil }},
		{"services[0].frontends[0].address", func(s *api.Service) { s.Frontends[0].Address = nil }},
		{"services[0].frontends[0].address", func(s *api.Service) { s.Frontends[0].Address = octets("fd00::1") }},
		{"services[0].frontends[0].address", func(s *api.Service) { s.Frontends[0].Address = octets("224.0.0.1") }},
		{"services[0].frontends[0].address", func(s *api.Service) { s.Frontends[0].Kind = nodeKind }},
		{"services[0].frontends[0].port", func(s *api.Service) { s.Frontends[0].Port = 0 }},
		{"services[0].frontends[0].port", func(s *api.Service) { s.Frontends[0].Port = 65536 }},
		{"services[0].frontends[0].sources[0]", func(s *api.Service) { s.Frontends[0].Sources = []*api.Prefix{{}} }},
		{"services[0].frontends[0].sources[0]", func(s *api.Service) {
			s.Frontends[0].Sources = []*api.Prefix{prefix("fd00::/8")}
		}},
		{"services[0].frontends[1]", func(s *api.Service) { s.Frontends = append(s.Frontends, s.Frontends[0]) }},
		{"services[0].backends[0].address", func(s *api.Service) { s.Backends[0].Address = []byte{1} }},
		{"services[0].backends[0].address", func(s *api.Service) { s.Backends[0].Address = octets("fd00::1") }},
		{"services[0].backends[0].address", func(s *api.Service) { s.Backends[0] = nil }},
		{"services[0].backends[0].port", func(s *api.Service) { s.Backends[0].Port = 0 }},
		{"services[0].backends[0].weight", func(s *api.Service) { s.Backends[0].Weight = 0 }},
		{"services[0].backends[0].weight", func(s *api.Service) { s.Backends[0].Weight = 65536 }},
		{"services[0].backends[1]", func(s *api.Service) { s.Backends[1] = s.Backends[0] }},
	} {
		s := web(1, 2)
		s.Origin = 7
		row.change(s)
		_, err := Build(nil, snapshot(s), NewBackends())
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != row.field || invalid.Origin != 7 || invalid.Reason == "" {
			t.Errorf("%s: %v", row.field, err)
		}
	}
	r := newRig(t, web(1, 2))
	_, err := r.table.Update(nil, &api.Delta{RemovedServices: []uint32{9}}, r.b)
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Field != "removed_services[0]" {
		t.Error(err)
	}
}
