// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// manyServices are services of one port each, with ten endpoints.
const manyServices = 10_000

func serviceObject(i int) *model.Object {
	return &model.Object{
		Key: model.Key{Kind: "Service", Namespace: fmt.Sprint("namespace-", i%100), Name: fmt.Sprint("service-", i)},
		Spec: &model.Service{Fronted: true, Addresses: []netip.Addr{at(172, i)}, Ports: []model.ServicePort{
			{Name: "http", Protocol: "TCP", Port: 80, NodePort: uint16(30000 + i%2768), Target: 8080}}},
	}
}

// sliceObject has all endpoints but those that are left out, from the first on.
func sliceObject(i, leftOut int) *model.Object {
	s := &model.EndpointSlice{Service: fmt.Sprint("service-", i),
		Ports: []model.EndpointPort{{Name: "http", Protocol: "TCP", Port: 8080}}}
	for j := leftOut; j < 10; j++ {
		n := i*10 + j
		s.Endpoints = append(s.Endpoints, model.Endpoint{Address: at(11, n), Node: fmt.Sprint("node-", n%500),
			Pod: fmt.Sprint("pod-", n), Ready: true, Serving: true})
	}
	return &model.Object{Key: model.Key{Kind: "EndpointSlice", Namespace: fmt.Sprint("namespace-", i%100),
		Name: fmt.Sprint("service-", i, "-x")}, Spec: s}
}

func serviceObjects() []*model.Object {
	list := size{nodes: 500}.objects()
	for i := range manyServices {
		o := serviceObject(i)
		if i >= 2768 { // there are no more node ports
			o.Spec.(*model.Service).Ports[0].NodePort = 0
		}
		list = append(list, o, sliceObject(i, 0))
	}
	return list
}

// BenchmarkServices compiles many services from nothing.
func BenchmarkServices(b *testing.B) {
	objects := serviceObjects()
	b.ReportAllocs()
	for b.Loop() {
		s, errs, err := compile.Once(objects, compile.Node{Name: "node-0"})
		if err != nil || len(errs) > 0 || len(s.Services) != manyServices || len(s.Services[0].Backends) != 10 {
			b.Fatal(err, errs[:min(3, len(errs))], len(s.GetServices()))
		}
	}
}

// BenchmarkEndpoint has one endpoint of many come and go.
func BenchmarkEndpoint(b *testing.B) {
	compiler := compile.New(compile.Node{Name: "node-0"})
	compiler.Replace(serviceObjects())
	if _, err := compiler.Compile(1); err != nil {
		b.Fatal(err)
	}
	slices := [][]*model.Object{{sliceObject(77, 0)}, {sliceObject(77, 1)}}
	b.ReportAllocs()
	for epoch := uint64(2); b.Loop(); epoch++ {
		compiler.Change(slices[(epoch+1)%2], nil)
		step, err := compiler.Compile(epoch)
		if err != nil || len(step.Delta.GetSet().GetServices()) != 1 {
			b.Fatal(err, step.Delta)
		}
		compiler.Acked(epoch)
	}
}

// BenchmarkServicesMemory says what a compiler holds for a service with ten endpoints, snapshot included, and objects.
func BenchmarkServicesMemory(b *testing.B) {
	before := heap()
	objects := serviceObjects()
	said := heap()
	compiler := compile.New(compile.Node{Name: "node-0"})
	compiler.Replace(objects)
	step, err := compiler.Compile(1)
	if err != nil {
		b.Fatal(err)
	}
	held := heap()
	runtime.KeepAlive(objects)
	runtime.KeepAlive(compiler)
	runtime.KeepAlive(step)
	for b.Loop() { // what is measured is not time
	}
	b.ReportMetric(float64(said-before)/1e6, "MB-objects")
	b.ReportMetric(float64(held-said)/1e6, "MB")
	b.ReportMetric(float64(held-said)/manyServices, "B/service")
	b.ReportMetric(0, "ns/op")
}
