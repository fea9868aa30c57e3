// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// cluster policies, with what the cases have in common left out.
func ingress(rule string) string {
	return `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, ` + rule + `}]}`
}

func egress(rule string) string {
	return `{tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, ` + rule + `}]}`
}

func protocol(p string) string { return ingress(`from: [{namespaces: {}}], protocols: [` + p + `]`) }

var policySpecs = []struct {
	kind, spec string
	accepted   int
}{
	{"NetworkPolicy", `{}`, both},
	{"NetworkPolicy", `{podSelector: {}, policyTypes: [Egress], ingress: [{}]}`, both},
	{"NetworkPolicy", `{podSelector: {}, ingress: [], egress: []}`, both},
	{"NetworkPolicy", `{podSelector: {matchLabels: {a: b}}, egress: [{}]}`, both},
	{"NetworkPolicy", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {podSelector: {}},
		{namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b, ""]}]}, podSelector: {}}],
		ports: [{}, {port: 1}, {port: web, protocol: UDP}, {port: 1, endPort: 2, protocol: SCTP}]}]}`, both},
	{"NetworkPolicy", `{policyTypes: [ingress]}`, neither},
	{"NetworkPolicy", `{ingress: [{from: [{}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: 0}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: 65536}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: "8080"}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: a--b}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{endPort: 2}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: web, endPort: 2}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{port: 2, endPort: 1}]}]}`, neither},
	{"NetworkPolicy", `{ingress: [{ports: [{protocol: ICMP}]}]}`, neither},
	{"NetworkPolicy", `{podSelector: {matchExpressions: [{key: a, operator: Is}]}}`, neither},
	{"NetworkPolicy", `{podSelector: {matchExpressions: [{key: a, operator: In}]}}`, neither},
	{"NetworkPolicy", `{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}`, neither},
	{"NetworkPolicy", `{podSelector: {matchLabels: {"a b": c}}}`, neither},

	{"ClusterNetworkPolicy", `{tier: Admin, priority: 0, subject: {namespaces: {}}}`, both},
	{"ClusterNetworkPolicy", `{tier: Baseline, priority: 1000, subject: {pods: {podSelector: {}}}, ingress: []}`, both},
	{"ClusterNetworkPolicy", ingress(`name: x,
		from: [{pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}}]`), both},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {number: 1}}}, {destinationNamedPort: web},
		{udp: {destinationPort: {range: {start: 1, end: 65535}}}}, {sctp: {destinationPort: {number: 65535}}}`), both},
	{"ClusterNetworkPolicy", egress(`to: [{nodes: {}}, {networks: [10.0.0.0/8, "fd00::/8"]},
		{domainNames: [www.example.com, "*.example.com", a_b.example.com.]}]`), both},
	{"ClusterNetworkPolicy", egress(`to: [{networks: [10.0.0.1/8]}]`), both},
	{"ClusterNetworkPolicy", `{priority: 1, subject: {namespaces: {}}}`, neither},
	{"ClusterNetworkPolicy", `{tier: admin, priority: 1, subject: {namespaces: {}}}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, subject: {namespaces: {}}}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: 1001, subject: {namespaces: {}}}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: -1, subject: {namespaces: {}}}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: 1, subject: {}}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: 1}`, neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}`, neither},
	{"ClusterNetworkPolicy", ingress(`from: []`), neither},
	{"ClusterNetworkPolicy", ingress(`from: [{}]`), neither},
	{"ClusterNetworkPolicy", ingress(`from: [` + strings.Repeat(`{namespaces: {}}, `, 26) + `]`), neither},
	{"ClusterNetworkPolicy", ingress(`from: [{networks: [10.0.0.0/8]}]`), neither},
	{"ClusterNetworkPolicy", ingress(`from: [{namespaces: {}}], name: ` + strings.Repeat("x", 101)), neither},
	{"ClusterNetworkPolicy", protocol(``), neither},
	{"ClusterNetworkPolicy", protocol(`{}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {}}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {}}}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {number: 0}}}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {range: {start: 2, end: 2}}}}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}`), neither},
	{"ClusterNetworkPolicy", protocol(`{tcp: {destinationPort: {number: 1}}, destinationNamedPort: a}`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{namespaces: {}, nodes: {}}]`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{networks: []}]`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{networks: [10.0.0.0]}]`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{domainNames: [example]}]`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{domainNames: ["a*.example.com"]}]`), neither},
	{"ClusterNetworkPolicy", egress(`to: [{nodes: {}}], protocols: [{destinationNamedPort: web}]`), neither},
	{"ClusterNetworkPolicy", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [
		{domainNames: [www.example.com]}]}]}`, serverAlone},
}

// upstream is the definition of ClusterNetworkPolicy, of the experimental channel.
func upstream(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "config/crd/experimental",
		"policy.networking.k8s.io_clusternetworkpolicies.yaml")
}

// TestPolicySchema: what the API server refuses of policies, model refuses, and the other way round; and what it
// stores, with its defaults, means what was written.
func TestPolicySchema(t *testing.T) {
	c := admin(t)
	for _, definition := range read(t, upstream(t)) {
		c.apply(definition)
		c.established(definition)
		t.Cleanup(func() {
			c.remove(definition)
			c.gone(definition)
		})
	}
	versions := map[string]string{"NetworkPolicy": "networking.k8s.io/v1",
		"ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2"}
	for _, test := range policySpecs {
		spec := map[string]any{}
		if err := yaml.Unmarshal([]byte(test.spec), &spec); err != nil {
			t.Fatal(test.spec, err)
		}
		metadata := map[string]any{"name": "schema"}
		if test.kind == "NetworkPolicy" {
			metadata["namespace"] = "default"
		}
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": versions[test.kind], "kind": test.kind,
			"metadata": metadata, "spec": integers(spec)}}
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
