// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// eventually looks at an object until its status is as wanted.
func (c *cluster) eventually(o *unstructured.Unstructured, what string, wanted func(nodes, conditions []any) bool) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := c.get(o)
		nodes, _, _ := unstructured.NestedSlice(got.Object, "status", "nodes")
		conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
		if wanted(nodes, conditions) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: status is %v", what, got.Object["status"])
		}
	}
}

// says compares the fields of a node's entry, or of a condition, as text.
func says(list []any, i int, fields map[string]string) bool {
	if i >= len(list) {
		return false
	}
	for name, want := range fields {
		if got := fmt.Sprint(list[i].(map[string]any)[name]); got != want {
			return false
		}
	}
	return true
}

func empty(nodes, conditions []any) bool { return len(nodes)+len(conditions) == 0 }

func (f *follower) publish(epoch uint64, node string, statuses ...source.Status) {
	f.source.Publish(source.Report{Node: node, Epoch: epoch, Statuses: statuses})
}

func TestStatusOfOneNode(t *testing.T) {
	c := admin(t)
	c.define()
	o := route(t, "status-own", `{node: node-a, destination: 10.2.0.0/16, nextHops: [{via: 10.1.0.2}]}`)
	c.apply(o)
	f := follow(t, api.address, "node-a")
	f.until("the first state", f.ready)
	object := f.get("Route", "", "status-own")

	f.publish(7, "node-a", source.Status{Object: object, Applied: true})
	c.eventually(o, "applied", func(nodes, conditions []any) bool {
		return says(nodes, 0, map[string]string{"name": "node-a", "applied": "True", "epoch": "7",
			"observedGeneration": "1", "reason": "Applied"}) &&
			says(conditions, 0, map[string]string{"type": "Applied", "status": "True", "observedGeneration": "1"})
	})
	version := c.get(o).GetResourceVersion()
	f.publish(8, "node-a", source.Status{Object: object, Applied: true}) // says nothing else

	f.publish(9, "node-a", source.Status{Object: object, Field: "spec.nextHops[0].via", Message: "no port leads to it"})
	c.eventually(o, "refused", func(nodes, conditions []any) bool {
		return says(nodes, 0, map[string]string{"applied": "False", "epoch": "9", "field": "spec.nextHops[0].via",
			"message": "no port leads to it"}) && len(nodes) == 1 &&
			says(conditions, 0, map[string]string{"status": "False", "reason": "Refused",
				"message": "spec.nextHops[0].via: no port leads to it"})
	})
	if c.get(o).GetResourceVersion() == version {
		t.Error("the resource version stays")
	}

	c.apply(route(t, "status-own", `{node: node-a, destination: 224.0.0.0/4, nextHops: [{via: 10.1.0.2}]}`))
	c.eventually(o, "what the source itself refuses", func(nodes, conditions []any) bool {
		return says(nodes, 0, map[string]string{"applied": "False", "field": "spec.destination",
			"observedGeneration": "2"}) && says(conditions, 0, map[string]string{"status": "False"})
	})

	c.apply(route(t, "status-own", `{node: node-b, destination: 10.2.0.0/16, nextHops: [{via: 10.1.0.2}]}`))
	c.eventually(o, "another node's", empty)
}

// TestStatusAgain: a source that starts finds what it said earlier, and says it no second time.
func TestStatusAgain(t *testing.T) {
	c := admin(t)
	c.define()
	o := nodeConfig(t, "node-a", `{workers: 1}`)
	marker := nodeConfig(t, "node-b", `{workers: 1}`)
	c.apply(o)
	c.apply(marker)
	applied := func(nodes, _ []any) bool { return says(nodes, 0, map[string]string{"applied": "True"}) }
	var version string
	for range 2 {
		f := follow(t, api.address, "node-a")
		f.until("the first state", f.ready)
		f.publish(1, "node-a", source.Status{Object: f.get("NodeConfig", "", "node-a"), Applied: true})
		c.eventually(o, "applied", applied)
		if version == "" {
			version = c.get(o).GetResourceVersion()
		}
	}
	f := follow(t, api.address, "node-b") // it writes after the others could have
	f.until("the first state", f.ready)
	f.publish(1, "node-b", source.Status{Object: f.get("NodeConfig", "", "node-b"), Applied: true})
	c.eventually(marker, "applied", applied)
	if got := c.get(o).GetResourceVersion(); got != version {
		t.Errorf("written again: version %s, then %s", version, got)
	}
}

// TestStatusOfManyNodes: of an object for all, nodes say that they refuse it, and take it back.
func TestStatusOfManyNodes(t *testing.T) {
	c := admin(t)
	c.define()
	o := route(t, "status-all", `{destination: 10.2.0.0/16, nextHops: [{via: 10.1.0.2}]}`)
	c.apply(o)
	a, b := follow(t, api.address, "node-a"), follow(t, api.address, "node-b")
	for _, f := range []*follower{a, b} {
		f.until("the first state", f.ready)
	}
	refused := source.Status{Object: a.get("Route", "", "status-all"), Message: "no port leads to it"}
	a.publish(1, "node-a", refused)
	b.publish(1, "node-b", refused)
	c.eventually(o, "refused by two", func(nodes, conditions []any) bool { return len(nodes) == 2 && len(conditions) == 0 })
	a.publish(2, "node-a", source.Status{Object: refused.Object, Applied: true})
	c.eventually(o, "refused by one", func(nodes, conditions []any) bool {
		return len(nodes) == 1 && says(nodes, 0, map[string]string{"name": "node-b"})
	})
	b.publish(2, "node-b", source.Status{Object: refused.Object, Applied: true})
	c.eventually(o, "refused by none", empty)
}

// TestStatusOfTheGone: an object that went away meanwhile holds up no other.
func TestStatusOfTheGone(t *testing.T) {
	c := admin(t)
	c.define()
	o := route(t, "status-there", `{node: node-a, destination: 10.2.0.0/16, type: blackhole}`)
	c.apply(o)
	f := follow(t, api.address, "node-a")
	f.until("the first state", f.ready)
	gone := &model.Object{Key: model.Key{Kind: "Route", Name: "status-gone"}, Spec: &model.Route{Node: "node-a"}}
	f.publish(1, "node-a", source.Status{Object: gone, Applied: true},
		source.Status{Object: f.get("Route", "", "status-there"), Applied: true})
	c.eventually(o, "applied", func(nodes, _ []any) bool { return len(nodes) == 1 })
}

// TestStatusOfDefault: the NodeConfig for all says who refuses it, and nobody's word is a condition of it.
func TestStatusOfDefault(t *testing.T) {
	c := admin(t)
	c.define()
	o := nodeConfig(t, "default", `{workers: 1}`)
	c.apply(o)
	a, b := follow(t, api.address, "node-a"), follow(t, api.address, "node-b")
	for _, f := range []*follower{a, b} {
		f.until("the first state", f.ready)
	}
	object := a.get("NodeConfig", "", "default")
	b.publish(1, "node-b", source.Status{Object: object, Applied: true})
	a.publish(1, "node-a", source.Status{Object: object, Message: "no"})
	c.eventually(o, "refused by one", func(nodes, conditions []any) bool {
		return len(nodes) == 1 && len(conditions) == 0 && says(nodes, 0, map[string]string{"name": "node-a"})
	})
	version := c.get(o).GetResourceVersion()

	marker := nodeConfig(t, "node-a", `{}`) // what is written later than anything about the other
	c.apply(marker)
	a.until("the marker", func() bool { return a.has("NodeConfig", "", "node-a") })
	a.publish(2, "node-a", source.Status{Object: a.get("NodeConfig", "", "node-a"), Applied: true})
	c.eventually(marker, "applied", func(nodes, _ []any) bool { return len(nodes) == 1 })
	if got := c.get(o).GetResourceVersion(); got != version {
		t.Errorf("written again: version %s, then %s", version, got)
	}
	a.publish(3, "node-a", source.Status{Object: object, Gone: true}) // it has one of its own
	c.eventually(o, "refused by none", empty)
}

// TestStatusOfReplaced: an object that is deleted and made again at once is another, and gets its status.
func TestStatusOfReplaced(t *testing.T) {
	c := admin(t)
	c.define()
	kubeconfig, err := api.kubeconfig(api.address, token)
	if err != nil {
		t.Fatal(err)
	}
	o := nodeConfig(t, "node-a", `{workers: 1}`)
	c.apply(o)
	d := run(t, "kubernetes:"+kubeconfig)
	d.until("the first state", func(*controlapi.Snapshot) bool { return true })
	for range 10 {
		c.eventually(o, "applied", func(_, conditions []any) bool {
			return says(conditions, 0, map[string]string{"type": "Applied", "status": "True", "observedGeneration": "1"})
		})
		c.remove(o)
		c.apply(o)
	}
	c.eventually(o, "applied", func(_, conditions []any) bool { return len(conditions) == 1 })
}

// TestStatusCorrected: what nobody could read, and is put right, is not refused any more, though it concerns no node.
func TestStatusCorrected(t *testing.T) {
	c := admin(t)
	c.define()
	const spec = `{nodeSelector: {zone: elsewhere}, type: blackhole, destination: `
	o := route(t, "status-corrected", spec+`224.0.0.0/4}`)
	c.apply(o)
	f := follow(t, api.address, "node-a")
	f.until("the first state", f.ready)
	c.eventually(o, "refused", func(nodes, _ []any) bool { return len(nodes) == 1 })
	c.apply(route(t, "status-corrected", spec+`10.0.0.0/8}`))
	c.eventually(o, "not refused", empty)
}
