// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
)

// RuleID numbers a rule, or another cause of a verdict. A policy keeps its numbers for as long as it does not change,
// and no other policy has them in the tables that Update makes of each other.
type RuleID uint32

// Causes of a verdict that are no policy's.
const (
	RuleDefault  RuleID = iota // no rule decided: allowed
	RuleSelf                   // a station may speak with itself
	RuleFailSafe               // the node's fail-safe ports
	RuleNode                   // a NetworkPolicy never parts a node from its pods
	RuleStrange                // an end has an identity that this node was not said to have: denied

	firstRule RuleID = 16 // of policies
)

var causes = [...]string{
	RuleDefault:  "no rule decides: allowed",
	RuleSelf:     "a station may always reach itself",
	RuleFailSafe: "fail-safe port of the node",
	RuleNode:     "NetworkPolicy never parts a node from its own pods",
	RuleStrange:  "the table has no policy of this identity: denied",
}

// Rule numbers of a policy: what its isolation denies, by direction, and then its rules.
const rulesAt = 2

// policy is a policy with its numbers. It does not change.
type policy struct {
	config *api.Policy
	first  RuleID
	named  bool     // an ingress rule names ports, which are the subject's
	rules  [2]rules // by direction
}

func (p *policy) ids() RuleID { return rulesAt + RuleID(len(p.config.GetRules())) }

// isolation is what denies what no rule allows.
func (p *policy) isolation(d direction) RuleID { return p.first + RuleID(d) }

func (p *policy) rule(i int) RuleID { return p.first + rulesAt + RuleID(i) }

func (p *policy) isolates(d direction) bool {
	if d == egress {
		return p.config.GetEgress()
	}
	return p.config.GetIngress()
}

// comparePolicies orders policies as they are judged.
func comparePolicies(a, b *policy) int {
	x, y := a.config, b.config
	order := cmp.Compare(x.GetTier(), y.GetTier())
	if order == 0 && x.GetTier() != api.Policy_TIER_NAMESPACE {
		order = cmp.Compare(x.GetPriority(), y.GetPriority())
	}
	return cmp.Or(order, cmp.Compare(x.GetName(), y.GetName()))
}

func compareNames(p *policy, name string) int { return cmp.Compare(p.config.GetName(), name) }

// Rule says what a number of a verdict of this table stands for: a rule of a policy; a policy alone, whose isolation
// denied; or neither. The text says it in words where there is no rule. Neither is to be changed.
func (t *Table) Rule(id RuleID) (p *api.Policy, rule *api.PolicyRule, text string) {
	if int(id) < len(causes) {
		return nil, nil, causes[id]
	}
	i, found := slices.BinarySearchFunc(t.byRule, id, func(p *policy, id RuleID) int { return cmp.Compare(p.first, id) })
	if !found {
		i--
	}
	if i < 0 || id >= t.byRule[i].first+t.byRule[i].ids() {
		return nil, nil, "a rule that is gone"
	}
	of := t.byRule[i]
	if n := id - of.first; n >= rulesAt {
		return of.config, of.config.Rules[n-rulesAt], ""
	}
	return of.config, nil, "isolates the end, and no rule of a NetworkPolicy allows it"
}
