// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Explanation is a verdict, and how it came to be.
type Explanation struct {
	Verdict  Verdict
	Src, Dst Who
	Steps    []Step // in the order in which they were taken; staged policies among them
}

// Who is an end of a flow. Nothing in it is to be changed.
type Who struct {
	Addr     packet.Addr
	Identity *api.Identity // nil: the world outside
	Local    bool          // the table has its class: it is of a station of this node
	Node     bool          // it is this very node
	Sets     []uint32      // PeerSet.id of all that it is in, as the flow's other end sees it, ascending
	Selected []*api.Policy // by which it is judged, in order, staged ones included
}

// Explain judges as Judge does and says why. Ends that the query asks for, and that are of no station here, are judged
// as on their own node.
func (t *Table) Explain(q *Query) Explanation {
	var src, dst end
	t.findAny(&src, q.Src, q.Egress)
	t.findAny(&dst, q.Dst, q.Ingress)
	x := Explanation{}
	if q.Self || q.Src == q.Dst {
		x.Verdict = t.Judge(q)
		x.Steps = []Step{{Kind: StepSelf, ID: RuleSelf}}
	} else {
		x.Verdict = t.judge(q, &src, &dst)
		x.Steps = t.steps(q, &src, &dst)
	}
	t.look(&src, q, ingress)
	t.look(&dst, q, egress)
	x.Src, x.Dst = t.who(&src, q.FromNode), t.who(&dst, q.ToNode)
	return x
}

// findAny is find for an end that may be anywhere: its class is made where the table has none.
func (t *Table) findAny(e *end, a packet.Addr, asked bool) {
	t.find(e, a)
	if e.class == strange && asked {
		e.class = compile(selectionOf(t.sets.Get, e.sets).policies, t.ids.Get(e.id).GetNamedPorts())
	}
}

func (t *Table) who(e *end, node bool) Who {
	_, local := slices.BinarySearch(t.local, e.id)
	w := Who{Addr: e.addr, Identity: t.ids.Get(e.id), Local: local && e.id != identity.World, Node: node}
	w.Sets = t.allSets(e)
	if e.class != strange {
		for _, p := range e.class.policies {
			w.Selected = append(w.Selected, p.config)
		}
	}
	return w
}

// allSets returns the sets that an end is in, ascending.
func (t *Table) allSets(e *end) []uint32 {
	list := slices.Clone(e.sets)
	for n := e.blocks; n != 0; n = t.blocks.nodes[n].parent {
		for _, set := range t.blocks.nodes[n].in {
			if t.blocks.in(e.blocks, set) {
				list = append(list, set)
			}
		}
	}
	for _, pattern := range e.learned.Patterns[:e.learned.Len] {
		list = append(list, t.patterns.Sets(pattern)...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// steps goes through both directions, up to the one that denies.
func (t *Table) steps(q *Query, src, dst *end) []Step {
	w := walk{t: t, q: q}
	if q.Egress && !w.direction(egress, src, dst) {
		return w.steps
	}
	if q.Ingress {
		w.direction(ingress, dst, src)
	}
	return w.steps
}

// walk is the judgement of one flow, policy by policy.
type walk struct {
	t     *Table
	q     *Query
	steps []Step
}

// direction goes through the tiers for one end, and says whether it may.
func (w *walk) direction(d direction, subject, peer *end) (allowed bool) {
	step := func(s Step) { s.Direction = d; w.steps = append(w.steps, s) }
	if w.t.failsSafe(w.q, d) {
		step(Step{Kind: StepFailSafe, ID: RuleFailSafe})
		return true
	}
	w.t.look(peer, w.q, d)
	policies := subject.class.policies
	for tier := range api.Policy_Tier(numTiers) {
		in := slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return p.config.GetTier() != tier })
		if end, allowed := w.tier(tier, in, d, peer, step); end {
			return allowed
		}
	}
	allowed, rule := w.t.judgeEnd(w.q, d, subject, peer, false)
	step(Step{Kind: StepDefault, ID: rule})
	return allowed
}

// tier asks the policies of one tier, one after the other, as if each were alone. end says that the tier has the last
// word.
func (w *walk) tier(
	tier api.Policy_Tier, policies []*policy, d direction, peer *end, step func(Step),
) (end, allowed bool) {
	let, isolated := RuleID(0), RuleID(0)
	for _, p := range policies {
		s := Step{Kind: StepPolicy, Tier: tier, Policy: p.config, Staged: p.config.GetStaged()}
		s.Rule, s.ID = w.matched(p, d, peer)
		step(s)
		switch {
		case s.Staged:
		case tier == api.Policy_TIER_NAMESPACE:
			if isolated == 0 && p.isolates(d) {
				isolated = p.isolation(d)
			}
			if let == 0 {
				let = s.ID
			}
		case s.Rule.GetAction() == api.PolicyRule_ACTION_PASS:
			return false, false
		case s.Rule != nil:
			return true, s.Rule.GetAction() == api.PolicyRule_ACTION_ALLOW
		}
	}
	switch {
	case isolated == 0 || let != 0:
		return isolated != 0, true
	case ofNode(w.q, d):
		step(Step{Kind: StepNode, Tier: tier, ID: RuleNode})
		return true, true
	}
	by, _, _ := w.t.Rule(isolated)
	step(Step{Kind: StepIsolated, Tier: tier, Policy: by, ID: isolated})
	return true, false
}

// matched returns the first rule of one policy that matches, nil if none does.
func (w *walk) matched(p *policy, d direction, peer *end) (*api.PolicyRule, RuleID) {
	s := compileSide([]*policy{p}, d, subjectPorts(w, d))
	var best ranks
	best.clear()
	if len(s.rules) == 0 {
		return nil, 0
	}
	w.t.match(&s, w.q, d, peer, &best)
	rank := best[p.config.GetTier()]
	if rank == none {
		return nil, 0
	}
	_, rule, _ := w.t.Rule(s.rules[rank].id)
	return rule, s.rules[rank].id
}

// subjectPorts returns the names of the ports of a direction's subject.
func subjectPorts(w *walk, d direction) []*api.NamedPort {
	a := w.q.Dst
	if d == egress {
		a = w.q.Src
	}
	return w.t.ids.Get(w.t.ids.Of(a)).GetNamedPorts()
}
