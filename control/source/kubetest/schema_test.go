// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/control/model"
)

// Who accepts a spec. The API server may accept what a schema cannot refuse; it must refuse nothing that is good.
const (
	both = iota
	neither
	serverAlone
)

var specs = []struct {
	kind, spec string
	accepted   int
}{
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{via: 10.1.0.2}]}`, both},
	{"Route", `{destination: "fd00::/8", nextHops: [{via: "fe80::1", port: left, weight: 65535, mtu: 68}]}`, both},
	{"Route", `{destination: 0.0.0.0/0, nextHops: [{via: "", port: left, mtu: 0}]}`, both},
	{"Route", `{destination: "::/0", type: blackhole}`, both},
	{"Route", `{destination: 10.2.0.0/16, type: prohibit, nextHops: []}`, both},
	{"Route", `{destination: 10.2.0.0/16, type: "", nextHops: [{port: left}]}`, both},
	{"Route", `{destination: 10.2.0.0/16, type: unreachable, node: a, nodeSelector: {}}`, both},
	{"Route", `{destination: 10.2.0.0/16, type: unreachable, node: "", nodeSelector: {zone: x}}`, both},
	{"Route", `{destination: 10.2.0.0/16, type: unreachable, node: null, nextHops: null}`, both},
	{"Route", `{}`, neither},
	{"Route", `{destination: ""}`, neither},
	{"Route", `{destination: 10.2.0.0, type: blackhole}`, neither},
	{"Route", `{destination: 10.2.0.1/16, type: blackhole}`, neither},
	{"Route", `{destination: "::ffff:10.2.0.0/112", type: blackhole}`, neither},
	{"Route", `{destination: 10.2.0.0/33, type: blackhole}`, neither},
	{"Route", `{destination: 10.2.0.0/16}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: []}`, neither},
	{"Route", `{destination: 10.2.0.0/16, type: blackhole, nextHops: [{port: left}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, type: reject}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{via: 10.1.0}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{port: left, weight: 0}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{port: left, mtu: 67}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{port: left, mtu: 65536}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{port: left, wieght: 1}]}`, neither},
	{"Route", `{destination: 10.2.0.0/16, type: blackhole, node: a, nodeSelector: {zone: x}}`, neither},
	{"Route", `{destination: 224.0.0.0/4, type: blackhole}`, serverAlone},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{via: 127.0.0.1}]}`, serverAlone},
	{"Route", `{destination: 10.2.0.0/16, nextHops: [{via: "fe80::1"}]}`, serverAlone},

	{"NodeConfig", `{}`, both},
	{"NodeConfig", `{podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"], mtu: 0, workers: 0, offload: true, onAbsence: drop,
		masquerade: false, uplink: {device: eth0, mode: kernel}}`, both},
	{"NodeConfig", `{onAbsence: "", uplink: {device: "bond0.100", mode: ""}, workers: 256, mtu: 65535}`, both},
	{"NodeConfig", `{ports: [{name: left, device: ens1f0, queues: [0, 4095], addresses: [10.1.0.1/24, "fe80::1/64"]}]}`,
		both},
	{"NodeConfig", `{ports: [{name: left, device: a, vlan: 1}, {name: right, device: a, vlans: [4094, 1]}]}`, both},
	{"NodeConfig", `{ports: [{name: left, device: a, vlans: []}]}`, both},
	{"NodeConfig", `{ports: [{name: left, device: a, addresses: [10.1.0.1/24],
		neighbors: [{address: 10.1.0.2, mac: "02:00:00:00:00:01"}, {address: 10.1.0.3, mac: 0200.0000.0002}]}]}`, both},
	{"NodeConfig", `{ports: [{name: "links/ü", device: "e-1_@x", mtu: 68}]}`, both},
	{"NodeConfig", `{namespaceIsolation: true, flows: 1024, flowsPerPort: 1, failSafe: {ingress: [],
		egress: [{port: 53, protocol: UDP}, {port: 1, protocol: ""}, {port: 65535}]}}`, both},
	{"NodeConfig", `{flows: 0, flowsPerPort: 0, failSafe: {}, namespaceIsolation: null}`, both},
	{"NodeConfig", `{algorithm: maglev-bounded, removedBackends: reset, nodePortAddresses: [192.0.2.0/24, "::/0"],
		serviceCIDRs: [10.96.0.0/12], noMasquerade: ["fd00::/8"]}`, both},
	{"NodeConfig", `{algorithm: "", removedBackends: "", nodePortAddresses: []}`, both},
	{"NodeConfig", `{algorithm: fastest}`, neither},
	{"NodeConfig", `{removedBackends: keep}`, neither},
	{"NodeConfig", `{nodePortAddresses: [primary]}`, neither},
	{"NodeConfig", `{nodePortAddresses: [192.0.2.1]}`, neither},
	{"NodeConfig", `{serviceCIDRs: [10.96.0.1/12]}`, serverAlone},
	{"NodeConfig", `{flows: 1023}`, neither},
	{"NodeConfig", `{flows: 16777217}`, neither},
	{"NodeConfig", `{failSafe: {ingress: [{protocol: UDP}]}}`, neither},
	{"NodeConfig", `{failSafe: {egress: [{port: 1, protocol: ICMP}]}}`, neither},
	{"NodeConfig", `{failSafe: {in: []}}`, neither},
	{"NodeConfig", `{flows: 1024, flowsPerPort: 1025}`, serverAlone},
	{"NodeConfig", `{failSafe: {ingress: [{port: 1}, {port: 1}]}}`, serverAlone},
	{"NodeConfig", `{mtu: 67}`, neither},
	{"NodeConfig", `{mtu: -1}`, neither},
	{"NodeConfig", `{workers: 257}`, neither},
	{"NodeConfig", `{workers: "1"}`, neither},
	{"NodeConfig", `{offload: "yes"}`, neither},
	{"NodeConfig", `{onAbsence: allow}`, neither},
	{"NodeConfig", `{uplink: {}}`, neither},
	{"NodeConfig", `{uplink: {device: eth0, mode: direct}}`, neither},
	{"NodeConfig", `{uplink: {device: "a/b"}}`, neither},
	{"NodeConfig", `{podCIDRs: [all]}`, neither},
	{"NodeConfig", `{ports: [{name: left}]}`, neither},
	{"NodeConfig", `{ports: [{device: a}]}`, neither},
	{"NodeConfig", `{ports: [{name: "a b", device: a}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: sixteen-letters-}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a}, {name: left, device: b}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, vlan: 0}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, vlan: 1, vlans: [2]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, vlans: [1, 2, 3]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, queues: [1, 1]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, queues: [4096]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, addresses: [10.1.0.1]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, neighbors: [{address: 10.1.0.2}]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, neighbors: [{address: 10.1.0.2, mac: "02:00"}]}]}`, neither},
	{"NodeConfig", `{ports: [{name: left, device: a, speed: 10}]}`, neither},
	{"NodeConfig", `{podCIDRs: [10.244.1.1/24]}`, serverAlone},
	{"NodeConfig", `{ports: [{name: left, device: a}, {name: right, device: a}]}`, serverAlone},
	{"NodeConfig", `{ports: [{name: left, device: a, addresses: [10.1.0.0/24]}]}`, serverAlone},
	{"NodeConfig", `{ports: [{name: left, device: a, neighbors: [{address: 10.1.0.2, mac: "ff:ff:ff:ff:ff:ff"}]}]}`,
		serverAlone},
}

// TestSchema: the API server refuses what it can of what model refuses, and nothing else; and what it stores, with its
// defaults, means what was written.
func TestSchema(t *testing.T) {
	c := admin(t)
	c.define()
	for _, test := range specs {
		spec := map[string]any{}
		if err := yaml.Unmarshal([]byte(test.spec), &spec); err != nil {
			t.Fatal(test.spec, err)
		}
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": model.APIVersion, "kind": test.kind,
			"metadata": map[string]any{"name": "schema"}, "spec": integers(spec)}}
		written, refused := decode(t, o)
		stored, err := c.of(o).Create(context.Background(), o, metav1.CreateOptions{
			DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
		if accepted := err == nil; accepted != (test.accepted != neither) {
			t.Errorf("%s %s: the API server says %v", test.kind, test.spec, err)
		}
		if accepted := refused == nil; accepted != (test.accepted == both) {
			t.Errorf("%s %s: model says %v", test.kind, test.spec, refused)
		}
		if err != nil || refused != nil {
			continue
		}
		if read, refused := decode(t, stored); refused != nil || !read.Same(written) {
			t.Errorf("%s %s is stored as %v (%v), meant is %v", test.kind, test.spec, read, refused, written)
		}
	}
}

func decode(t *testing.T, o *unstructured.Unstructured) (*model.Object, *model.Error) {
	t.Helper()
	text, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	return model.FromJSON(model.Place{}, text)
}

// integers makes the numbers of decoded YAML what unstructured objects have.
func integers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		return int64(v)
	}
	return value
}
