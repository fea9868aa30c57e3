// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const head = "apiVersion: viaduct.dev/v1alpha1\nkind: %s\nmetadata: {name: a}\nspec: "

func nodeConfig(spec string) string { return fmt.Sprintf(head, "NodeConfig") + spec + "\n" }
func route(spec string) string      { return fmt.Sprintf(head, "Route") + spec + "\n" }

func decodeOne(t *testing.T, text string) *Object {
	t.Helper()
	objects, errs := Decode("f.yaml", []byte(text))
	if len(errs) > 0 || len(objects) != 1 {
		t.Fatalf("%d objects, errors %v", len(objects), errs)
	}
	return objects[0]
}

var compareNetip = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestNodeConfig(t *testing.T) {
	got := decodeOne(t, nodeConfig(`
  podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]
  excludedAddresses: [10.244.1.0/29, "fd00:10:244:1::9"]
  mtu: 1450
  workers: 2
  offload: false
  onAbsence: pass
  masquerade: false
  namespaceIsolation: true
  failSafe: {ingress: [], egress: [{port: 443}, {protocol: UDP, port: 53}]}
  flows: 4096
  flowsPerPort: 100
  algorithm: maglev
  removedBackends: reset
  nodePortAddresses: [192.0.2.0/24]
  serviceCIDRs: [10.96.0.0/12, "fd96::/108"]
  noMasquerade: [10.0.0.0/8]
  uplink: {device: eth0, mode: owned}
  ports:
  - {name: left, device: ens1f0, queues: [0,1], addresses: [10.1.0.1/24, "fd01::1/64"], mtu: 9000}
  - {name: v, device: ens1f0, vlan: 100, neighbors: [{address: "fe80::2", mac: "02:00:00:00:00:02"}]}
  - {name: q, device: ens1f0, vlans: [100, 7]}`))
	want := &NodeConfig{
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
		ExcludedAddresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/29"),
			netip.MustParsePrefix("fd00:10:244:1::9/128")},
		MTU:       1450,
		Workers:   2,
		OnAbsence: "pass",
		Uplink:    &Uplink{Device: "eth0", Mode: "owned"},

		NamespaceIsolation: true, FailSafe: FailSafe{Egress: []FailSafePort{{"TCP", 443}, {"UDP", 53}}},
		Flows: 4096, FlowsPerPort: 100, Algorithm: "maglev", RemovedBackends: "reset",
		NodePortAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		ServiceCIDRs:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/108")},
		NoMasquerade:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Ports: []Port{
			{Name: "left", Device: "ens1f0", Queues: []uint32{0, 1}, MTU: 9000,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("fd01::1/64")}},
			{Name: "v", Device: "ens1f0", OuterVLAN: 100,
				Neighbors: []Neighbor{{netip.MustParseAddr("fe80::2"), net.HardwareAddr{2, 0, 0, 0, 0, 2}}}},
			{Name: "q", Device: "ens1f0", OuterVLAN: 100, InnerVLAN: 7},
		},
	}
	if diff := cmp.Diff(want, got.Spec, compareNetip, compareAddr); diff != "" {
		t.Error(diff)
	}
	defaults := decodeOne(t, nodeConfig("{uplink: {device: eth0}}")).Spec
	want = &NodeConfig{Offload: true, OnAbsence: "drop", Masquerade: true, Uplink: &Uplink{Device: "eth0", Mode: "kernel"},
		FailSafe: FailSafe{failSafeIngress, failSafeEgress}, Algorithm: "random", RemovedBackends: "drain"}
	if diff := cmp.Diff(want, defaults, compareNetip, compareAddr); diff != "" {
		t.Errorf("defaults: %s", diff)
	}
}

func TestRoute(t *testing.T) {
	got := decodeOne(t, route("{node: n1, destination: 0.0.0.0/0, "+
		"nextHops: [{via: 10.0.0.1, port: p, weight: 3, mtu: 1400}, {port: q}]}"))
	want := &Route{Node: "n1", Destination: netip.MustParsePrefix("0.0.0.0/0"), Type: "forward", NextHops: []NextHop{
		{Via: netip.MustParseAddr("10.0.0.1"), Port: "p", Weight: 3, MTU: 1400}, {Port: "q", Weight: 1},
	}}
	if diff := cmp.Diff(want, got.Spec, compareNetip, compareAddr); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	port := func(fields string) string { return nodeConfig("{ports: [{name: p, device: d, " + fields + "}]}") }
	hop := func(fields string) string { return route("{destination: 10.0.0.0/8, nextHops: [{" + fields + "}]}") }
	two := func(p, q string) string {
		return nodeConfig("{ports: [{name: p, device: d, addresses: [" + p + "]}, " +
			"{name: q, device: e, addresses: [" + q + "]}]}")
	}
	checkRefused(t, []refusal{
		// what the whole is
		{"kind: Route\nmetadata: {name: a}", "apiVersion", "must be said"},
		{"apiVersion: v1", "kind", "must be said"},
		{"apiVersion: v1\nkind: Pod", "metadata.name", "must be said"},
		{"apiVersion: viaduct.dev/v1alpha1\nkind: Rout\nmetadata: {name: a}", "kind", `there is no kind "Rout"`},
		{"apiVersion: viaduct.dev/v9\nkind: Route\nmetadata: {name: a}", "apiVersion", "viaduct.dev/v1alpha1 is"},
		{"apiVersion: networking.k8s.io/v1\nkind: NetworkPolcy\nmetadata: {name: a}", "kind", `no kind "NetworkPolcy"`},
		{"apiVersion: networking.k8s.io/v2\nkind: NetworkPolicy\nmetadata: {name: a}", "apiVersion",
			"networking.k8s.io/v1 is"},
		{"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}", "kind",
			`no kind "AdminNetworkPolicy"`},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: no}", "", "metadata.name: string is meant, not bool"},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "metadata.name", "not a name"},
		{"apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: a}", "spec", "must be said"},
		{"[1, 2]", "", "not a Kubernetes object"},
		{"a: [", "", "document"},
		{"a: 1\na: 2", "", `line 2 of the document: key "a" already`},
		{"{" + strings.Repeat("a: 1,", 1000) + "}", "", `key "a" already set in map, and 998 more like that`},
		{route("{destination: " + strings.Repeat("x", 100_000) + "}"), "spec.destination", "…"},
		{`{"apiVersion": "v1", "apiVersion": "v2"}`, "", "already"},
		// fields and types
		{route("{destination: 10.0.0.0/8, type: blackhole, metric: 1}"), "spec.metric", "unknown field"},
		{route("{Destination: 10.0.0.0/8, type: blackhole}"), "spec.Destination", "unknown field"},
		{hop("via: 10.0.0.1, wieght: 1"), "spec.nextHops[0].wieght", "unknown field"},
		{hop("via: 10.0.0.1, weight: two"), "spec.nextHops[0].weight", `an integer is meant, not "two"`},
		{route("{node: n, destination: 10.0.0.0/8, type: prohibit}"), "spec.node", "string is meant, not false (in quotes"},
		{hop("via: 10.0.0.1, weight: 1.5"), "spec.nextHops[0].weight", "an integer is meant, not 1.5"},
		{route("{destination: 10, type: blackhole}"), "spec.destination", "string is meant, not 10"},
		{route("{destination: 10.0.0.0/8, nextHops: {via: 10.0.0.1}}"), "spec.nextHops", "a list is meant"},
		{nodeConfig("{offload: 1}"), "spec.offload", "true or false is meant"},
		{nodeConfig("{uplink: eth0}"), "spec.uplink", "an object is meant"},
		{nodeConfig("{namespaceIsolation: 1}"), "spec.namespaceIsolation", "true or false is meant"},
		{nodeConfig("{failSafe: {ingress: [{port: 0}]}}"), "spec.failSafe.ingress[0].port", "0 is not between 1"},
		{nodeConfig("{failSafe: {egress: [{port: 1, protocol: ICMP}]}}"), "spec.failSafe.egress[0].protocol", "not one of"},
		{nodeConfig("{failSafe: {egress: [{port: 1}, {port: 1, protocol: TCP}]}}"), "spec.failSafe.egress[1].port", "twice"},
		{nodeConfig("{failSafe: {out: []}}"), "spec.failSafe.out", "unknown field"},
		{nodeConfig("{flows: 1023}"), "spec.flows", "1023 is not between 1024"},
		{nodeConfig("{flows: 2048, flowsPerPort: 2049}"), "spec.flowsPerPort", "2049 is not between 0 and 2048"},
		{nodeConfig("{flowsPerPort: 262145}"), "spec.flowsPerPort", "between 0 and 262144"},
		// routes
		{route("{type: blackhole}"), "spec.destination", "not a prefix"},
		{route("{destination: 10.0.0.1/8, type: blackhole}"), "spec.destination", "10.0.0.0/8"},
		{route(`{destination: "::ffff:10.0.0.0/104", type: blackhole}`), "spec.destination", "IPv4-mapped"},
		{route("{destination: 224.0.0.0/4, type: blackhole}"), "spec.destination", "multicast"},
		{route(`{destination: "fe80::/10", type: blackhole}`), "spec.destination", "link-local"},
		{route("{destination: 10.0.0.0/8}"), "spec.nextHops", "at least one"},
		{route("{destination: 10.0.0.0/8, type: drop}"), "spec.type", "not one of"},
		{route("{destination: 10.0.0.0/8, type: prohibit, nextHops: [{port: p}]}"), "spec.nextHops", "leads nowhere"},
		{route("{destination: 10.0.0.0/8, node: n1, nodeSelector: {a: b}, type: prohibit}"), "spec.nodeSelector", "exclude"},
		{hop("weight: 1"), "spec.nextHops[0]", "needs via"},
		{hop("port: p, weight: 0"), "spec.nextHops[0].weight", "0 is not between 1 and 65535"},
		{hop("port: p, mtu: 67"), "spec.nextHops[0].mtu", "between 68 and 65535"},
		{hop("via: 224.0.0.1"), "spec.nextHops[0].via", "unicast"},
		{hop("via: 0.1.2.3"), "spec.nextHops[0].via", "unicast"},
		{hop(`via: "fe80::1%eth0", port: p`), "spec.nextHops[0].via", "unicast"},
		{hop("via: 10.0.0.1, port: p q"), "spec.nextHops[0].port", "spaces"},
		{hop("via: 10.0.0.1, port: " + strings.Repeat("p", 64)), "spec.nextHops[0].port", "63 bytes"},
		{hop(`via: "fe80::1"`), "spec.nextHops[0].port", "link-local"},
		{route("{destination: 10.0.0.0/8, nextHops: [" + strings.Repeat("{port: p},", 257) + "]}"),
			"spec.nextHops", "at most 256"},
		// nodes
		{nodeConfig("{workers: -1}"), "spec.workers", "-1 is not between"},
		{nodeConfig("{workers: 4294967297}"), "spec.workers", "4294967297 is not between"},
		{nodeConfig("{mtu: 65536}"), "spec.mtu", "between 68 and 65535"},
		{nodeConfig("{onAbsence: fail}"), "spec.onAbsence", "drop, pass"},
		{nodeConfig("{podCIDRs: [10.0.0.0/8, x]}"), "spec.podCIDRs[1]", "not a prefix"},
		{nodeConfig(`{podCIDRs: [10.0.0.0/8, "fd00::/64", 10.1.0.0/16]}`), "spec.podCIDRs[2]", "overlaps 10.0.0.0/8"},
		{nodeConfig("{podCIDRs: [127.0.0.0/8]}"), "spec.podCIDRs[0]", "not forwarded"},
		{nodeConfig("{excludedAddresses: [10.0.0.1, x]}"), "spec.excludedAddresses[1]", "not a prefix"},
		{nodeConfig("{excludedAddresses: [10.0.0.1/24]}"), "spec.excludedAddresses[0]", "10.0.0.0/24"},
		{nodeConfig(`{excludedAddresses: ["fe80::1%eth0"]}`), "spec.excludedAddresses[0]", "plain"},
		{nodeConfig("{ports: [{name: host, device: d}]}"), "spec.ports[0].name", "own stack"},
		{nodeConfig("{uplink: {device: eth0, mode: both}}"), "spec.uplink.mode", "not one of"},
		{nodeConfig("{uplink: {}}"), "spec.uplink.device", "must be said"},
		{nodeConfig("{uplink: {device: d}, ports: [{name: p, device: d}]}"), "spec.ports[0].device", "uplink"},
		{nodeConfig("{ports: [{device: d}]}"), "spec.ports[0].name", "must be said"},
		{nodeConfig("{ports: [{name: p}]}"), "spec.ports[0].device", "must be said"},
		{nodeConfig("{ports: [{name: p, device: 0123456789abcdef}]}"), "spec.ports[0].device", "not a device name"},
		{nodeConfig("{ports: [{name: p q, device: d}]}"), "spec.ports[0].name", "spaces"},
		{nodeConfig("{ports: [{name: p, device: d}, {name: p, device: e}]}"), "spec.ports[1].name", "two ports"},
		{nodeConfig("{ports: [{name: p, device: d}, {name: q, device: d}]}"), "spec.ports[1].device", `port "p"`},
		{nodeConfig("{ports: [{name: p, device: d, vlan: 5}, {name: q, device: d, vlans: [5]}]}"),
			"spec.ports[1].device", "same"},
		{two("10.0.0.1/24", "10.0.0.1/8"),
			"spec.ports[1].addresses[0]", "10.0.0.1 is port"},
		{two("10.0.0.1/24", "10.0.0.2/24"),
			"spec.ports[1].addresses[0]", "10.0.0.0/24 is port"},
		{port("queues: [1, 1]"), "spec.ports[0].queues[1]", "twice"},
		{port("queues: [-1]"), "spec.ports[0].queues[0]", "between"},
		{port("vlan: 0"), "spec.ports[0].vlan", "between 1 and 4094"},
		{port("vlan: 4095"), "spec.ports[0].vlan", "between 1 and 4094"},
		{port("vlan: 1, vlans: [1]"), "spec.ports[0].vlans", "exclude"},
		{port("vlans: [1, 2, 3]"), "spec.ports[0].vlans", "at most two"},
		{port("addresses: [10.0.0.1]"), "spec.ports[0].addresses[0]", "subnet's length"},
		{port("addresses: [10.0.0.0/24]"), "spec.ports[0].addresses[0]", "own address"},
		{port("addresses: [10.0.0.255/24]"), "spec.ports[0].addresses[0]", "broadcast address"},
		{port("addresses: [10.0.0.1/0]"), "spec.ports[0].addresses[0]", "at least one bit"},
		{port("addresses: [127.0.0.1/8]"), "spec.ports[0].addresses[0]", "unicast"},
		{port("addresses: [10.0.0.1/24, 10.0.0.1/16]"), "spec.ports[0].addresses[1]", "twice"},
		{port(`mtu: 1279, addresses: ["fd00::1/64"]`), "spec.ports[0].mtu", "IPv6 needs"},
		{port("addresses: [10.0.0.1/24], neighbors: [{address: 10.0.0.1, mac: '02:00:00:00:00:01'}]"),
			"spec.ports[0].neighbors[0].address", "our own"},
		{port("addresses: [10.0.0.1/24], neighbors: [{address: 10.0.1.1, mac: '02:00:00:00:00:01'}]"),
			"spec.ports[0].neighbors[0].address", "none of the subnets"},
		{port("addresses: [10.0.0.1/24], neighbors: [{address: 10.0.0.2, mac: '03:00:00:00:00:01'}]"),
			"spec.ports[0].neighbors[0].mac", "unicast"},
		{port("addresses: [10.0.0.1/24], neighbors: [{address: 10.0.0.2, mac: '02:00:00:00:00:00:00:01'}]"),
			"spec.ports[0].neighbors[0].mac", "not a MAC"},
	})
}

// refusal is a text that is refused, with the field and a part of the reason.
type refusal struct{ text, field, reason string }

func checkRefused(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		objects, errs := Decode("f.yaml", []byte(c.text))
		if len(objects) != 0 || len(errs) != 1 {
			t.Errorf("%d objects, errors %v, of\n%s", len(objects), errs, c.text)
			continue
		}
		if errs[0].Field != c.field || !strings.Contains(errs[0].Reason, c.reason) {
			t.Errorf("refused with %q: %q, want %q: %q, of\n%s", errs[0].Field, errs[0].Reason, c.field, c.reason, c.text)
		}
	}
}

// TestDocuments: a bad document costs only itself, and each is named with the line of its first content.
func TestDocuments(t *testing.T) {
	text := "# a comment\n---\n" + route("{destination: 10.0.0.0/8, type: blackhole}") + // lines 3 to 6
		"---\n\n# nothing\n--- \n" + "a: [\n" + // line 11
		"---\n" + "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None}\n" + // 13
		"--- {apiVersion: v1, kind: Namespace, metadata: {name: n1, labels: {a: b}}}\r\n" + // 17
		"---\napiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: a}\n" + // 19
		"---\nnull\n---\n" + nodeConfig("{nope: 1}") // 25
	objects, errs := Decode("sub/f.yaml", []byte(text))
	var got []string
	for _, o := range objects {
		got = append(got, fmt.Sprintf("%s document %d", o.Origin(), o.Place.Document))
	}
	for _, e := range errs {
		got = append(got, e.Error())
	}
	want := []string{
		"Route a (sub/f.yaml:3) document 1",
		"Service default/s (sub/f.yaml:13) document 3",
		"Namespace n1 (sub/f.yaml:17) document 4",
		"Route.route.openshift.io a (sub/f.yaml:19) document 5",
		"sub/f.yaml:11 (document 2): line 2 of the document: did not find expected node content",
		"sub/f.yaml:25 (document 7): NodeConfig a: spec.nope: unknown field",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if objects[2].Labels["a"] != "b" {
		t.Errorf("labels %v", objects[2].Labels)
	}
	if _, raw := objects[3].Spec.(Raw); !raw {
		t.Errorf("another group's Route is a %T", objects[3].Spec)
	}
}

// FuzzDecode: no text makes the decoder panic or hang, everything refused says where, and what is accepted obeys the
// rules that the dataplane relies on.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(route("{destination: 10.0.0.0/8, nextHops: [{via: 10.0.0.1, weight: 2}]}")))
	f.Add([]byte(nodeConfig(`{ports: [{name: p, device: d, vlans: [1, 2], addresses: ["fd00::1/64"]}]}`)))
	f.Add([]byte("a: &a [*a]\n---\n{}\n--- x\n%YAML 1.1\n"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}]}`))
	f.Add([]byte(aPod))
	f.Add([]byte(networkPolicy("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8, except: [10.1.0.0/16]}}, " +
		"{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}], ports: [{port: 1, endPort: 9}]}]}")))
	f.Add([]byte(admin("egress: [{name: x, action: Accept, to: [{domainNames: ['*.a.b']}, {networks: ['::/0']}], " +
		"protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}]")))
	f.Add([]byte("x: &x [1, 2]\ny: &y [*x, *x]\nz: {<<: *y}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, errs := Decode("f", data)
		for _, e := range errs {
			if e.Reason == "" || e.Place.Line < 1 || e.Place.Document < 1 || strings.Contains(e.Error(), "\n") ||
				!utf8.ValidString(e.Error()) || len(e.Error()) > 10*maxLine {
				t.Errorf("error %#v", e)
			}
		}
		for _, o := range objects {
			if o.Key.Name == "" || o.Key.Kind == "" || o.Place.Line < 1 {
				t.Errorf("object %v", o)
			}
			switch s := o.Spec.(type) {
			case *Route:
				checkRoute(t, s)
			case *NodeConfig:
				checkNodeConfig(t, s)
			case *Policy:
				checkPolicy(t, s)
			case *Pod, *Namespace, *Node, Raw:
			default:
				t.Errorf("spec is a %T", o.Spec)
			}
		}
	})
}

func checkPolicy(t *testing.T, p *Policy) {
	if p.Tier > TierBaseline || p.Priority < 0 || p.Priority > 1000 ||
		(p.Ingress || p.Egress) != (p.Tier == TierNamespace) {
		t.Errorf("policy %v", p)
	}
	checkPeer(t, &p.Subject)
	for _, r := range p.Rules {
		if r.Name == "" || !utf8.ValidString(r.Name) || r.Action > Pass || r.Any == (len(r.Peers) > 0) {
			t.Errorf("rule %v", r)
		}
		for i := range r.Peers {
			checkPeer(t, &r.Peers[i])
		}
		for _, port := range r.Ports {
			if port.First > port.Last || (port.Protocol == "" || port.Last == 0) && port.Name == "" {
				t.Errorf("port %v", port)
			}
		}
	}
}

func checkPeer(t *testing.T, p *Peer) {
	if (p.Kind == Blocks) != (len(p.Blocks) > 0) || (p.Kind == Domains) != (len(p.Domains) > 0) {
		t.Errorf("peer %v", p)
	}
	for _, b := range p.Blocks {
		for _, e := range append(b.Except, b.Prefix) {
			if !e.IsValid() || e != e.Masked() || !b.Prefix.Overlaps(e) || e.Bits() < b.Prefix.Bits() {
				t.Errorf("block %v", b)
			}
		}
	}
	for _, r := range slices.Concat(p.Namespaces, p.Selector) {
		if r.Key == "" || (r.Operator <= NotIn) != (len(r.Values) > 0) || !slices.IsSorted(r.Values) {
			t.Errorf("requirement %v", r)
		}
	}
}

func checkRoute(t *testing.T, r *Route) {
	if !r.Destination.IsValid() || r.Destination != r.Destination.Masked() ||
		(r.Type == "forward") != (len(r.NextHops) > 0) {
		t.Errorf("route %v", r)
	}
	for _, h := range r.NextHops {
		if h.Weight < 1 || h.Weight > 65535 || h.MTU > 65535 || !h.Via.IsValid() && h.Port == "" || h.Via.IsMulticast() {
			t.Errorf("next hop %v", h)
		}
	}
}

func checkNodeConfig(t *testing.T, n *NodeConfig) {
	names := map[string]bool{}
	for _, p := range n.Ports {
		if p.Name == "" || p.Device == "" || names[p.Name] || p.OuterVLAN > 4094 || p.InnerVLAN > 4094 ||
			p.InnerVLAN != 0 && p.OuterVLAN == 0 || p.MTU > 65535 {
			t.Errorf("port %v", p)
		}
		names[p.Name] = true
		for _, nb := range p.Neighbors {
			if len(nb.MAC) != 6 || p.Has(nb.Address) {
				t.Errorf("neighbor %v", nb)
			}
		}
	}
}
