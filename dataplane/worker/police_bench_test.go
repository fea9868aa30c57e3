// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// BenchmarkPolice is BenchmarkPass between two pods, in flows that are tracked, in random order. What policy and
// connection tracking cost is the difference to "without", which is the same between ports that no station has.
func BenchmarkPolice(b *testing.B) {
	b.Run("without", func(b *testing.B) {
		r := newRig(b, nil).know()
		benchmarkFlows(b, r, 0, udp(b, 0, "10.1.0.2", "10.2.0.2", 0, nil), 1000)
	})
	for _, flows := range []int{1000, 30_000, 1_000_000} {
		for _, family := range []string{"IPv4", "IPv6"} {
			b.Run(fmt.Sprintf("%s/flows=%d", family, flows), func(b *testing.B) {
				r := newRig(b, func(s *api.Snapshot) { podNode(s); isolate(s) })
				r.worker.flows = conntrack.New(conntrack.Config{Flows: flows + flows/2, PerPort: 1 << 30, PerSource: 1 << 30})
				r.worker.pipeline.Init(r.worker.flows, nil)
				src, dst := "10.244.1.7", "10.244.1.8"
				if family == "IPv6" {
					src, dst = "fd00:244::7", "fd00:244::8"
				}
				benchmarkFlows(b, r, 1, onTrunk(podA, udp(b, 1, src, dst, 0, nil)), flows)
				if n := r.count(podA, verdict.Routed); n == 0 {
					b.Fatal("nothing was let through")
				}
			})
		}
	}
}

// isolate gives pods 7 and 8 an identity and a policy that lets them speak with each other, and nobody else.
func isolate(s *api.Snapshot) {
	s.Identities = []*api.Identity{{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "default"}}
	for _, a := range []string{"10.244.1.7/32", "10.244.1.8/32", "fd00:244::7/128", "fd00:244::8/128"} {
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{Prefix: prefix(a), Identity: 1})
	}
	s.PeerSets = []*api.PeerSet{{Id: 1, Identities: []uint32{1}}}
	s.Policies = []*api.Policy{{
		Name: "NetworkPolicy default/own", Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{1}, Ingress: true,
		Rules: []*api.PolicyRule{{
			Name: "spec.ingress[0]", Action: api.PolicyRule_ACTION_ALLOW, Peers: []uint32{1}, AnyPort: true,
		}},
	}}
}

// benchmarkFlows sends packets like one, of as many flows, and takes what leaves away.
func benchmarkFlows(b *testing.B, r *rig, device int, like []byte, flows int) {
	const batch, sources = 256, 60_000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	random := rand.New(rand.NewPCG(1, 2))
	l4 := 14 + 20
	if like[12] == 0x86 {
		l4 = 14 + 40
	}
	send := func(flow int) {
		binary.BigEndian.PutUint16(like[l4:], uint16(1024+flow%sources))
		binary.BigEndian.PutUint16(like[l4+2:], uint16(5000+flow/sources))
		r.rings[device].Inject(like)
	}
	pass := func() {
		r.worker.Poll(r.now)
		r.rings[0].Drain(func([]byte, bool) {})
		r.rings[1].Drain(func([]byte, bool) {})
	}
	pass()
	for flow := range flows {
		if send(flow); flow%batch == 0 {
			pass()
		}
	}
	r.now += 1e9 // for the worker to look how many there are
	pass()
	order := make([]int, 1<<16)
	for i := range order {
		order[i] = random.IntN(flows)
	}
	at := 0
	var spent passes
	for b.Loop() {
		for range batch {
			send(order[at%len(order)])
			at++
		}
		begin := cpuTime()
		r.worker.Poll(r.now)
		spent = append(spent, cpuTime()-begin)
		r.rings[0].Drain(func([]byte, bool) {})
		r.rings[1].Drain(func([]byte, bool) {})
	}
	spent.report(b, batch)
}

// BenchmarkFirst is BenchmarkPass for packets that open a flow each, in a table that is full of flows that nobody
// answered or has room for all, between random pods of a node that has 250, in a
// cluster of 10,000 pods of as many identities. Each of the policies has 10 rules, selects 1 in 1,000 of the pods and
// names others.
func BenchmarkFirst(b *testing.B) {
	for _, policies := range []int{0, 10, 1000, 10_000} {
		r := newRig(b, func(s *api.Snapshot) { cluster(s, policies) })
		for name, flows := range map[string]int{"full": 1 << 18, "room": 1 << 22} {
			b.Run(fmt.Sprintf("%s/policies=%d", name, policies), func(b *testing.B) {
				r.worker.flows = conntrack.New(conntrack.Config{Flows: flows, PerPort: 1 << 30, PerSource: 1 << 30})
				r.worker.pipeline.Init(r.worker.flows, nil)
				benchmarkFirst(b, r)
			})
		}
	}
}

const (
	clusterPods = 10_000
	localPods   = 250
)

func clusterAddress(i int) string {
	return fmt.Sprintf("10.%d.%d.%d", 100+i/50_000, i/250%200, 1+i%250)
}

// cluster is a node of a large cluster; the first pods are its own. Every policy lets in whom the benchmark sends.
func cluster(s *api.Snapshot, policies int) {
	const labels, selected = 1000, clusterPods / 1000
	s.Ports, s.Groups, s.Routes = nil, nil, nil
	for i := range localPods {
		id := uint32(i + 1)
		p := podPort(id, fmt.Sprint("pod", i), fmt.Sprint("vd", i), api.Port_ATTACH_TRUNK, clusterAddress(i))
		s.Ports = append(s.Ports, p)
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: id, Hops: []*api.NextHop{{Port: id, Weight: 1}}})
		s.Routes = append(s.Routes, &api.Route{Prefix: p.Station.Addresses[0], Bits: 32, Group: id})
	}
	sortRoutes(s.Routes)
	everybody := &api.PeerSet{Id: labels + 1}
	for label := range labels { // pods i with i%labels == label
		set := &api.PeerSet{Id: uint32(label + 1)}
		for k := range selected {
			set.Identities = append(set.Identities, uint32(label+k*labels+1))
		}
		s.PeerSets = append(s.PeerSets, set)
	}
	for i := range clusterPods {
		s.Identities = append(s.Identities, &api.Identity{Id: uint32(i + 1), Kind: api.Identity_KIND_POD, Namespace: "shop"})
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: prefix(clusterAddress(i) + "/32"), Identity: uint32(i + 1)})
		everybody.Identities = append(everybody.Identities, uint32(i+1))
	}
	s.PeerSets = append(s.PeerSets, everybody)
	for i := range policies {
		p := &api.Policy{Name: fmt.Sprintf("NetworkPolicy shop/p%05d", i), Tier: api.Policy_TIER_NAMESPACE, Ingress: true,
			Subjects: []uint32{uint32(i%labels + 1)}}
		for j := range 9 {
			p.Rules = append(p.Rules, &api.PolicyRule{Name: fmt.Sprintf("spec.ingress[%d]", j),
				Action: api.PolicyRule_ACTION_ALLOW, Peers: []uint32{uint32((i*31+j*7)%labels + 1)},
				Ports: []*api.PortRange{{Protocol: api.Protocol_PROTOCOL_TCP, First: uint32(80 + j), Last: uint32(80 + j)}}})
		}
		p.Rules = append(p.Rules, &api.PolicyRule{Name: "spec.ingress[9]", Action: api.PolicyRule_ACTION_ALLOW,
			Peers: []uint32{labels + 1},
			Ports: []*api.PortRange{{Protocol: api.Protocol_PROTOCOL_UDP, First: 5678, Last: 5678}}})
		s.Policies = append(s.Policies, p)
	}
}

// cpuTime is what the thread has used: a machine that has other things to do does not matter.
func cpuTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// passes is what each pass took.
type passes []time.Duration

// report says what a packet took, and what at most in the quickest tenth of the passes: they had the caches to
// themselves.
func (p passes) report(b *testing.B, batch int) {
	var sum time.Duration
	for _, d := range p {
		sum += d
	}
	slices.Sort(p)
	b.ReportMetric(float64(sum.Nanoseconds())/float64(len(p)*batch), "ns/packet")
	b.ReportMetric(float64(p[len(p)/10].Nanoseconds())/float64(batch), "quick-ns/packet")
	b.ReportMetric(0, "ns/op")
}

func benchmarkFirst(b *testing.B, r *rig) {
	const batch = 256
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	random := rand.New(rand.NewPCG(1, 2))
	packets := make([][]byte, 8191) // prime, so that it takes long until one has the same port again
	for i := range packets {
		from, to := random.IntN(localPods), random.IntN(localPods)
		for to == from {
			to = random.IntN(localPods)
		}
		packets[i] = onTrunk(packet.PortID(from+1), udp(b, 1, clusterAddress(from), clusterAddress(to), 0, nil))
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
	for at < 2<<18 { // until the smaller table is full, and all of its memory was touched
		pass()
	}
	r.now += 1e9
	pass()
	spent = spent[:0]
	for b.Loop() {
		pass()
	}
	spent.report(b, batch)
	if s := r.worker.flows.Stats(); s.Opened < uint64(b.N*batch)*99/100 {
		b.Fatalf("%d flows were opened by %d packets", s.Opened, b.N*batch)
	}
}
