// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

// balanced is a service that load balancers ask for, with the addresses for endpoints on the node.
func balanced(addresses string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}], externalTrafficPolicy: Local,
  healthCheckNodePort: 32000}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.9.0.1], nodeName: lab}, {addresses: [%s], nodeName: elsewhere}]`, addresses)
}

// TestHealthChecks: what load balancers ask is told once the dataplane has it in force, and only when it changed; what
// is refused elsewhere is in the status.
func TestHealthChecks(t *testing.T) {
	var mu sync.Mutex
	var told [][]compile.HealthCheck
	var s memory.Source
	c := startWith(t, socketPath(t), Config{Source: &s,
		HealthChecks: func(checks []compile.HealthCheck) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, checks)
		},
		Refused: func() []*model.Error {
			return []*model.Error{model.NewError(model.Place{}, key("a"), "spec", "is taken")}
		}})
	times := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(told) == n
		}
	}
	s.Replace(objects(t, node("a"), balanced("10.9.0.2")))
	d := c.follow(t, nil)
	first, _ := d.next()
	if !times(0)() || c.Healthy() {
		t.Error("told before it is in force")
	}
	d.ack(first)
	eventually(t, "told", times(1))
	eventually(t, "healthy", c.Healthy)
	s.Replace(objects(t, node("a"), balanced("10.9.0.3"))) // which changes nothing here
	d.take()
	s.Replace(objects(t, node("a")))
	d.take()
	eventually(t, "told again", times(2))
	mu.Lock()
	defer mu.Unlock()
	want := []compile.HealthCheck{{Namespace: "default", Name: "web", Port: 32000, Local: 1}}
	if !slices.Equal(told[0], want) || len(told[1]) != 0 {
		t.Errorf("told %v, want %v and none", told, want)
	}
	if st := c.status(t); len(st.Refused) != 1 || st.Refused[0].Reason != "is taken" {
		t.Errorf("refused %v", st.Refused)
	}
}
