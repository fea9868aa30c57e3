// SPDX-License-Identifier: Apache-2.0

// Package policy says which flows may be: by the policies of an epoch, who the ends of a flow are, and where it goes.
// A table is immutable; the next one shares with it what has not changed, so that a change costs what it touches.
//
// An end of a flow is judged by its class: the policies that select its identity, compiled. A class has a side for each
// direction, on which the rules are found by the peer sets that they name, so that a verdict costs what the peer and
// the class have in common, however many policies there are. Only identities of this node's stations have classes.
//
// Files: policy.go and plain.go (what is asked), end.go and members.go (who an end is), side.go (the rules of one
// direction), compile.go and flatten.go (how they are made), blocks.go (prefixes), check.go, build.go, update.go,
// sets.go and classes.go (how a table is made), ruleids.go (rules by number), explain.go and steps.go (a verdict in
// words).
package policy

import (
	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/sparse"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Table is the policies of an epoch, ready to judge by.
type Table struct {
	// Generation is another one after every change by which a flow might be judged otherwise. It is unique in the
	// process, and never 0.
	Generation uint32

	ids      *identity.Set
	members  members
	sets     sparse.Map[*peerSet] // by PeerSet.id
	blocks   blocks
	patterns *names.Patterns   // of those; nil: none
	policies []*policy         // by name
	byRule   []*policy         // by first RuleID
	nextRule RuleID            // that no policy has had yet
	classes  map[string]shared // by the policies that select it
	local    []identity.ID     // that have classes, ascending

	failSafe [2][]*api.PortRange // by direction
}

// direction indexes what is kept for both directions.
type direction = api.PolicyRule_Direction

const (
	ingress = api.PolicyRule_DIRECTION_INGRESS
	egress  = api.PolicyRule_DIRECTION_EGRESS
)

// Query is a flow that is about to be.
type Query struct {
	Src, Dst packet.Addr
	DstPort  uint16 // 0 where the protocol has none
	Proto    packet.IPProto

	Egress  bool // Src is a station of this node: its egress policy is asked
	Ingress bool // Dst is one: its ingress policy is asked

	FromNode bool // Src is this very node
	ToNode   bool // Dst is

	Self bool // both ends are one station; equal addresses are it without saying

	// Where addresses of domain names are looked up: what answers gave the station behind the port, of the source. Nil:
	// no address has a name.
	Names    *names.Store
	Port     packet.PortID
	Now      int64 // nanoseconds, monotonic, as Names learned by
	Existing bool  // the flow is there already: names that have expired still do
}

// Verdict is what policy says of a flow.
type Verdict struct {
	Reason verdict.Reason // None: it may be; else EgressDenied or IngressDenied
	Rule   RuleID         // what denied it; or what let it in, rather than out; RuleDefault: no rule did
	Staged Staged
}

// Staged is what the verdict would be if staged policies were enforced.
type Staged struct {
	Asked  bool // a staged policy selects one of the ends that were judged; without it the rest says nothing
	Denied bool
	Rule   RuleID
}

// Judge says whether a flow may be. It does not allocate.
func (t *Table) Judge(q *Query) Verdict {
	var src, dst end
	if q.Self || q.Src == q.Dst {
		return Verdict{Rule: RuleSelf}
	}
	if q.Egress {
		t.find(&src, q.Src)
	}
	if q.Ingress {
		t.find(&dst, q.Dst)
	}
	return t.judge(q, &src, &dst)
}

// judge judges by the classes of the ends, where they have been found.
func (t *Table) judge(q *Query, src, dst *end) (v Verdict) {
	v.Reason, v.Rule = t.judgeBoth(q, src, dst, false)
	if q.Egress && src.class.staged != nil || q.Ingress && dst.class.staged != nil {
		reason, rule := t.judgeBoth(q, src, dst, true)
		v.Staged = Staged{true, reason != verdict.None, rule}
	}
	return v
}

// judgeBoth asks both directions; staged says whether staged policies are enforced.
func (t *Table) judgeBoth(q *Query, src, dst *end, staged bool) (verdict.Reason, RuleID) {
	let := RuleDefault
	if q.Egress {
		allowed, rule := t.judgeEnd(q, egress, src, dst, staged)
		if !allowed {
			return verdict.EgressDenied, rule
		}
		let = rule
	}
	if q.Ingress {
		allowed, rule := t.judgeEnd(q, ingress, dst, src, staged)
		if !allowed {
			return verdict.IngressDenied, rule
		}
		if rule != RuleDefault {
			let = rule
		}
	}
	return verdict.None, let
}

// judgeEnd asks the policy of one end, the subject.
func (t *Table) judgeEnd(q *Query, d direction, subject, peer *end, staged bool) (allowed bool, rule RuleID) {
	if t.failSafe[d] != nil && t.failsSafe(q, d) {
		return true, RuleFailSafe
	}
	s := subject.class.side(d, staged)
	if s.empty() {
		return true, RuleDefault
	}
	var best ranks
	best.clear()
	if len(s.rules) > 0 {
		t.match(s, q, d, peer, &best)
	}
	return s.decide(&best, ofNode(q, d))
}

// ofNode says whether the peer of a direction's subject is the node itself.
func ofNode(q *Query, d direction) bool {
	if d == egress {
		return q.ToNode
	}
	return q.FromNode
}

// failsSafe says whether policy may not deny the node its end of the flow.
func (t *Table) failsSafe(q *Query, d direction) bool {
	if d == egress && !q.FromNode || d == ingress && !q.ToNode {
		return false
	}
	for _, r := range t.failSafe[d] {
		if inRange(r, q.Proto, q.DstPort) {
			return true
		}
	}
	return false
}

// HasDomains says whether policies speak of domain names.
func (t *Table) HasDomains() bool { return t.patterns != nil }

// WantsDNS says whether answers to stations' DNS queries are to be learned from.
func (t *Table) WantsDNS() bool { return t.HasDomains() }

// Domains returns the domain names that policies speak of, nil if there are none: what names.Store.Learn looks for.
func (t *Table) Domains() *names.Patterns { return t.patterns }
