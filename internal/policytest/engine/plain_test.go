// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/internal/policytest/engine"
	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// TestPlain: pods of one node are plain where the text of the API lets all TCP between them, both ways, in random
// clusters and after each change of an object. Rules by domain names only ever allow there: none of them counts.
func TestPlain(t *testing.T) {
	plain, not := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		c := gen.Cluster(options).Draw(t, "cluster")
		e, err := engine.New(c, gen.Nodes[0])
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			for pair, want := range plainPairs(e, c) {
				if got := e.Plain(pair[0], pair[1]); got != want {
					t.Fatalf("%s and %s are plain: %t, by the oracle %t", pair[0], pair[1], got, want)
				}
				if want {
					plain++
				} else {
					not++
				}
			}
			c = gen.Change(options, c).Draw(t, "changed")
			if err := e.Apply(c); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("%d pairs are plain, %d are not", plain, not)
	if plain == 0 || not == 0 {
		t.Error("some of it was not met")
	}
}

// plainPairs are the pairs of addresses of pods of the node, and what the oracle says of all connections between them.
func plainPairs(e *engine.Engine, c *oracle.Cluster) map[[2]netip.Addr]bool {
	nameless := *c
	nameless.Domains = nil
	pairs := map[[2]netip.Addr]bool{}
	for _, p := range gen.Probes(&nameless) {
		if p.Protocol != corev1.ProtocolTCP || !e.At(p.From) || !e.At(p.To) || samePod(c, p.From, p.To) {
			continue
		}
		allowed := oracle.Judge(&nameless, p.From, p.To, p.Protocol, p.Port).Allowed
		for _, pair := range [][2]netip.Addr{{p.From, p.To}, {p.To, p.From}} {
			before, there := pairs[pair]
			pairs[pair] = allowed && (before || !there)
		}
	}
	return pairs
}

func samePod(c *oracle.Cluster, a, b netip.Addr) bool {
	for _, pod := range c.Pods {
		has := 0
		for _, own := range pod.Status.PodIPs {
			if own.IP == a.String() || own.IP == b.String() {
				has++
			}
		}
		if has == 2 || has == 1 && a == b {
			return true
		}
	}
	return false
}
