// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// size is how large a cluster is.
type size struct{ pods, nodes, namespaces, routes int }

var large = size{pods: 10_000, nodes: 500, namespaces: 5_000, routes: 20_000}

func (s size) objects() []*model.Object {
	config := model.DefaultNodeConfig()
	config.Ports = []model.Port{{Name: "p", Device: "d", Addresses: []netip.Prefix{
		netip.MustParsePrefix("192.168.0.1/16")}}}
	list := []*model.Object{{Key: model.Key{Kind: "NodeConfig", Name: "node-0"}, Spec: config}}
	for i := range s.nodes {
		list = append(list, &model.Object{Key: model.Key{Kind: "Node", Name: fmt.Sprint("node-", i)},
			Labels: map[string]string{"kubernetes.io/hostname": fmt.Sprint("node-", i)},
			Spec: &model.Node{
				PodCIDRs:  []netip.Prefix{netip.PrefixFrom(at(10, i<<8), 24)},
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 100 + byte(i>>8), byte(i)})},
			}})
	}
	for i := range s.namespaces {
		name := fmt.Sprint("namespace-", i)
		list = append(list, &model.Object{Key: model.Key{Kind: "Namespace", Name: name},
			Labels: map[string]string{model.NamespaceLabel: name, "team": fmt.Sprint(i % 50)}, Spec: &model.Namespace{}})
	}
	for i := range s.pods {
		list = append(list, s.pod(i, "1"))
	}
	for i := range s.routes {
		list = append(list, &model.Object{Key: model.Key{Kind: "Route", Name: fmt.Sprint("route-", i)},
			Spec: &model.Route{Type: "forward", Destination: netip.PrefixFrom(at(20, i<<8), 24),
				NextHops: []model.NextHop{{Via: netip.AddrFrom4([4]byte{192, 168, 1, byte(i%16) + 1}), Weight: 1}}}})
	}
	return list
}

// at is an address within a /8.
func at(first byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)})
}

func (s size) pod(i int, version string) *model.Object {
	return &model.Object{
		Key: model.Key{Kind: "Pod", Namespace: fmt.Sprint("namespace-", i%s.namespaces), Name: fmt.Sprint("pod-", i)},
		Labels: map[string]string{"app": fmt.Sprint("app-", i%200), "pod-template-hash": fmt.Sprint(i % 1000),
			"version": version},
		Spec: &model.Pod{Node: fmt.Sprint("node-", i%s.nodes), Addresses: []netip.Addr{at(10, (i%s.nodes)<<8|i/s.nodes+2)}},
	}
}

// BenchmarkWhole compiles a large cluster from nothing.
func BenchmarkWhole(b *testing.B) {
	objects := large.objects()
	b.ReportAllocs()
	for b.Loop() {
		s, errs, err := compile.Once(objects, compile.Node{Name: "node-0"})
		if err != nil || len(errs) > 0 || len(s.Routes) < large.routes || len(s.IdentityPrefixes) < large.pods {
			b.Fatal(err, errs[:min(3, len(errs))], len(s.GetRoutes()))
		}
	}
}

// BenchmarkPod changes one pod's labels, or takes it away and brings it back, among 1,000 and among 10,000.
func BenchmarkPod(b *testing.B) {
	for _, pods := range []int{1_000, 10_000} {
		s := large
		s.pods = pods
		relabeled := s.pod(7, "2")
		for _, c := range []struct {
			name string
			even func(c *compile.Compiler)
		}{
			{"relabel", func(c *compile.Compiler) { c.Change([]*model.Object{relabeled}, nil) }},
			{"remove", func(c *compile.Compiler) { c.Change(nil, []model.Key{relabeled.Key}) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, pods), func(b *testing.B) { benchmarkPod(b, s, c.even) })
		}
	}
}

func benchmarkPod(b *testing.B, s size, even func(*compile.Compiler)) {
	compiler := compile.New(compile.Node{Name: "node-0"})
	compiler.Replace(s.objects())
	if _, err := compiler.Compile(1); err != nil {
		b.Fatal(err)
	}
	odd := []*model.Object{s.pod(7, "1")}
	b.ReportAllocs()
	for epoch := uint64(2); b.Loop(); epoch++ {
		if epoch%2 == 0 {
			even(compiler)
		} else {
			compiler.Change(odd, nil)
		}
		step, err := compiler.Compile(epoch)
		if err != nil || step.Delta == nil {
			b.Fatal(err, step)
		}
	}
}

// attachments are those of a node.
func attachments(n int) (list []*compile.Attachment) {
	for i := range n {
		list = append(list, &compile.Attachment{
			Port: fmt.Sprintf("namespace-%d/pod-%d", i, i), Device: fmt.Sprint("vd", i),
			MAC: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}, Addresses: []netip.Addr{at(10, i+2), v6(i + 2)},
			PodNamespace: fmt.Sprint("namespace-", i), PodName: fmt.Sprint("pod-", i),
		})
	}
	return list
}

func v6(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 15: byte(i), 14: byte(i >> 8)}) }

// BenchmarkAttach attaches one more interface, or takes it away, among 250 of the node and 10,000 of the cluster.
func BenchmarkAttach(b *testing.B) {
	compiler := compile.New(compile.Node{Name: "node-0"})
	compiler.Replace(large.objects())
	list := attachments(251)
	compiler.Attach(list[:250], nil)
	if _, err := compiler.Compile(1); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for epoch := uint64(2); b.Loop(); epoch++ {
		if epoch%2 == 0 {
			compiler.Attach(list[250:], nil)
		} else {
			compiler.Attach(nil, []string{list[250].Port})
		}
		step, err := compiler.Compile(epoch)
		if err != nil || step.Delta == nil {
			b.Fatal(err, step)
		}
		compiler.Acked(epoch)
	}
}

// BenchmarkMemory says what a compiler holds for a pod, its object and snapshot included.
func BenchmarkMemory(b *testing.B) {
	var held [2]uint64
	few, many := large, large
	few.pods = 1_000
	for i, s := range []size{few, many} {
		before := heap()
		compiler := compile.New(compile.Node{Name: "node-0"})
		compiler.Replace(s.objects())
		step, err := compiler.Compile(1)
		if err != nil {
			b.Fatal(err)
		}
		held[i] = heap() - before
		runtime.KeepAlive(compiler)
		runtime.KeepAlive(step)
	}
	for b.Loop() { // what is measured is not time
	}
	b.ReportMetric(float64(held[1])/1e6, "MB")
	b.ReportMetric(float64(held[1]-held[0])/float64(many.pods-few.pods), "B/pod")
	b.ReportMetric(0, "ns/op")
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
