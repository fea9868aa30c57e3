// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"sort"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// compile makes the class of those whom these policies select, in the order in which they are judged. ports are the
// ports that the class has names for.
func compile(policies []*policy, ports []*api.NamedPort) *class {
	if len(policies) == 0 {
		return unselected
	}
	c := &class{policies: policies}
	all := [2]side{compileSide(policies, ingress, ports), compileSide(policies, egress, ports)}
	enforced := slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return p.config.GetStaged() })
	if len(enforced) == len(policies) {
		c.enforced = all
		return c
	}
	c.staged = &all
	c.enforced = [2]side{compileSide(enforced, ingress, ports), compileSide(enforced, egress, ports)}
	return c
}

// rules are those of a policy for one direction, in few lists: a class may have a hundred thousand, and is compiled
// anew when one of them changes.
type rules struct {
	list  []rule
	sets  []uint32 // peers of all of them, 0 is every peer
	spans []span   // protocols and ports by number of all of them, without ranks
}

// rule is one of them.
type rule struct {
	index       uint32 // in the policy
	sets, spans uint32 // where its own end
	named       bool   // it has ports by name
	action      api.PolicyRule_Action
}

// rulesOf gathers the rules of a direction.
func rulesOf(p *api.Policy, d direction) (of rules) {
	for i, r := range p.GetRules() {
		if r.GetDirection() != d {
			continue
		}
		is := rule{index: uint32(i), action: r.GetAction()}
		if r.GetAnyPeer() {
			of.sets = append(of.sets, 0)
		}
		of.sets = append(of.sets, r.GetPeers()...)
		if r.GetAnyPort() {
			of.spans = append(of.spans, span{last: everyPort})
		}
		for _, ports := range r.GetPorts() {
			if is.named = is.named || ports.GetName() != ""; ports.GetName() == "" {
				of.spans = appendRange(of.spans, ports)
			}
		}
		is.sets, is.spans = uint32(len(of.sets)), uint32(len(of.spans))
		of.list = append(of.list, is)
	}
	return of
}

// compiler makes a side.
type compiler struct {
	side
	ports  []*api.NamedPort
	ranked []rankedRule // by rank
	uses   []uint64     // that a rule names a set: the set, and in the lower half the rule's rank
	spans  []span
	flat   flattener
}

// rankedRule is a rule as its rank leads to it.
type rankedRule struct {
	spans []span
	tier  api.Policy_Tier
	named *api.PolicyRule // nil: it has no ports by name
}

// compileSide makes a side of the policies' rules for a direction.
func compileSide(policies []*policy, d direction, ports []*api.NamedPort) side {
	c := compiler{ports: byName(ports)}
	ruled, used := 0, 0
	for _, p := range policies {
		if c.isolated == 0 && p.isolates(d) {
			c.isolated = p.isolation(d)
		}
		ruled, used = ruled+len(p.rules[d].list), used+len(p.rules[d].sets)
	}
	if ruled == 0 && c.isolated == 0 {
		return side{}
	}
	c.ranked, c.uses, c.rules = make([]rankedRule, 0, ruled), make([]uint64, 0, used), make([]ranked, 0, ruled)
	for _, p := range policies {
		c.add(p, &p.rules[d])
	}
	c.uses = sortBySet(c.uses)
	c.fill(d)
	slices.SortFunc(c.named, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rank, b.rank), cmp.Compare(a.set, b.set))
	})
	return c.side
}

// add gives a policy's rules their ranks.
func (c *compiler) add(p *policy, of *rules) {
	sets, spans := uint32(0), uint32(0)
	for i := range of.list {
		r := &of.list[i]
		rank := uint64(len(c.ranked))
		is := rankedRule{spans: of.spans[spans:r.spans], tier: p.config.GetTier()}
		if r.named {
			is.named = p.config.GetRules()[r.index]
		}
		c.ranked = append(c.ranked, is)
		c.rules = append(c.rules, ranked{p.rule(int(r.index)), r.action})
		for _, set := range of.sets[sets:r.sets] {
			c.uses = append(c.uses, uint64(set)<<32|rank)
		}
		sets, spans = r.sets, r.spans
		c.tiers |= 1 << is.tier
	}
}

// sortBySet puts uses, which are in the order of their ranks, in the order of their sets.
func sortBySet(uses []uint64) []uint64 {
	const few, bits = 1 << 11, 11
	if len(uses) < few {
		slices.Sort(uses)
		return uses
	}
	highest := slices.Max(uses) >> 32
	to := make([]uint64, len(uses))
	for shift := 0; highest>>shift > 0; shift += bits { // by each digit of the set, the lowest first
		var at [1<<bits + 1]int
		for _, u := range uses {
			at[u>>(32+shift)&(1<<bits-1)+1]++
		}
		for i := 1; i < len(at); i++ {
			at[i] += at[i-1]
		}
		for _, u := range uses {
			digit := u >> (32 + shift) & (1<<bits - 1)
			to[at[digit]] = u
			at[digit]++
		}
		uses, to = to, uses
	}
	return uses
}

// fill makes the buckets of the uses, that of every peer first.
func (c *compiler) fill(d direction) {
	c.buckets = append(c.buckets, bucket{0, 0})
	for i := 0; i < len(c.uses); {
		set, tier := uint32(c.uses[i]>>32), c.ranked[uint32(c.uses[i])].tier
		if c.buckets[len(c.buckets)-1].set != set {
			c.buckets = append(c.buckets, bucket{set, uint32(len(c.cells))})
			c.filter.add(set)
		}
		c.spans = c.spans[:0]
		for ; i < len(c.uses) && uint32(c.uses[i]>>32) == set && c.ranked[uint32(c.uses[i])].tier == tier; i++ {
			rank := uint32(c.uses[i])
			for _, s := range c.ranked[rank].spans {
				c.spans = append(c.spans, span{s.first, s.last, rank})
			}
			if c.ranked[rank].named != nil {
				c.matchNamed(set, rank, d)
			}
		}
		c.cells = c.flat.flatten(c.cells, uint32(tier)<<24, c.spans)
	}
	c.buckets = append(c.buckets, bucket{none, uint32(len(c.cells))})
	c.cells, c.buckets = slices.Clip(c.cells), slices.Clip(c.buckets)
}

// matchNamed enters what a rule matches by name: ports of the subject, or of the peer.
func (c *compiler) matchNamed(set, rank uint32, d direction) {
	for _, p := range c.ranked[rank].named.GetPorts() {
		switch {
		case p.GetName() == "":
		case d == egress:
			c.named = append(c.named, named{set, rank, c.ranked[rank].tier, p.GetProtocol(), p.GetName()})
		default:
			c.spans = appendNamed(c.spans, p, c.ports, rank)
		}
	}
}

// everyPort is the last of protocol and port.
const everyPort = 0xffffff

// ported are the protocols that have ports.
var ported = [...]api.Protocol{api.Protocol_PROTOCOL_TCP, api.Protocol_PROTOCOL_UDP, api.Protocol_PROTOCOL_SCTP}

func hasPorts(p api.Protocol) bool { return slices.Contains(ported[:], p) }

// whole says whether a range is that of all ports, and so of protocols without any.
func whole(r *api.PortRange) bool { return r.GetFirst() == 0 && r.GetLast() == 0xffff }

func appendRange(list []span, r *api.PortRange) []span {
	switch p := r.GetProtocol(); {
	case p != api.Protocol_PROTOCOL_ANY:
		return append(list, span{first: uint32(p)<<16 | r.GetFirst(), last: uint32(p)<<16 | r.GetLast()})
	case whole(r):
		return append(list, span{last: everyPort})
	}
	for _, p := range ported {
		list = append(list, span{first: uint32(p)<<16 | r.GetFirst(), last: uint32(p)<<16 | r.GetLast()})
	}
	return list
}

// byName returns ports in the order of their names, in which a snapshot of ours has them.
func byName(ports []*api.NamedPort) []*api.NamedPort {
	compare := func(a, b *api.NamedPort) int { return cmp.Compare(a.GetName(), b.GetName()) }
	if !slices.IsSortedFunc(ports, compare) {
		ports = slices.SortedFunc(slices.Values(ports), compare)
	}
	return ports
}

// appendNamed appends the ports that a name has at the subject, whose ports are in the order of their names.
func appendNamed(list []span, r *api.PortRange, ports []*api.NamedPort, rank uint32) []span {
	at := sort.Search(len(ports), func(i int) bool { return ports[i].GetName() >= r.GetName() })
	for _, p := range ports[at:] {
		if p.GetName() != r.GetName() {
			break
		}
		if r.GetProtocol() == api.Protocol_PROTOCOL_ANY || r.GetProtocol() == p.GetProtocol() {
			at := uint32(p.GetProtocol())<<16 | p.GetPort()
			list = append(list, span{at, at, rank})
		}
	}
	return list
}

// inRange says whether a range by number holds a destination port.
func inRange(r *api.PortRange, proto packet.IPProto, port uint16) bool {
	p := api.Protocol(proto)
	if r.GetProtocol() != api.Protocol_PROTOCOL_ANY && r.GetProtocol() != p {
		return false
	}
	return whole(r) || hasPorts(p) && r.GetFirst() <= uint32(port) && uint32(port) <= r.GetLast()
}
