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

// use is that a rule names a set.
type use struct {
	set, rank uint32
}

// compiler makes a side.
type compiler struct {
	side
	ports  []*api.NamedPort
	config []*api.PolicyRule // by rank
	tier   []api.Policy_Tier // by rank
	uses   []use
	spans  []span
	flat   flattener
}

// compileSide makes a side of the policies' rules for a direction.
func compileSide(policies []*policy, d direction, ports []*api.NamedPort) side {
	c := compiler{ports: byName(ports)}
	for _, p := range policies {
		if c.isolated == 0 && p.isolates(d) {
			c.isolated = p.isolation(d)
		}
		for i, r := range p.config.GetRules() {
			if r.GetDirection() == d {
				c.add(p, i, r)
			}
		}
	}
	if len(c.config) == 0 && c.isolated == 0 {
		return side{}
	}
	slices.SortFunc(c.uses, func(a, b use) int { return cmp.Or(cmp.Compare(a.set, b.set), cmp.Compare(a.rank, b.rank)) })
	c.fill()
	slices.SortFunc(c.named, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rank, b.rank), cmp.Compare(a.set, b.set))
	})
	return c.side
}

// add gives a rule its rank.
func (c *compiler) add(p *policy, i int, r *api.PolicyRule) {
	rank := uint32(len(c.config))
	c.config, c.tier = append(c.config, r), append(c.tier, p.config.GetTier())
	c.rules = append(c.rules, ranked{p.rule(i), r.GetAction()})
	c.tiers |= 1 << p.config.GetTier()
	if r.GetAnyPeer() {
		c.uses = append(c.uses, use{0, rank})
	}
	for _, set := range r.GetPeers() {
		c.uses = append(c.uses, use{set, rank})
	}
}

// fill makes the buckets of the uses, that of every peer first.
func (c *compiler) fill() {
	c.buckets = append(c.buckets, bucket{0, 0})
	for i := 0; i < len(c.uses); {
		set, tier := c.uses[i].set, c.tier[c.uses[i].rank]
		if c.buckets[len(c.buckets)-1].set != set {
			c.buckets = append(c.buckets, bucket{set, uint32(len(c.cells))})
			c.filter.add(set)
		}
		c.spans = c.spans[:0]
		for ; i < len(c.uses) && c.uses[i].set == set && c.tier[c.uses[i].rank] == tier; i++ {
			c.match(c.uses[i])
		}
		c.cells = c.flat.flatten(c.cells, uint32(tier)<<24, c.spans)
	}
	c.buckets = append(c.buckets, bucket{none, uint32(len(c.cells))})
	c.cells, c.buckets = slices.Clip(c.cells), slices.Clip(c.buckets)
}

// match appends the spans of protocols and ports that a rule matches, and what it matches by name.
func (c *compiler) match(u use) {
	r := c.config[u.rank]
	if r.GetAnyPort() {
		c.spans = append(c.spans, span{0, everyPort, u.rank})
	}
	for _, p := range r.GetPorts() {
		switch {
		case p.GetName() == "":
			c.spans = appendRange(c.spans, p, u.rank)
		case r.GetDirection() == egress:
			c.named = append(c.named, named{u.set, u.rank, c.tier[u.rank], p.GetProtocol(), p.GetName()})
		default:
			c.spans = appendNamed(c.spans, p, c.ports, u.rank)
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

func appendRange(list []span, r *api.PortRange, rank uint32) []span {
	switch p := r.GetProtocol(); {
	case p != api.Protocol_PROTOCOL_ANY:
		return append(list, span{uint32(p)<<16 | r.GetFirst(), uint32(p)<<16 | r.GetLast(), rank})
	case whole(r):
		return append(list, span{0, everyPort, rank})
	}
	for _, p := range ported {
		list = append(list, span{uint32(p)<<16 | r.GetFirst(), uint32(p)<<16 | r.GetLast(), rank})
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
