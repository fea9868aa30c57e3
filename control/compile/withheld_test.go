// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

const withheldNode = "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: here}\nspec: {}\n---\n"

func clusterPolicy(rules string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n" +
		"spec: {tier: Admin, priority: 5, subject: {namespaces: {}}, " + rules + "}"
}

// said prints the policies, services, routes and egress addresses of a snapshot.
func said(s *api.Snapshot) string {
	var b strings.Builder
	for _, p := range s.Policies {
		fmt.Fprintf(&b, "policy %d:", p.Priority)
		if p.Ingress {
			b.WriteString(" isolates ingress")
		}
		if p.Egress {
			b.WriteString(" isolates egress")
		}
		for _, r := range p.Rules {
			fmt.Fprintf(&b, " %v %v %d/%t", r.Direction, r.Action, len(r.Ports), r.AnyPeer)
		}
		b.WriteString("\n")
	}
	for _, one := range s.Services {
		fmt.Fprintf(&b, "service %s\n", one.Name)
	}
	for _, one := range s.Egress {
		fmt.Fprintf(&b, "egress %s\n", one.Namespace)
	}
	return strings.ReplaceAll(strings.ReplaceAll(b.String(), "DIRECTION_", ""), "ACTION_", "")
}

// TestWithhold: what stands in the place of objects that the dataplane refuses, one time and then again.
func TestWithhold(t *testing.T) {
	const freezes = "nothing may"
	for _, test := range []struct {
		name, object string
		key          model.Key
		want         []string
	}{
		{"service", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: web}\n" +
			"spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}",
			model.Key{Kind: "Service", Namespace: "web", Name: "s"}, []string{"", freezes}},
		{"egress", "apiVersion: v1\nkind: Namespace\n" +
			"metadata: {name: web, annotations: {viaduct.dev/egress-addresses: 192.0.2.1}}",
			model.Key{Kind: "Namespace", Name: "web"}, []string{"", freezes}},
		{"namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}",
			model.Key{Kind: "Namespace", Name: "web"}, []string{freezes}},
		{"network policy", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: web}\n" +
			"spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}",
			model.Key{Kind: "NetworkPolicy", Namespace: "web", Name: "p"},
			[]string{"policy 0: isolates egress\n", freezes}},
		{"staged", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: web, " +
			"annotations: {viaduct.dev/staged: \"true\"}}\nspec: {podSelector: {}, ingress: []}",
			model.Key{Kind: "NetworkPolicy", Namespace: "web", Name: "p"}, []string{"", freezes}},
		{"denies", clusterPolicy("ingress: [{action: Accept, from: [{namespaces: {}}]}, " +
			"{action: Deny, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]"),
			model.Key{Kind: "ClusterNetworkPolicy", Name: "p"}, []string{"policy 5: INGRESS DENY 0/true\n", freezes}},
		{"passes", clusterPolicy("egress: [{action: Pass, to: [{namespaces: {}}]}]"),
			model.Key{Kind: "ClusterNetworkPolicy", Name: "p"}, []string{"policy 5: EGRESS DENY 0/true\n", freezes}},
		{"accepts", clusterPolicy("ingress: [{action: Accept, from: [{namespaces: {}}]}]"),
			model.Key{Kind: "ClusterNetworkPolicy", Name: "p"}, []string{"", freezes}},
		{"node", "", model.Key{Kind: "NodeConfig", Name: "here"}, []string{freezes}},
		{"nobody", "", model.Key{Kind: "Service", Name: "x"}, []string{freezes}},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, refused := model.Decode("", []byte(withheldNode+test.object))
			if len(refused) > 0 {
				t.Fatal(refused)
			}
			c := compile.New(compile.Node{Name: "here"})
			c.Replace(objects)
			step, err := c.Compile(1)
			if err != nil {
				t.Fatal(err)
			}
			whole := said(step.Snapshot)
			for i, want := range test.want {
				if !c.Withhold(test.key, "spec.x", "does not fit") {
					if want != freezes {
						t.Errorf("time %d: not withheld", i)
					}
					continue
				}
				c.Replace(objects) // that it is said again changes nothing
				if step, err = c.Compile(uint64(i + 2)); err != nil {
					t.Fatal(err)
				}
				if got := said(step.Snapshot); got != want {
					t.Errorf("time %d: %q, want %q", i, got, want)
				}
				if errors := c.Errors(); len(errors) != 1 || errors[0].Key != test.key || errors[0].Field != "spec.x" {
					t.Errorf("time %d: errors %v", i, errors)
				}
			}
			c.Retry()
			if step, err = c.Compile(9); err != nil {
				t.Fatal(err)
			}
			if got := said(step.Snapshot); got != whole || len(c.Errors()) > 0 {
				t.Errorf("at last %q, want %q; errors %v", got, whole, c.Errors())
			}
		})
	}
}

// TestGoodForm: of a policy that was in force the last form that was stays, however often it changes for the worse.
func TestGoodForm(t *testing.T) {
	policy := func(ports string) []*model.Object {
		objects, refused := model.Decode("", []byte(withheldNode+"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"+
			"metadata: {name: p, namespace: web}\nspec: {podSelector: {}, ingress: [{ports: ["+ports+"]}]}"))
		if len(refused) > 0 {
			t.Fatal(refused)
		}
		return objects
	}
	key := model.Key{Kind: "NetworkPolicy", Namespace: "web", Name: "p"}
	c := compile.New(compile.Node{Name: "here"})
	epoch := uint64(0)
	compiled := func() string {
		epoch++
		step, err := c.Compile(epoch)
		if err != nil {
			t.Fatal(err)
		}
		return said(step.Snapshot)
	}
	const good, worse = "policy 0: isolates ingress INGRESS ALLOW 1/true\n", "policy 0: isolates ingress\n"
	c.Replace(policy("{port: 80}"))
	compiled()
	c.InForce()
	for _, ports := range []string{"{port: 80}, {port: 81}", "{port: 80}, {port: 81}, {port: 82}"} {
		c.Replace(policy(ports))
		compiled()
		if !c.Withhold(key, "", "does not fit") || compiled() != good {
			t.Errorf("with %s the good form does not stay", ports)
		}
		c.InForce()
	}
	if !c.Withhold(key, "", "nor does this") || compiled() != worse {
		t.Error("without its good form it does not isolate")
	}
	c.InForce()
	c.Replace(policy("{port: 80}, {port: 81}"))
	compiled()
	if !c.Withhold(key, "", "does not fit") || compiled() != good {
		t.Error("the good form is forgotten")
	}
	c.Replace(nil)
	if len(c.Errors()) > 0 {
		t.Errorf("what is gone is refused: %v", c.Errors())
	}
}
