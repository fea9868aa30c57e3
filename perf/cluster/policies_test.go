// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
)

// All objects are good, no two pods share an address, and a policy's revisions differ.
func TestPolicies(t *testing.T) {
	for _, own := range []bool{false, true} {
		p := Policies{Count: 30, Rules: 3, Pods: 600, Own: own, Admitted: []Admitted{{"TCP", 80}, {"UDP", 53}}}
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		keys, kinds := map[string]bool{}, map[string]int{}
		for o := range p.Objects() {
			if _, refused := model.FromJSON(model.Place{}, o.JSON); refused != nil {
				t.Fatal(refused)
			}
			keys[o.Key()] = true
			kinds[o.Kind]++
		}
		addresses := map[netip.Addr]bool{}
		for i := range p.Pods {
			addresses[p.Address(i)] = true
		}
		if len(addresses) != p.Pods || len(keys) != p.Pods+p.Count || kinds["NetworkPolicy"] != p.Count {
			t.Errorf("%d addresses; %d keys of %v", len(addresses), len(keys), kinds)
		}
		if string(p.Policy(3, 1).JSON) == string(p.Policy(3, 2).JSON) || p.RevisionPort(3, 1) == p.RulePort(3, 0) {
			t.Error("a revision is as the one before")
		}
	}
}

func TestPoliciesWithoutRoom(t *testing.T) {
	good := Policies{Count: 1, Rules: 1, Pods: 1, Admitted: []Admitted{{"TCP", 80}}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Policies){
		func(p *Policies) { p.Count = 0 }, func(p *Policies) { p.Count = MaxPolicies + 1 },
		func(p *Policies) { p.Rules = 0 }, func(p *Policies) { p.Pods = 0 }, func(p *Policies) { p.Admitted = nil },
	} {
		p := good
		change(&p)
		if p.Validate() == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}
