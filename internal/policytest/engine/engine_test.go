// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"flag"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/internal/policytest/cases"
	"github.com/viaduct-net/viaduct/internal/policytest/engine"
	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// tally counts what was compared.
type tally struct{ clusters, cells, egress, ingress, updates int }

// fataler is *testing.T or *rapid.T.
type fataler interface{ Fatalf(string, ...any) }

// try compares connections of which the node sees an end: with what becomes of the packet goes which end denies it.
func (n *tally) try(t fataler, e *engine.Engine, c *oracle.Cluster, probes []gen.Probe) {
	n.clusters++
	for _, p := range probes {
		from, to := e.At(p.From), e.At(p.To)
		if !from && !to || gen.Nobody(c, p.To) {
			continue
		}
		n.cells++
		v := oracle.Judge(c, p.From, p.To, p.Protocol, p.Port)
		// Each end is judged where it is: the other one's node judges it, if there is one.
		egressDenied := from && !v.Egress.Allowed
		ingressDenied := to && !v.Ingress.Allowed && !egressDenied
		if egressDenied {
			n.egress++
		}
		if ingressDenied {
			n.ingress++
		}
		gotEgress, gotIngress, err := e.Judge(p.From, p.To, p.Protocol, p.Port)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if gotEgress != egressDenied || gotIngress != ingressDenied {
			t.Fatalf("%s: denied by egress: %t, by ingress: %t; by the oracle %t, %t: %s", p, gotEgress, gotIngress,
				egressDenied, ingressDenied, v.Why)
		}
	}
}

func (n *tally) report(t *testing.T) {
	t.Helper()
	t.Logf("%d clusters, %d of them by an update; %d connections, of which %d are denied on egress and %d on ingress",
		n.clusters, n.updates, n.cells, n.egress, n.ingress)
	if n.updates == 0 || n.egress == 0 || n.ingress == 0 {
		t.Error("some of it was not met")
	}
}

// TestCases: what people expect of policies, at the node of either end. From one case to the next goes a change.
func TestCases(t *testing.T) {
	all, err := cases.All()
	if err != nil {
		t.Fatal(err)
	}
	var n tally
	for _, node := range []string{"n1", "n2"} {
		e, err := engine.New(all[len(all)-1].Cluster, node)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			t.Run(node+"/"+c.Name, func(t *testing.T) {
				if err := e.Apply(c.Cluster); err != nil {
					t.Fatal(err)
				}
				probes := gen.Probes(c.Cluster)
				for _, expected := range c.Expect {
					probes = append(probes, expected.Probe)
				}
				n.try(t, e, c.Cluster, probes)
			})
		}
		n.updates += e.Updates
	}
	n.report(t)
}

var options = gen.Options{ClusterPolicies: true, Domains: true, Unknown: true}

// TestRandom: what becomes of packets is what the text of the API says, in random clusters, after each change of an
// object, and where a cluster becomes quite another.
func TestRandom(t *testing.T) {
	if err := flag.Set("rapid.checks", "120"); err != nil {
		t.Fatal(err)
	}
	var n tally
	rapid.Check(t, func(t *rapid.T) {
		c := gen.Cluster(options).Draw(t, "cluster")
		e, err := engine.New(c, gen.Nodes[0])
		if err != nil {
			t.Fatal(err)
		}
		n.try(t, e, c, sampled(t, c))
		for i := range rapid.IntRange(0, 5).Draw(t, "changes") {
			if next := gen.Change(options, c); i == 4 {
				c = gen.Cluster(options).Draw(t, "another")
			} else {
				c = next.Draw(t, "changed")
			}
			if err := e.Apply(c); err != nil {
				t.Fatal(err)
			}
			n.try(t, e, c, sampled(t, c))
		}
		n.updates += e.Updates
	})
	n.report(t)
}

// sample is how many connections there are to each that is tried: more clusters find more than all of one do.
const sample = 5

func sampled(t *rapid.T, c *oracle.Cluster) (list []gen.Probe) {
	first := rapid.IntRange(0, sample-1).Draw(t, "first")
	for i, p := range gen.Probes(c) {
		if i%sample == first {
			list = append(list, p)
		}
	}
	return list
}
