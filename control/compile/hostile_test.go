// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// TestPairs: a policy that names many namespaces and many values of a label costs their sum, and selects what it says.
func TestPairs(t *testing.T) {
	const each = 10_000
	var namespaces, values []string
	for i := range each {
		namespaces = append(namespaces, fmt.Sprintf("n%d", i))
		values = append(values, fmt.Sprintf("v%d", i))
	}
	policy := fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: n1}
spec:
  podSelector: {}
  ingress:
  - from:
    - namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [%s]}]}
      podSelector: {matchExpressions: [{key: app, operator: In, values: [%s]}]}
`, strings.Join(namespaces, ","), strings.Join(values, ","))
	pod := func(namespace, name, app string, host int) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: %s, name: %s, labels: {app: %s}}\n"+
			"status: {podIP: 10.0.0.%d}\n", namespace, name, app, host)
	}
	objects, refused := model.Decode("", []byte("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\n"+
		"metadata: {name: here}\nspec: {}\n---"+policy+pod("n1", "a", "v1", 1)+pod("n2", "b", "v9999", 2)+
		pod("other", "c", "v1", 3)+pod("n1", "d", "other", 4)))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	c := compile.New(compile.Node{Name: "here"})
	c.Replace(objects[:3]) // the others come when the set is there already
	began := time.Now()
	if _, err := c.Compile(1); err != nil {
		t.Fatal(err)
	}
	c.Change(objects[3:], nil)
	step, err := c.Compile(2)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	for _, set := range step.Snapshot.PeerSets {
		if set.Id == step.Snapshot.Policies[0].Rules[0].Peers[0] && len(set.Identities) != 2 {
			t.Errorf("peers are %v, want those of a and b", set.Identities)
		}
	}
}

// TestSetsOfOld: who comes later is in no set of a policy that is gone.
func TestSetsOfOld(t *testing.T) {
	objects, refused := model.Decode("", []byte(`
apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: here}
spec: {}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.1}
`))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	c := compile.New(compile.Node{Name: "here"})
	compiled := func(epoch uint64) *compile.Step {
		step, err := c.Compile(epoch)
		if err != nil {
			t.Fatal(err)
		}
		c.Acked(epoch)
		return step
	}
	c.Replace(objects[:2])
	if n := len(compiled(1).Snapshot.PeerSets); n != 2 {
		t.Fatalf("%d sets, want 2", n)
	}
	c.Change(nil, []model.Key{objects[1].Key})
	if n := len(compiled(2).Snapshot.PeerSets); n != 0 {
		t.Fatalf("%d sets, want none", n)
	}
	c.Change(objects[2:], nil)
	if step := compiled(3); len(step.Delta.PeerSetChanges) != 0 || len(step.Delta.Set.Identities) != 1 {
		t.Errorf("got %v", step.Delta)
	}
}
