// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// What is made up is taken by control to the last object.
func TestEverythingCompiles(t *testing.T) {
	size := Size{Nodes: 300, Namespaces: 50, Pods: 700, Routes: 600,
		Services: Services{Count: 20, Endpoints: 3}}
	if err := size.Validate(); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var objects []*model.Object
	for o := range size.Objects(Port{Name: "right", Device: "right"}) {
		decoded, refused := model.FromJSON(model.Place{}, o.JSON)
		if refused != nil {
			t.Fatal(refused)
		}
		if decoded.Key.Kind != o.Kind || decoded.Key.Namespace != o.Namespace || decoded.Key.Name != o.Name {
			t.Fatalf("%v under the key %s", decoded.Key, o.Key())
		}
		objects = append(objects, decoded)
		keys[o.Key()] = true
	}
	snapshot, refused, err := compile.Once(objects, compile.Node{Name: Node})
	if err != nil || len(refused) > 0 {
		t.Fatal(err, refused)
	}
	pods := map[uint32]bool{}
	for _, i := range snapshot.Identities {
		pods[i.Id] = i.Kind == api.Identity_KIND_POD
	}
	addresses := 0
	for _, p := range snapshot.IdentityPrefixes {
		if pods[p.Identity] {
			addresses++
		}
	}
	const own = 4 // the node's: its pod CIDR, the first address of that, and a default of each family
	if len(keys) != len(objects) || len(snapshot.Routes) != size.Routes+size.Nodes-1+own || addresses != size.Pods {
		t.Errorf("%d keys of %d objects: %d routes, %d addresses of pods", len(keys), len(objects), len(snapshot.Routes),
			addresses)
	}
	decoded, _ := model.FromJSON(model.Place{}, size.Pod(699, 7).JSON)
	if pod := decoded.Spec.(*model.Pod); pod.Addresses[0] != size.PodAddress(699) || decoded.Labels["revision"] != "7" {
		t.Errorf("%v with %v", pod, decoded.Labels)
	}
}

func TestSizesWithoutRoom(t *testing.T) {
	for _, s := range []Size{
		{}, {Nodes: MaxNodes + 1, Namespaces: 1, Pods: 1}, {Nodes: 1, Pods: 1},
		{Nodes: 1, Namespaces: 1, Pods: MaxPerNode + 1}, {Nodes: 1, Namespaces: 1, Pods: 1, Routes: MaxRoutes + 1},
	} {
		if s.Validate() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
