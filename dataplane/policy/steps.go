// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"

	"github.com/viaduct-net/viaduct/control/api"
)

// Step is one thing that was looked at on the way to a verdict.
type Step struct {
	Kind      StepKind
	Direction api.PolicyRule_Direction // not of StepSelf
	Tier      api.Policy_Tier          // of StepPolicy, StepIsolated and StepNode
	Policy    *api.Policy              // of StepPolicy: it selects the end; of StepIsolated: that isolates it
	Rule      *api.PolicyRule          // of StepPolicy: the first of its rules that matches; nil: none does
	ID        RuleID                   // of the rule, or of what decided in its place; 0: nothing
	Staged    bool                     // the policy is not enforced: the step decides nothing
}

// StepKind is what a step is about.
type StepKind uint8

const (
	// StepPolicy asks a policy.
	StepPolicy StepKind = iota
	// StepSelf finds that both ends are one station.
	StepSelf
	// StepFailSafe finds that the port is one that the node is never denied.
	StepFailSafe
	// StepNode finds that the peer is the node itself, which the Namespace tier lets through.
	StepNode
	// StepIsolated finds that a policy isolates the end and that no rule of its tier matched: denied.
	StepIsolated
	// StepDefault finds that no tier decided.
	StepDefault
)

var (
	directions = [...]string{ingress: "ingress", egress: "egress"}
	tiers      = [...]string{"Admin", "Namespace", "Baseline"}
	actions    = [...]string{"none", "allow", "deny", "pass"}
)

// String says the step in one line.
func (s Step) String() string {
	switch s.Kind {
	case StepSelf:
		return causes[RuleSelf]
	case StepFailSafe, StepDefault:
		return fmt.Sprintf("%s: %s", directions[s.Direction], causes[s.ID])
	case StepNode:
		return fmt.Sprintf("%s: %s: %s", directions[s.Direction], tiers[s.Tier], causes[s.ID])
	case StepIsolated:
		return fmt.Sprintf("%s: %s: %s isolates the end, and no rule allows: deny",
			directions[s.Direction], tiers[s.Tier], s.Policy.GetName())
	}
	said := "no rule matches"
	if s.Rule != nil {
		said = fmt.Sprintf("%s matches: %s", s.Rule.GetName(), actions[s.Rule.GetAction()])
	}
	staged := ""
	if s.Staged {
		staged = " (staged)"
	}
	return fmt.Sprintf("%s: %s: %s%s: %s", directions[s.Direction], tiers[s.Tier], s.Policy.GetName(), staged, said)
}
