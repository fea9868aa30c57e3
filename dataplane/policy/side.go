// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"sort"

	"github.com/viaduct-net/viaduct/control/api"
)

// class is the policies that judge an end, compiled. Identities share it.
type class struct {
	enforced [2]side   // by direction
	staged   *[2]side  // with staged policies too; nil: there are none
	policies []*policy // in the order in which they are judged
	key      string    // in Table.classes, a hash of what makes it; empty: it is not there
}

var (
	// unselected is the class of whom no policy selects.
	unselected = &class{}
	// strange is the class of an identity that is said to be of a station here, and of which the table was not told so:
	// what policies select it is not known, so that nothing is allowed.
	strange = &class{enforced: [2]side{{strange: true}, {strange: true}}}
)

func (c *class) side(d direction, staged bool) *side {
	if staged && c.staged != nil {
		return &c.staged[d]
	}
	return &c.enforced[d]
}

// side is the rules of a class for one direction.
//
// A rule's rank is its place in the order of judgement; the ranks of a tier are behind those of the tier before it. For
// each peer set that rules name, the cells say which of them is the first that matches, by tier, protocol and port.
type side struct {
	isolated RuleID // denies what no rule of the Namespace tier allows; 0: the tier denies nothing
	strange  bool
	tiers    uint8  // bits of the tiers that have rules
	filter   filter // of the buckets' sets

	buckets []bucket // by set, ascending; first that of every peer, set 0; last one behind the end
	cells   []cell
	rules   []ranked // by rank
	named   []named  // by name, rank and set
}

// empty says whether the policies say nothing of the direction.
func (s *side) empty() bool { return len(s.rules) == 0 && s.isolated == 0 && !s.strange }

// filter says which sets are surely not among some: most peers have nothing in common with most classes, and that is
// known without a look at the buckets.
type filter [4]uint64

func (f *filter) place(set uint32) (word, bit uint32) {
	h := set * 0x9e3779b1 // 2^32 divided by the golden ratio: neighbours come to lie apart
	return h >> 30, h >> 24 & 63
}

func (f *filter) add(set uint32) {
	word, bit := f.place(set)
	f[word] |= 1 << bit
}

func (f *filter) may(set uint32) bool {
	word, bit := f.place(set)
	return f[word]>>bit&1 != 0
}

// bucket is a set's cells: up to those of the next bucket.
type bucket struct {
	set, cells uint32
}

// cell says the rank of the first rule that matches from here on, up to the next cell.
type cell struct {
	key  uint32 // tier, protocol and port: 8, 8 and 16 bits
	rank uint32 // none: no rule
}

// named is a rule that matches ports by the name that they have at the peer.
type named struct {
	set, rank uint32
	tier      api.Policy_Tier
	protocol  api.Protocol
	name      string
}

// ranked is what a rule says.
type ranked struct {
	id     RuleID
	action api.PolicyRule_Action
}

// none is the rank of no rule: behind all of them.
const none = ^uint32(0)

const numTiers = 3

// ranks is the first rule that matches, of each tier.
type ranks [numTiers]uint32

func (r *ranks) clear() { *r = ranks{none, none, none} }

// match finds the first rules that match.
func (t *Table) match(s *side, q *Query, d direction, peer *end, best *ranks) {
	key := uint32(q.Proto)<<16 | uint32(q.DstPort)
	s.visit(0, key, best)
	if len(s.buckets) == 2 && len(s.named) == 0 { // all rules are for every peer
		return
	}
	t.look(peer, q, d)
	t.common(s, peer, func(i int) { s.visit(i, key, best) })
	if len(s.named) > 0 && d == egress {
		t.matchNamed(s, q, peer, best)
	}
}

// common calls visit with the buckets of the sets that the peer is in, some of them more than once. It goes through
// the shorter of the two lists.
func (t *Table) common(s *side, peer *end, visit func(i int)) {
	n := len(s.buckets) - 2 // without every peer's, and the one behind the end
	size := len(peer.sets) + t.blocks.size(peer.blocks)
	for i := range peer.learned.Len {
		size += len(t.patterns.Sets(peer.learned.Patterns[i]))
	}
	if size > n {
		for i := 1; i <= n; i++ {
			if t.in(peer, s.buckets[i].set) {
				visit(i)
			}
		}
		return
	}
	s.visitAll(peer.sets, visit)
	for node := peer.blocks; node != 0; node = t.blocks.nodes[node].parent {
		for _, set := range t.blocks.nodes[node].in {
			if i := s.find(set); i != 0 && t.blocks.in(peer.blocks, set) {
				visit(i)
			}
		}
	}
	for i := range peer.learned.Len {
		s.visitAll(t.patterns.Sets(peer.learned.Patterns[i]), visit)
	}
}

func (s *side) visitAll(sets []uint32, visit func(i int)) {
	for _, set := range sets {
		if i := s.find(set); i != 0 {
			visit(i)
		}
	}
}

// find returns the bucket of a set, 0 if it has none.
func (s *side) find(set uint32) int {
	if !s.filter.may(set) {
		return 0
	}
	at := 0 // the last bucket that is not behind the set; halving without a branch, which nobody could foresee
	for n := len(s.buckets) - 1; n > 1; {
		half := n / 2
		if s.buckets[at+half].set <= set {
			at += half
		}
		n -= half
	}
	if s.buckets[at].set != set {
		return 0
	}
	return at
}

// visit takes the rules of one bucket into account.
func (s *side) visit(i int, key uint32, best *ranks) {
	cells := s.cells[s.buckets[i].cells:s.buckets[i+1].cells]
	if len(cells) == 0 {
		return
	}
	for tier := range uint32(numTiers) {
		if s.tiers&(1<<tier) == 0 {
			continue
		}
		key := tier<<24 | key
		at := 0 // the last cell that is not behind the key
		for n := len(cells); n > 1; {
			half := n / 2
			if cells[at+half].key <= key {
				at += half
			}
			n -= half
		}
		if c := cells[at]; c.key <= key && c.key>>24 == tier {
			best[tier] = min(best[tier], c.rank)
		}
	}
}

// matchNamed takes the rules into account that name ports. Most peers have no name for the port, and what the others
// have is found by the name.
func (t *Table) matchNamed(s *side, q *Query, peer *end, best *ranks) {
	for _, p := range t.ids.Get(peer.id).GetNamedPorts() {
		if p.GetPort() != uint32(q.DstPort) || p.GetProtocol() != api.Protocol(q.Proto) {
			continue
		}
		name := p.GetName()
		at := sort.Search(len(s.named), func(i int) bool { return s.named[i].name >= name })
		for ; at < len(s.named) && s.named[at].name == name; at++ {
			n := &s.named[at]
			if n.rank < best[n.tier] && (n.protocol == api.Protocol_PROTOCOL_ANY || n.protocol == p.GetProtocol()) &&
				(n.set == 0 || t.in(peer, n.set)) {
				best[n.tier] = n.rank
			}
		}
	}
}

// decide says what the first rules that match come to. The Namespace tier, where a policy isolates, has the last word:
// what no rule of it allows is denied, but for what the node itself sends and gets (networking.k8s.io/v1,
// NetworkPolicySpec.ingress: "or if the traffic source is the pod's local node").
func (s *side) decide(best *ranks, ofNode bool) (allowed bool, rule RuleID) {
	if s.strange {
		return false, RuleStrange
	}
	if r := best[api.Policy_TIER_ADMIN]; r != none && s.rules[r].action != api.PolicyRule_ACTION_PASS {
		return s.rules[r].action == api.PolicyRule_ACTION_ALLOW, s.rules[r].id
	}
	if s.isolated != 0 {
		switch r := best[api.Policy_TIER_NAMESPACE]; {
		case r != none:
			return true, s.rules[r].id
		case ofNode:
			return true, RuleNode
		}
		return false, s.isolated
	}
	if r := best[api.Policy_TIER_BASELINE]; r != none && s.rules[r].action != api.PolicyRule_ACTION_PASS {
		return s.rules[r].action == api.PolicyRule_ACTION_ALLOW, s.rules[r].id
	}
	return true, RuleDefault
}
