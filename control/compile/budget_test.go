// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// costly is a service with ports, external addresses and endpoints.
func costly(name string, ports, external, endpoints int) []*model.Object {
	spec := &model.Service{Fronted: true, Addresses: []netip.Addr{at(172, len(name))}}
	slice := &model.EndpointSlice{Service: name}
	for i := range ports {
		p := fmt.Sprint("p", i)
		spec.Ports = append(spec.Ports, model.ServicePort{Name: p, Protocol: "TCP", Port: uint16(i + 1)})
		slice.Ports = append(slice.Ports, model.EndpointPort{Name: p, Protocol: "TCP", Port: uint16(i + 1)})
	}
	for i := range external {
		spec.External = append(spec.External, at(198, i))
	}
	for i := range endpoints {
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{Address: at(10, i), Ready: true, Serving: true})
	}
	return []*model.Object{
		{Key: model.Key{Kind: "Service", Namespace: "ant", Name: name}, Spec: spec},
		{Key: model.Key{Kind: "EndpointSlice", Namespace: "ant", Name: name}, Spec: slice},
	}
}

// TestBudgets: what services of one namespace may have is bounded; who goes beyond it is left out and says so.
func TestBudgets(t *testing.T) {
	for _, test := range []struct {
		name    string
		objects [][]*model.Object
		refused string
	}{
		{"within", [][]*model.Object{costly("b", 2, 200, 30_000), costly("c", 1, 1, 60_000)}, ""},
		{"one port", [][]*model.Object{costly("b", 1, 1, 65_536)},
			"Service ant/b: spec: the service is left out: spec.ports[0] has 65536 endpoints, more than 65535"},
		{"endpoints", [][]*model.Object{costly("b", 3, 1, 40_000), costly("c", 1, 1, 20_000), costly("d", 1, 1, 1)},
			"Service ant/c: spec: the service is left out: it has 20000 endpoints, where services of the namespace before it " +
				"have 120000 and all may have 131072"},
		{"external", [][]*model.Object{costly("b", 1, 4096, 1), costly("c", 1, 1, 1)},
			"Service ant/c: spec: the service is left out: it has 1 external addresses, where services of the namespace " +
				"before it have 4096 and all may have 4096"},
		{"frontends", [][]*model.Object{costly("b", 700, 187, 1), costly("c", 1, 1, 1)},
			"Service ant/b: spec: the service is left out: it has 131600 addresses and ports with their source ranges, where " +
				"services of the namespace before it have 0 and all may have 131072"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := compile.New(compile.Node{Name: "here"})
			all, refused := model.Decode("", []byte("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\n"+
				"metadata: {name: here}\nspec: {}"))
			if len(refused) > 0 {
				t.Fatal(refused)
			}
			for _, some := range test.objects {
				all = append(all, some...)
			}
			said := func(epoch uint64) string {
				if _, err := c.Compile(epoch); err != nil {
					t.Fatal(err)
				}
				var list []string
				for _, e := range c.Errors() {
					if strings.Contains(e.Reason, "left out") { // they have the same addresses as well
						list = append(list, e.Error())
					}
				}
				return strings.Join(list, "; ")
			}
			c.Replace(all)
			if got := said(1); got != test.refused {
				t.Errorf("refused %q, want %q", got, test.refused)
			}
			if test.refused == "" {
				return
			}
			for _, o := range test.objects[0] {
				c.Change(nil, []model.Key{o.Key})
			}
			if got := said(2); got != "" {
				t.Errorf("without the first %q is refused", got)
			}
			c.Replace(all)
			if got := said(3); got != test.refused {
				t.Errorf("again refused %q, want %q", got, test.refused)
			}
		})
	}
}

// TestManyPorts: a service with many ports, and slices with many, cost their sum.
func TestManyPorts(t *testing.T) {
	c := compile.New(compile.Node{Name: "here"})
	all, _ := model.Decode("", []byte("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\n"+
		"metadata: {name: here}\nspec: {}"))
	all = append(all, costly("b", 4096, 0, 1)...)
	for i := range 100 {
		o := costly("b", 4096, 0, 1)[1]
		o.Key.Name = fmt.Sprint("x", i)
		o.Spec.(*model.EndpointSlice).Endpoints = nil
		all = append(all, o)
	}
	c.Replace(all)
	began := time.Now()
	step, err := c.Compile(1)
	if err != nil || len(step.Snapshot.Services) != 4096 {
		t.Fatalf("%d services, %v", len(step.Snapshot.GetServices()), err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
