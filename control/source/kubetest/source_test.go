// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/kubernetes"
)

var (
	_ source.Source    = (*kubernetes.Source)(nil)
	_ source.Publisher = (*kubernetes.Source)(nil)
)

func route(t *testing.T, name, spec string) *unstructured.Unstructured {
	return parseOne(t, "{apiVersion: viaduct.dev/v1alpha1, kind: Route, metadata: {name: "+name+"}, spec: "+spec+"}")
}

func nodeConfig(t *testing.T, name, spec string) *unstructured.Unstructured {
	return parseOne(t, "{apiVersion: viaduct.dev/v1alpha1, kind: NodeConfig, metadata: {name: "+name+"}, spec: "+spec+"}")
}

func TestChanges(t *testing.T) {
	c := admin(t)
	c.define()
	c.apply(route(t, "changes-a", `{destination: 10.2.0.0/16, type: blackhole}`))
	f := follow(t, api.address, "node-a")
	f.until("the first state", f.ready)
	if !f.has("Route", "", "changes-a") || !f.has("Namespace", "", "default") {
		t.Fatalf("the first state is %v", f.objects)
	}

	c.apply(route(t, "changes-b", `{destination: 10.3.0.0/16, type: blackhole}`))
	f.until("an object more", func() bool { return f.has("Route", "", "changes-b") })
	c.apply(route(t, "changes-b", `{destination: 10.3.0.0/16, type: prohibit}`))
	f.until("a change", func() bool { return f.route("changes-b").Type == "prohibit" })

	c.apply(route(t, "changes-b", `{destination: 224.0.0.0/4, type: blackhole}`))
	f.until("a refusal", func() bool { return f.refused("Route", "changes-b") != "" })
	if f.route("changes-b").Type != "prohibit" {
		t.Errorf("the last good form does not stay in force: %v", f.route("changes-b"))
	}
	c.apply(route(t, "changes-b", `{destination: 10.4.0.0/16, type: prohibit}`))
	f.until("the refusal's end", func() bool { return f.refused("Route", "changes-b") == "" })
	if got := f.route("changes-b").Destination.String(); got != "10.4.0.0/16" {
		t.Errorf("destination %s", got)
	}

	c.apply(route(t, "changes-c", `{destination: 224.0.0.0/4, type: blackhole}`))
	f.until("an object that never was good", func() bool { return f.refused("Route", "changes-c") != "" })
	if f.has("Route", "", "changes-c") {
		t.Error("what was refused is in force")
	}
	c.remove(route(t, "changes-c", `{}`))
	c.remove(route(t, "changes-a", `{}`))
	f.until("removals", func() bool { return !f.has("Route", "", "changes-a") && len(f.errs) == 0 })
}

const podText = `
apiVersion: v1
kind: Pod
metadata: {name: pods-a, namespace: default, labels: {app: a}}
spec: {nodeName: node-a, containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]}
status: {podIP: 10.244.0.1, podIPs: [{ip: 10.244.0.1}]}
`

// TestQuiet: what changes nothing that is used is no event; a pod that ends is gone.
func TestQuiet(t *testing.T) {
	c := admin(t)
	c.define()
	node := `{apiVersion: v1, kind: Node, metadata: {name: quiet-a}, spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]},
		status: {addresses: [{type: InternalIP, address: 192.0.2.1}], conditions: [{type: Ready, status: "True",
		lastHeartbeatTime: "2026-01-01T00:00:00Z"}]}}`
	c.apply(parseOne(t, node))
	c.apply(parseOne(t, podText))
	f := follow(t, api.address, "node-a")
	f.until("the first state", f.ready)
	seen := f.seen
	for _, second := range []string{"01", "02", "03", "04"} {
		o := parseOne(t, node)
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		conditions[0].(map[string]any)["lastHeartbeatTime"] = "2026-01-01T00:00:" + second + "Z"
		_ = unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions")
		c.apply(o)
	}
	pod := parseOne(t, podText)
	_ = unstructured.SetNestedField(pod.Object, "Succeeded", "status", "phase")
	c.apply(pod)
	f.until("the pod's end", func() bool { return !f.has("Pod", "default", "pods-a") })
	if f.seen != seen+1 {
		t.Errorf("heartbeats and an end were %d events", f.seen-seen)
	}
}
