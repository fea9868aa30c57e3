// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
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
	var spent time.Duration
	for b.Loop() {
		for range batch {
			send(order[at%len(order)])
			at++
		}
		begin := time.Now()
		r.worker.Poll(r.now)
		spent += time.Since(begin)
		r.rings[0].Drain(func([]byte, bool) {})
		r.rings[1].Drain(func([]byte, bool) {})
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*batch), "ns/packet")
	b.ReportMetric(0, "ns/op")
}
