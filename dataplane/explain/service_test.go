// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"testing"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
)

// services are one with frontends of all kinds, one that nobody answers, and a pod's host port.
func services() *controlapi.Snapshot {
	bytes := func(a string) []byte { return netip.MustParseAddr(a).AsSlice() }
	prefix := func(a string, bits uint32) *controlapi.Prefix {
		return &controlapi.Prefix{Address: bytes(a), Bits: bits}
	}
	const tcp = controlapi.Protocol_PROTOCOL_TCP
	return &controlapi.Snapshot{
		Node: &controlapi.NodeSettings{NodePortPrefixes: []*controlapi.Prefix{prefix("192.0.2.0", 24)}},
		Services: []*controlapi.Service{
			{Id: 1, Name: "shop/web", Protocol: tcp, Frontends: []*controlapi.Frontend{
				{Kind: controlapi.Frontend_KIND_CLUSTER_IP, Address: bytes("10.96.0.10"), Port: 80},
				{Kind: controlapi.Frontend_KIND_LOAD_BALANCER, Address: bytes("203.0.113.1"), Port: 80,
					Sources: []*controlapi.Prefix{prefix("198.51.100.0", 24)}},
				{Kind: controlapi.Frontend_KIND_NODE_PORT, Port: 30080, LocalOnly: true},
				{Kind: controlapi.Frontend_KIND_NODE_PORT, Port: 30081},
			}, Backends: []*controlapi.Backend{
				{Address: bytes("10.244.1.1"), Port: 8080, Weight: 1, Cluster: true},
				{Address: bytes("10.244.1.2"), Port: 8080, Weight: 1, Cluster: true, Local: true},
				{Address: bytes("10.244.1.3"), Port: 8080, Weight: 1},
			}},
			{Id: 2, Name: "shop/none", Protocol: tcp, Frontends: []*controlapi.Frontend{
				{Kind: controlapi.Frontend_KIND_CLUSTER_IP, Address: bytes("10.96.0.11"), Port: 80}}},
			{Id: 3, Name: "hostport", Protocol: tcp, Frontends: []*controlapi.Frontend{
				{Kind: controlapi.Frontend_KIND_HOST_PORT, Port: 81}, {Kind: controlapi.Frontend_KIND_HOST_PORT, Port: 30081},
				{Kind: controlapi.Frontend_KIND_HOST_PORT, Port: 30080, Address: bytes("192.0.2.9")},
			}, Backends: []*controlapi.Backend{
				{Address: bytes("10.244.1.9"), Port: 80, Weight: 1, Cluster: true, Local: true}}},
			{Id: 4, Name: "shop/far", Protocol: tcp, Frontends: []*controlapi.Frontend{
				{Kind: controlapi.Frontend_KIND_EXTERNAL_IP, Address: bytes("203.0.113.2"), Port: 80, LocalOnly: true},
			}, Backends: []*controlapi.Backend{{Address: bytes("10.244.2.1"), Port: 80, Weight: 1, Cluster: true}}},
		},
	}
}

// A flow to a service is explained for each backend that may be chosen, and may be where one of them may be reached.
func TestTo(t *testing.T) {
	snapshot := services()
	for _, s := range snapshot.Services {
		s.Algorithm = controlapi.Service_ALGORITHM_RANDOM
	}
	table, err := service.Build(nil, snapshot, service.NewBackends())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		to      string
		port    uint16
		inside  bool
		node    bool
		denied  string // the backend that policy denies
		service string
		want    string // verdict, reason and backends
	}{
		{"10.244.1.1", 80, true, false, "", "", "allow  []"},
		{"10.96.0.10", 80, true, false, "", "shop/web", "allow  [10.244.1.1 allow 10.244.1.2 allow]"},
		{"10.96.0.10", 80, true, false, "10.244.1.1", "shop/web", "allow  [10.244.1.1 deny 10.244.1.2 allow]"},
		{"10.96.0.10", 80, true, false, "all", "shop/web", "deny ingress_denied [10.244.1.1 deny 10.244.1.2 deny]"},
		{"10.96.0.10", 81, true, false, "", "", "deny service_refused []"},
		{"10.96.0.11", 80, true, false, "", "shop/none", "deny service_refused []"},
		{"203.0.113.1", 80, false, false, "", "shop/web", "deny service_source_denied []"},
		{"192.0.2.1", 30080, false, true, "", "shop/web", "allow  [10.244.1.2 allow]"},
		{"192.0.2.1", 30080, true, true, "", "shop/web", "allow  [10.244.1.1 allow 10.244.1.2 allow]"},
		{"192.0.2.1", 30080, false, false, "", "", "allow  []"},
		{"192.0.2.1", 22, false, true, "", "", "allow  []"},
		{"192.168.0.1", 30080, false, false, "", "", "allow  []"}, // no node port is at that address
		{"192.0.2.9", 30080, false, true, "", "hostport", "allow  [10.244.1.9 allow]"},
		{"192.0.2.1", 30081, false, true, "", "hostport", "allow  [10.244.1.9 allow]"},
		{"203.0.113.2", 81, false, false, "", "", "allow  []"},
		{"192.0.2.1", 81, false, true, "", "hostport", "allow  [10.244.1.9 allow]"},
		{"203.0.113.2", 80, false, false, "", "shop/far", "deny service_no_local []"},
		{"203.0.113.2", 80, true, false, "", "shop/far", "allow  [10.244.2.1 allow]"},
	} {
		q := &service.Query{Src: packet.AddrFrom(netip.MustParseAddr("10.244.1.7")),
			Dst: packet.AddrFrom(netip.MustParseAddr(tt.to)), Proto: packet.ProtoTCP, DstPort: tt.port, Inside: tt.inside,
			ToNode: tt.node}
		r := To(table, q, func(dst netip.Addr, port uint16) *api.ExplainReply {
			reply := &api.ExplainReply{Verdict: "allow", Steps: []string{"from", "to " + dst.String()}}
			if tt.denied == "all" || tt.denied == dst.String() {
				reply.Verdict, reply.Reason, reply.Rule = "deny", "ingress_denied", "rule"
			}
			return reply
		})
		var backends []string
		for _, b := range r.Backends {
			backends = append(backends, b.Address+" "+b.Verdict)
		}
		if got := fmt.Sprint(r.Verdict, " ", r.Reason, " ", backends); got != tt.want || r.Service != tt.service {
			t.Errorf("to %s port %d, inside %t: got %s of %q, want %s", tt.to, tt.port, tt.inside, got, r.Service, tt.want)
		}
		if r.Steps[0] != "from" {
			t.Errorf("to %s: steps %q", tt.to, r.Steps)
		}
	}
}
