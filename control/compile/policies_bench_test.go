// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

const manyPolicies = 10_000

// policy is the i-th of a cluster: ten rules, each for two peers and two ports. Most of its selectors are those of
// other policies, and what is of its own namespace, a prefix and the last of its ports is not.
func (s size) policy(i int, port uint16) *model.Object {
	namespace := fmt.Sprint("namespace-", i%s.namespaces)
	is := func(key, value string) model.Selector {
		return model.Selector{{Key: key, Operator: model.In, Values: []string{value}}}
	}
	p := &model.Policy{Tier: model.TierNamespace, Ingress: true, Egress: true,
		Subject: model.Peer{Namespace: namespace, Selector: is("app", fmt.Sprint("app-", i%200))}}
	for rule := range 10 {
		r := model.PolicyRule{Name: fmt.Sprintf("spec.ingress[%d]", rule), Egress: rule >= 5,
			Ports: []model.PortRange{{Protocol: "TCP", First: 80, Last: 80},
				{Protocol: "TCP", First: port + uint16(rule), Last: port + uint16(rule)}}}
		team := is("team", fmt.Sprint((i+rule)%50))
		switch rule % 3 {
		case 0:
			r.Peers = []model.Peer{{Namespace: namespace, Selector: is("app", fmt.Sprint("app-", (i+rule)%200))},
				{Kind: model.Blocks, Blocks: []model.Block{{Prefix: netip.PrefixFrom(at(20, i<<8), 24)}}}}
		case 1:
			r.Peers = []model.Peer{{Namespaces: team}, {Namespace: namespace}}
		case 2:
			r.Peers = []model.Peer{{Namespaces: team, Selector: is("app", fmt.Sprint("app-", (i*7+rule)%200))},
				{Selector: is("pod-template-hash", fmt.Sprint((i+rule)%1000))}}
		}
		p.Rules = append(p.Rules, r)
	}
	key := model.Key{Kind: "NetworkPolicy", Namespace: namespace, Name: fmt.Sprint("policy-", i)}
	return &model.Object{Key: key, Spec: p}
}

func (s size) withPolicies() []*model.Object {
	list := s.objects()
	for i := range manyPolicies {
		list = append(list, s.policy(i, 8000))
	}
	return list
}

// BenchmarkPolicies compiles 10,000 policies of ten rules over 10,000 pods from nothing, and then what changes: one
// policy's selectors, one's ports, one pod's labels, and one namespace's.
func BenchmarkPolicies(b *testing.B) {
	objects := large.withPolicies()
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s, errs, err := compile.Once(objects, compile.Node{Name: "node-0"})
			if err != nil || len(errs) > 0 || len(s.Policies) < manyPolicies {
				b.Fatal(err, errs[:min(3, len(errs))], len(s.GetPolicies()))
			}
			members := 0
			for _, p := range s.PeerSets {
				members += len(p.Identities)
			}
			b.ReportMetric(float64(len(s.PeerSets)), "sets")
			b.ReportMetric(float64(members), "members")
			b.ReportMetric(float64(proto.Size(s))/1e6, "MB-snapshot")
		}
	})
	c := compile.New(compile.Node{Name: "node-0"})
	c.Replace(objects)
	if _, err := c.Compile(1); err != nil {
		b.Fatal(err)
	}
	others := large.policy(77, 8000)
	others.Key = large.policy(7, 8000).Key
	namespace := func(team string) *model.Object {
		return &model.Object{Key: model.Key{Kind: "Namespace", Name: "namespace-7"},
			Labels: map[string]string{model.NamespaceLabel: "namespace-7", "team": team}, Spec: &model.Namespace{}}
	}
	epoch := uint64(2)
	for _, change := range []struct {
		name string
		to   [2]*model.Object
	}{
		{"policy's selectors", [2]*model.Object{others, large.policy(7, 8000)}},
		{"policy's ports", [2]*model.Object{large.policy(7, 9000), large.policy(7, 8000)}},
		{"pod's labels", [2]*model.Object{large.pod(7, "2"), large.pod(7, "1")}},
		{"namespace's labels", [2]*model.Object{namespace("new"), namespace("7")}},
	} {
		b.Run(change.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Change(change.to[i%2:i%2+1], nil)
				step, err := c.Compile(epoch)
				if err != nil || step.Delta == nil && i > 0 {
					b.Fatal(err, step)
				}
				c.Acked(epoch)
				epoch++
			}
		})
	}
}
