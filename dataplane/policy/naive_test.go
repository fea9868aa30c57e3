// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// naive judges by looking through all policies, rules, sets and prefixes of a snapshot, in order.
type naive struct {
	*api.Snapshot
	known map[netip.Addr][]string // names that the source has got an address for
}

func (n naive) identity(a netip.Addr) *api.Identity {
	best, id := -1, uint32(0)
	for _, p := range n.IdentityPrefixes {
		if q := prefixOf(p.Prefix); q.Contains(a) && q.Bits() > best {
			best, id = q.Bits(), p.Identity
		}
	}
	for _, i := range n.Identities {
		if i.Id == id {
			return i
		}
	}
	return nil
}

func prefixOf(p *api.Prefix) netip.Prefix {
	a, _ := netip.AddrFromSlice(p.Address)
	return netip.PrefixFrom(a, int(p.Bits))
}

// in says whether an end is in one of the sets.
func (n naive) in(sets []uint32, a netip.Addr, named bool) bool {
	for _, s := range n.PeerSets {
		if slices.Contains(sets, s.Id) && n.inSet(s, a, named) {
			return true
		}
	}
	return false
}

func (n naive) inSet(s *api.PeerSet, a netip.Addr, named bool) bool {
	if id := n.identity(a); id != nil && slices.Contains(s.Identities, id.Id) {
		return true
	}
	for _, b := range s.Blocks {
		excepted := slices.ContainsFunc(b.Except, func(e *api.Prefix) bool { return prefixOf(e).Contains(a) })
		if prefixOf(b.Prefix).Contains(a) && !excepted {
			return true
		}
	}
	for _, d := range s.Domains {
		fits := func(name string) bool {
			rest, wild := strings.CutPrefix(d, "*")
			return name == d || wild && strings.HasSuffix(name, rest)
		}
		if named && slices.ContainsFunc(n.known[a], fits) {
			return true
		}
	}
	return false
}

func transport(p packet.IPProto) bool { return p == 6 || p == 17 || p == 132 }

// ports says whether a rule matches the flow's protocol and port; to is the flow's destination.
func (n naive) ports(r *api.PolicyRule, q *policy.Query, to netip.Addr) bool {
	if r.AnyPort {
		return true
	}
	for _, p := range r.Ports {
		switch {
		case p.Protocol != 0 && p.Protocol != api.Protocol(q.Proto):
		case p.Name != "":
			for _, np := range n.identity(to).GetNamedPorts() {
				if np.Name == p.Name && np.Protocol == api.Protocol(q.Proto) && np.Port == uint32(q.DstPort) {
					return true
				}
			}
		case p.First == 0 && p.Last == 65535:
			return true
		case transport(q.Proto) && p.First <= uint32(q.DstPort) && uint32(q.DstPort) <= p.Last:
			return true
		}
	}
	return false
}

// said is a verdict by names: of the policy and of the rule, or of what else decided.
type said struct {
	allowed      bool
	policy, rule string
}

func (n naive) judge(q *policy.Query, staged bool) (verdict.Reason, said) {
	src, dst := q.Src.Netip(), q.Dst.Netip()
	let := said{true, "", "default"}
	if src == dst || q.Self {
		return verdict.None, said{true, "", "self"}
	}
	if q.Egress {
		let = n.direction(q, api.PolicyRule_DIRECTION_EGRESS, src, dst, q.FromNode, q.ToNode, staged)
		if !let.allowed {
			return verdict.EgressDenied, let
		}
	}
	if q.Ingress {
		s := n.direction(q, api.PolicyRule_DIRECTION_INGRESS, dst, src, q.ToNode, q.FromNode, staged)
		if !s.allowed {
			return verdict.IngressDenied, s
		}
		if s.rule != "default" {
			let = s
		}
	}
	return verdict.None, let
}

func (n naive) direction(
	q *policy.Query, d api.PolicyRule_Direction, subject, peer netip.Addr, ours, peerIsNode, staged bool,
) said {
	safe := n.GetNode().GetFailSafeIngress()
	if d == api.PolicyRule_DIRECTION_EGRESS {
		safe = n.GetNode().GetFailSafeEgress()
	}
	if ours && len(safe) > 0 && n.ports(&api.PolicyRule{Ports: safe}, q, q.Dst.Netip()) {
		return said{true, "", "fail-safe"}
	}
	policies := slices.Clone(n.Policies)
	slices.SortStableFunc(policies, func(a, b *api.Policy) int {
		if a.Tier != b.Tier || a.Tier == api.Policy_TIER_NAMESPACE {
			return cmp.Compare(a.Tier, b.Tier)
		}
		return cmp.Compare(a.Priority, b.Priority)
	})
	skip, isolated := api.Policy_Tier(-1), ""
	matched := said{}
	for i, p := range policies {
		if p.Tier == api.Policy_TIER_BASELINE && (i == 0 || policies[i-1].Tier != p.Tier) && isolated != "" {
			break
		}
		if p.Tier == skip || p.Staged && !staged || !n.in(p.Subjects, subject, false) {
			continue
		}
		egress := d == api.PolicyRule_DIRECTION_EGRESS
		if isolated == "" && (egress && p.Egress || !egress && p.Ingress) {
			isolated = p.Name
		}
		for _, r := range p.Rules {
			if r.Direction != d || !r.AnyPeer && !n.in(r.Peers, peer, egress) || !n.ports(r, q, q.Dst.Netip()) {
				continue
			}
			s := said{r.Action == api.PolicyRule_ACTION_ALLOW, p.Name, r.Name}
			if r.Action == api.PolicyRule_ACTION_PASS {
				skip = p.Tier
				break
			}
			if p.Tier != api.Policy_TIER_NAMESPACE {
				return s
			}
			if matched.rule == "" {
				matched = s
			}
		}
	}
	switch {
	case matched.rule != "":
		return matched
	case isolated != "" && peerIsNode:
		return said{true, "", "node"}
	case isolated != "":
		return said{false, isolated, "isolated"}
	}
	return said{true, "", "default"}
}

// saidOf puts a verdict of the table into the same words.
func saidOf(t *policy.Table, reason verdict.Reason, id policy.RuleID) said {
	s := said{allowed: reason == verdict.None}
	p, r, _ := t.Rule(id)
	switch {
	case r != nil:
		s.policy, s.rule = p.Name, r.Name
	case p != nil:
		s.policy, s.rule = p.Name, "isolated"
	default:
		s.rule = map[policy.RuleID]string{policy.RuleDefault: "default", policy.RuleSelf: "self",
			policy.RuleFailSafe: "fail-safe", policy.RuleNode: "node"}[id]
	}
	return s
}
