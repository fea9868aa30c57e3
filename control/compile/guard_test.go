// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

const guarded = `
apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: here}
spec: {podCIDRs: [10.244.1.0/24], serviceCIDRs: [10.96.0.0/12]}
---
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: there}
spec: {podCIDRs: [10.244.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: victim, namespace: zoo}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 443, nodePort: 30443}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}
---
`

// fronts prints where the services of a snapshot take traffic, and who answers.
func fronts(s *api.Snapshot) string {
	var list []string
	for _, one := range s.Services {
		for _, f := range one.Frontends {
			a, _ := netip.AddrFromSlice(f.Address)
			list = append(list, fmt.Sprintf("%s %s:%d", one.Name, a, f.Port))
		}
		for _, b := range one.Backends {
			a, _ := netip.AddrFromSlice(b.Address)
			list = append(list, fmt.Sprintf("%s by %s", one.Name, a))
		}
	}
	return strings.ReplaceAll(strings.Join(list, ", "), "invalid IP", "node")
}

// TestGuard: what a service of one namespace names is not taken from those whose it is.
func TestGuard(t *testing.T) {
	const victim = "zoo/victim 10.96.0.1:443, zoo/victim 198.51.100.1:443, zoo/victim node:30443"
	service := func(rest string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: thief, namespace: ant}\nspec: {clusterIP: 10.96.0.9, " + rest
	}
	const own = "ant/thief 10.96.0.9:443, "
	for _, test := range []struct{ name, object, want, refused string }{
		{"nothing", "", victim, ""},
		{"another's load balancer", service("ports: [{port: 443}], externalIPs: [198.51.100.1]}"), own + victim,
			"spec.externalIPs: 198.51.100.1:443 (TCP) is Service zoo/victim (:18)'s already"},
		{"another's cluster address, at another port", service("ports: [{port: 443}], externalIPs: [10.96.0.1]}"),
			own + victim, "spec.externalIPs: 10.96.0.1 is in a service CIDR"},
		{"a pod of this node", service("ports: [{port: 443}], externalIPs: [10.244.1.7]}"), own + victim,
			"spec.externalIPs: 10.244.1.7 is in a pod CIDR"},
		{"a pod of another", service("type: LoadBalancer, ports: [{port: 443}]}\n" +
			"status: {loadBalancer: {ingress: [{ip: 10.244.2.7}]}}"), own + victim,
			"status.loadBalancer.ingress: 10.244.2.7 is in a pod CIDR"},
		{"the dataplane", service("ports: [{port: 443}], externalIPs: [10.244.1.254]}"), own + victim,
			"spec.externalIPs: 10.244.1.254 is in a pod CIDR"},
		{"a node's SSH", service("ports: [{port: 22}], externalIPs: [192.0.2.2]}"), "ant/thief 10.96.0.9:22, " + victim,
			"spec.externalIPs: TCP 22 of nodes is theirs, by failSafe of the NodeConfig"},
		{"an API server", service("type: NodePort, ports: [{port: 443, nodePort: 6443}]}"), own + victim,
			"spec.ports[0].nodePort: TCP 6443 of nodes is theirs, by failSafe of the NodeConfig"},
		{"a node", service("ports: [{port: 443}], externalIPs: [192.0.2.2]}"), own + "ant/thief 192.0.2.2:443, " + victim,
			""},
		{"a service as a backend", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" +
			"metadata: {name: x, namespace: zoo, labels: {kubernetes.io/service-name: victim}}\naddressType: IPv4\n" +
			"ports: [{port: 443}]\n" +
			"endpoints: [{addresses: [10.244.2.2]}, {addresses: [10.96.0.1]}, {addresses: [10.244.1.254]}]",
			victim + ", zoo/victim by 10.244.2.2",
			"endpoints[1].addresses: 10.96.0.1 is a service's address, or the dataplane's, and cannot be a backend"},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, refused := model.Decode("", []byte(guarded+test.object))
			if len(refused) > 0 {
				t.Fatal(refused)
			}
			later := compile.New(compile.Node{Name: "here"}) // the nodes come when the services are there
			later.Replace(slices.Concat(objects[:1], objects[3:]))
			for epoch, c := range []*compile.Compiler{compile.New(compile.Node{Name: "here"}), later} {
				if c == later {
					if _, err := c.Compile(1); err != nil {
						t.Fatal(err)
					}
				}
				c.Replace(objects)
				step, err := c.Compile(uint64(epoch + 1))
				if err != nil {
					t.Fatal(err)
				}
				if got := fronts(step.Snapshot); got != test.want {
					t.Errorf("has %s\nwant %s", got, test.want)
				}
				said := ""
				for _, e := range c.Errors() {
					said += e.Field + ": " + e.Reason
				}
				if said != test.refused {
					t.Errorf("refused %q, want %q", said, test.refused)
				}
			}
		})
	}
}

// TestGuardHostPort: a pod does not get the node's SSH, until the node does without it.
func TestGuardHostPort(t *testing.T) {
	objects, refused := model.Decode("", []byte(guarded))
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	c := compile.New(compile.Node{Name: "here"})
	c.Replace(objects[:3])
	c.Attach([]*compile.Attachment{{
		Port: "eth0-of-a", Device: "veth-a", PodNamespace: "ant", PodName: "a",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.9")},
		HostPorts: []compile.HostPort{
			{HostPort: 22, ContainerPort: 22, Protocol: api.Protocol_PROTOCOL_TCP},
			{HostPort: 8022, ContainerPort: 22, Protocol: api.Protocol_PROTOCOL_TCP},
		},
	}}, nil)
	step, err := c.Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	const other = "ant/a:hostport-TCP-8022 node:8022, ant/a:hostport-TCP-8022 by 10.244.1.9"
	if got := fronts(step.Snapshot); got != other {
		t.Errorf("has %s, want %s", got, other)
	}
	if errors := c.Errors(); len(errors) != 1 || errors[0].Field != "hostPorts[0]" {
		t.Errorf("errors %v", errors)
	}
	config := *objects[0].Spec.(*model.NodeConfig)
	config.FailSafe = model.FailSafe{}
	c.Change([]*model.Object{{Key: objects[0].Key, Spec: &config}}, nil)
	if step, err = c.Compile(2); err != nil || len(step.Snapshot.Services) != 2 || len(c.Errors()) > 0 {
		t.Errorf("services %s, errors %v", fronts(step.Snapshot), c.Errors())
	}
}
