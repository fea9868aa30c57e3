// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

const serviceBackends = 10

func serviceAddress(i int) string { return fmt.Sprintf("10.96.%d.%d", i/250, 1+i%250) }

// withServices gives a cluster so many services, each with backends among the node's own pods.
func withServices(s *api.Snapshot, services int) {
	for i := range services {
		one := &api.Service{Id: uint32(i + 1), Name: fmt.Sprintf("shop/s%05d", i), Protocol: api.Protocol_PROTOCOL_UDP,
			Algorithm: api.Service_ALGORITHM_RANDOM,
			Frontends: []*api.Frontend{{Kind: api.Frontend_KIND_CLUSTER_IP, Address: ip(serviceAddress(i)), Port: 80}}}
		for j := range serviceBackends {
			one.Backends = append(one.Backends, &api.Backend{Address: ip(clusterAddress((i*7 + j) % localPods)), Port: 5678,
				Weight: 1, Cluster: true, Local: true})
		}
		slices.SortFunc(one.Backends, func(a, b *api.Backend) int { return slices.Compare(a.Address, b.Address) })
		s.Services = append(s.Services, one)
	}
}

func newFlows(r *rig, flows int) {
	left := func(backend uint32, answered bool) { r.tables.Load().Backends.Left(backend, answered) }
	r.worker.flows = conntrack.New(conntrack.Config{Flows: flows, PerPort: 1 << 30, PerSource: 1 << 30, Left: left})
	r.worker.pipeline.Init(r.worker.flows, nil)
}

// BenchmarkService is BenchmarkPolice for flows to a service's backend: what the opener sends, whose addresses are
// found by the alias and rewritten. What translation costs is the difference to "pod", the same flows to the pod
// itself.
func BenchmarkService(b *testing.B) {
	for _, flows := range []int{1000, 30_000} {
		for name, to := range map[string]string{"pod": clusterAddress(1), "service": serviceAddress(0)} {
			b.Run(fmt.Sprintf("%s/flows=%d", name, flows), func(b *testing.B) {
				r := newRig(b, func(s *api.Snapshot) {
					cluster(s, 0)
					withServices(s, 1)
					s.Services[0].Backends = s.Services[0].Backends[1:2]
					s.Services[0].Frontends[0].Port = 5000
				})
				newFlows(r, flows+flows/2)
				benchmarkFlows(b, r, 1, onTrunk(1, udp(b, 1, clusterAddress(0), to, 0, nil)), flows)
				if n := r.count(1, verdict.Routed); n == 0 {
					b.Fatal("nothing was let through")
				}
			})
		}
	}
}

// BenchmarkFirstToService is BenchmarkFirst for packets to random services.
func BenchmarkFirstToService(b *testing.B) {
	for _, services := range []int{10, 1000, 10_000} {
		r := newRig(b, func(s *api.Snapshot) { cluster(s, 0); withServices(s, services) })
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			newFlows(r, 1<<22)
			benchmarkFirstToService(b, r, services)
		})
	}
}

func benchmarkFirstToService(b *testing.B, r *rig, services int) {
	const batch = 256
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	random := rand.New(rand.NewPCG(1, 2))
	packets := make([][]byte, 16381) // prime, so that it takes long until one has the same port again
	for i := range packets {
		from, to := random.IntN(localPods), random.IntN(services)
		data := udp(b, 1, clusterAddress(from), serviceAddress(to), 0, nil)
		binary.BigEndian.PutUint16(data[36:], 80)
		packets[i] = onTrunk(packet.PortID(from+1), data)
	}
	at := 0
	var spent passes
	pass := func() {
		for range batch {
			data := packets[at%len(packets)]
			binary.BigEndian.PutUint16(data[34:], uint16(at))
			r.rings[1].Inject(data)
			at++
		}
		begin := cpuTime()
		r.worker.Poll(r.now)
		spent = append(spent, cpuTime()-begin)
		r.rings[1].Drain(func([]byte, bool) {})
	}
	for at < 2<<18 {
		pass()
	}
	r.now += 1e9
	pass()
	spent = spent[:0]
	opened := r.worker.flows.Stats().Opened
	for b.Loop() {
		pass()
	}
	spent.report(b, batch)
	if n := r.worker.flows.Stats().Opened - opened; n < uint64(b.N*batch)*9/10 {
		b.Fatalf("%d flows were opened by %d packets", n, b.N*batch)
	}
}
