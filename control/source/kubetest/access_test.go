// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/viaduct-net/viaduct/control/source"
)

// TestLeastPrivilege: what deploy allows control is enough, and without it the source says what it may not do.
func TestLeastPrivilege(t *testing.T) {
	c := admin(t)
	c.define()
	path, err := api.kubeconfig(api.address, tokenOfControl)
	if err != nil {
		t.Fatal(err)
	}
	f := followAs(t, path, "node-a")
	f.until("trouble", func() bool { return strings.Contains(f.trouble, "forbidden") })
	if f.whole {
		t.Error("a state without a right to read it")
	}
	for _, o := range read(t, "../../../deploy/base/rbac.yaml") {
		if o.GetKind() == "ClusterRole" {
			c.apply(o)
		}
	}
	c.apply(parseOne(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: kubetest},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: viaduct},
		subjects: [{kind: User, name: viaduct, apiGroup: rbac.authorization.k8s.io}]}`))
	c.apply(nodeConfig(t, "node-a", `{}`))
	f.until("the first state", func() bool { return f.whole && f.trouble == "" && f.has("NodeConfig", "", "node-a") })
	f.publish(1, "node-a", source.Status{Object: f.get("NodeConfig", "", "node-a"), Applied: true})
	c.eventually(nodeConfig(t, "node-a", `{}`), "applied", func(nodes, _ []any) bool { return len(nodes) == 1 })
}

// TestDefinitionsMissing: without a kind of ours there is no first state, as of a node without ports, however much else
// is known; the kind is found when it comes. What is deleted with its definition is deleted.
func TestDefinitionsMissing(t *testing.T) {
	c := admin(t)
	for _, name := range []string{"nodeconfigs", "routes"} {
		t.Run(name, func(t *testing.T) {
			c.define()
			definition := read(t, definitions+"/"+name+".yaml")[0]
			c.remove(definition)
			c.gone(definition)
			f := follow(t, api.address, "node-a")
			f.until("trouble", func() bool {
				return f.trouble == "the API server has no "+name+
					" of viaduct.dev/v1alpha1: apply deploy/crds"
			})
			c.define()
			o := route(t, "definitions-a", `{destination: 10.2.0.0/16, type: blackhole}`)
			if name == "nodeconfigs" {
				o = nodeConfig(t, "definitions-a", `{}`)
			}
			c.apply(o)
			f.until("the first state", f.ready)
			f.until("objects", func() bool { return f.has(o.GetKind(), "", "definitions-a") })
			c.remove(definition)
			f.until("no objects", func() bool { return !f.has(o.GetKind(), "", "definitions-a") })
			c.gone(definition)
			f.until("trouble again", func() bool { return f.trouble != "" })
			if !f.has("Namespace", "", "default") {
				t.Errorf("what is in force is %v", f.objects)
			}
		})
	}
	c.define()
}

// gone waits until a definition is not served.
func (c *cluster) gone(definition *unstructured.Unstructured) {
	c.t.Helper()
	c.wait(definition.GetName()+" gone", func() bool { return !c.served(definition) && !c.exists(definition) })
}
