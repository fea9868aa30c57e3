// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

const (
	benchPods  = 10_000
	benchRules = 10
)

func podAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// cluster is pods that each have an identity of their own, are in 5 sets, and are all selected by some of the policies:
// each policy by one set, with 10 rules that name two sets each, one of them of prefixes for every tenth rule.
func cluster(policies, perPod int) *api.Snapshot {
	rng := rand.New(rand.NewPCG(1, 2))
	s := &api.Snapshot{Epoch: 1}
	for i := range benchPods {
		id := uint32(i + 1)
		s.Identities = append(s.Identities, &api.Identity{Id: id, Kind: api.Identity_KIND_POD, Namespace: "default"})
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: wire(netip.PrefixFrom(podAddr(i), 32)), Identity: id,
		})
	}
	groups := max(policies/perPod, 1) // of pods, each with subjects of its own
	for g := range groups {
		set := &api.PeerSet{Id: uint32(len(s.PeerSets) + 1)}
		for i := g; i < benchPods; i += groups {
			set.Identities = append(set.Identities, uint32(i+1))
		}
		s.PeerSets = append(s.PeerSets, set)
	}
	first := len(s.PeerSets) + 1
	peers := max(groups, 100)
	for range peers {
		set := &api.PeerSet{Id: uint32(len(s.PeerSets) + 1)}
		for range 5 * benchPods / peers {
			set.Identities = append(set.Identities, uint32(rng.IntN(benchPods)+1))
		}
		slices.Sort(set.Identities)
		set.Identities = slices.Compact(set.Identities)
		s.PeerSets = append(s.PeerSets, set)
	}
	blocks := len(s.PeerSets) + 1
	for i := range 100 {
		a := netip.AddrFrom4([4]byte{byte(20 + i), byte(i), 0, 0})
		s.PeerSets = append(s.PeerSets, &api.PeerSet{Id: uint32(blocks + i), Blocks: []*api.PrefixSet{
			{Prefix: wire(netip.PrefixFrom(a, 16)), Except: []*api.Prefix{wire(netip.PrefixFrom(a, 24))}},
		}})
	}
	for i := range policies {
		s.Policies = append(s.Policies, benchPolicy(rng, i, uint32(i%groups+1), func() uint32 {
			return uint32(first + rng.IntN(peers))
		}, uint32(blocks)))
	}
	s.Order()
	return s
}

func benchPolicy(rng *rand.Rand, i int, subject uint32, peer func() uint32, blocks uint32) *api.Policy {
	p := &api.Policy{
		Name: fmt.Sprintf("NetworkPolicy default/p%05d", i), Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{subject},
		Ingress: true, Egress: true,
	}
	for r := range benchRules {
		port := uint32(rng.IntN(60000))
		peers := []uint32{peer(), peer()}
		if r%10 == 9 {
			peers[1] = blocks + uint32(rng.IntN(100))
		}
		slices.Sort(peers)
		p.Rules = append(p.Rules, &api.PolicyRule{
			Name: fmt.Sprintf("spec[%d]", r), Direction: api.PolicyRule_Direction(r % 2), Action: api.PolicyRule_ACTION_ALLOW,
			Peers: slices.Compact(peers),
			Ports: []*api.PortRange{{Protocol: api.Protocol_PROTOCOL_TCP, First: port, Last: port + uint32(rng.IntN(3000))},
				{Protocol: api.Protocol_PROTOCOL_UDP, First: 53, Last: 53}},
		})
	}
	return p
}

// stations are the first pods: those of this node.
func stations(n int) (local []identity.ID) {
	for i := range n {
		local = append(local, identity.ID(i+1))
	}
	return local
}

func everybody() []identity.ID { return stations(benchPods) }

// flows are of random stations, half of them to and half from others; between stations both ends are judged. Every
// other one is of a peer and a port that a rule of the station allows, the rest are with random pods.
func flows(s *api.Snapshot, n, local int) []policy.Query {
	rng := rand.New(rand.NewPCG(3, 4))
	bySubject := map[uint32][]*api.Policy{}
	for _, p := range s.Policies {
		for _, id := range s.PeerSets[p.Subjects[0]-1].Identities {
			if int(id) <= local {
				bySubject[id] = append(bySubject[id], p)
			}
		}
	}
	list := make([]policy.Query, n)
	for i := range list {
		here, there, port := rng.IntN(local), rng.IntN(benchPods), rng.IntN(65536)
		if own := bySubject[uint32(here+1)]; i%4 < 2 && len(own) > 0 {
			p := own[rng.IntN(len(own))]
			r := p.Rules[1-i%2] // out of odd ones, into even ones
			if m := s.PeerSets[r.Peers[0]-1].Identities; len(m) > 0 {
				there = int(m[rng.IntN(len(m))]) - 1
			}
			port = int(r.Ports[0].First)
		}
		q := policy.Query{DstPort: uint16(port), Proto: packet.ProtoTCP}
		q.Src, q.Dst = packet.AddrFrom(podAddr(here)), packet.AddrFrom(podAddr(there))
		q.Egress, q.Ingress = true, there < local
		if i%2 == 1 {
			q.Src, q.Dst, q.Egress, q.Ingress = q.Dst, q.Src, q.Ingress, q.Egress
		}
		list[i] = q
	}
	return list
}

// BenchmarkJudge judges first packets of flows between 250 stations of this node, and for comparison 10000 of them, and
// random pods. What it takes must not grow with the policies.
func BenchmarkJudge(b *testing.B) {
	for _, row := range []struct{ policies, perPod, local int }{{0, 1, 250}, {10, 1, 250}, {100, 1, 250}, {1000, 1, 250},
		{10000, 1, 250}, {10000, 10, 250}, {10000, 100, 250}, {10000, 10000, 250},
		{0, 1, 10000}, {10, 1, 10000}, {10000, 1, 10000}, {10000, 10, 10000}} {
		b.Run(fmt.Sprintf("%dpolicies/%dperpod/%dlocal", row.policies, row.perPod, row.local), func(b *testing.B) {
			s := cluster(row.policies, row.perPod)
			t := must(policy.Build(s, must(identity.Build(s)), stations(row.local)))
			list := flows(s, 1<<16, row.local)
			allowed := 0
			began := cpu()
			for i := 0; b.Loop(); i++ {
				if t.Judge(&list[i&(len(list)-1)]).Reason == 0 {
					allowed++
				}
			}
			b.ReportMetric(float64(cpu()-began)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(100*float64(allowed)/float64(b.N), "%allowed")
		})
	}
}

// cpu is the time that the process had on CPUs, in nanoseconds: what is measured where others use them too.
func cpu() int64 {
	var u unix.Rusage
	must(0, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkBuild(b *testing.B) {
	for _, perPod := range []int{1, 10, 10000} {
		b.Run(fmt.Sprintf("10000policies/%dperpod", perPod), func(b *testing.B) {
			s := cluster(10000, perPod)
			ids := must(identity.Build(s))
			before := memory()
			t := must(policy.Build(s, ids, everybody()))
			size := memory() - before
			for b.Loop() {
				t = must(policy.Build(s, ids, everybody()))
			}
			b.ReportMetric(float64(size)/1e6, "MB")
			runtime.KeepAlive(t)
		})
	}
}

// BenchmarkUpdate changes one thing of 10,000 policies.
func BenchmarkUpdate(b *testing.B) {
	for _, perPod := range []int{1, 10, 10000} {
		s := cluster(10000, perPod)
		ids := must(identity.Build(s))
		local := everybody()
		t := must(policy.Build(s, ids, local))
		rng := rand.New(rand.NewPCG(5, 6))
		run := func(name string, d *api.Delta) {
			d.Base, d.Set.Epoch = 1, 2
			next := must(d.Apply(s))
			b.Run(fmt.Sprintf("%s/%dperpod", name, perPod), func(b *testing.B) {
				for b.Loop() {
					must(t.Update(next, d, ids, local))
				}
			})
		}
		p := benchPolicy(rng, 5000, 1, func() uint32 { return uint32(2 + rng.IntN(50)) }, 2)
		run("policy", &api.Delta{Set: &api.Snapshot{Policies: []*api.Policy{p}}})
		add := uint32(slices.IndexFunc(everybody(), func(id identity.ID) bool {
			return !slices.Contains(s.PeerSets[0].Identities, uint32(id))
		}) + 1)
		change := &api.PeerSetChange{Id: 1, Added: []uint32{add}}
		if add == 0 { // it has all of them
			change = &api.PeerSetChange{Id: 1, Removed: []uint32{1}}
		}
		run("member", &api.Delta{Set: &api.Snapshot{}, PeerSetChanges: []*api.PeerSetChange{change}})
		large := &api.PeerSet{Id: 1 << 20}
		for i := range benchPods {
			large.Identities = append(large.Identities, uint32(i+1))
		}
		run("large set", &api.Delta{Set: &api.Snapshot{PeerSets: []*api.PeerSet{large}}})
	}
}
