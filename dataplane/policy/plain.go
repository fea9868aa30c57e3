// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"sort"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// The ports of TCP as cells have them.
const (
	firstTCP = uint32(packet.ProtoTCP) << 16
	lastTCP  = firstTCP | 0xffff
)

// mostRanges bounds what is looked at to find ends plain: ranges of ports of which each might be judged otherwise.
const mostRanges = 64

// Plain says whether all TCP between two stations of this node may be, whatever its ports are and whoever opens it, for
// as long as this table is in force. So it need not be asked about each connection. Of the query the ends count, and
// what they are. It is false, too,
//   - where one of the ends is the node, or is not judged here, or both are one station,
//   - where a staged policy selects one, which is to say of each connection what it would do,
//   - where a rule by domain names that one of them has to obey does not just allow: names come and go,
//   - where rules speak of more ranges of ports than are worth a look.
//
// It does not allocate.
func (t *Table) Plain(q *Query) bool {
	if !q.Egress || !q.Ingress || q.FromNode || q.ToNode || q.Self || q.Src == q.Dst {
		return false
	}
	var a, b end
	t.find(&a, q.Src)
	t.find(&b, q.Dst)
	if a.class.staged != nil || b.class.staged != nil {
		return false
	}
	a.blocks, b.blocks = t.blocks.find(a.addr), t.blocks.find(b.addr)
	return t.plainEnd(egress, &a, &b) && t.plainEnd(ingress, &b, &a) &&
		t.plainEnd(egress, &b, &a) && t.plainEnd(ingress, &a, &b)
}

// plainEnd says whether the policy of one end lets all TCP with the other one in a direction: at the first port, and at
// each from which on other rules match.
func (t *Table) plainEnd(d direction, subject, peer *end) bool {
	s := &subject.class.enforced[d]
	if len(s.rules) == 0 {
		return s.empty()
	}
	if d == egress && t.denyByName(s) {
		return false
	}
	q := Query{Proto: packet.ProtoTCP}
	for key, n := firstTCP, 0; n < mostRanges; n++ {
		q.DstPort = uint16(key)
		var best ranks
		best.clear()
		next := none
		visit := func(i int) {
			s.visit(i, key, &best)
			s.change(i, key, &next)
		}
		visit(0)
		t.common(s, peer, visit)
		if d == egress && len(s.named) > 0 {
			t.matchNamed(s, &q, peer, &best)
			t.changeNamed(&q, peer, &next)
		}
		if allowed, _ := s.decide(&best, false); !allowed {
			return false
		}
		if key = next; key > lastTCP {
			return true
		}
	}
	return false
}

// change lowers next to the first key behind one from which on other rules of a bucket match, of any tier.
func (s *side) change(i int, key uint32, next *uint32) {
	cells := s.cells[s.buckets[i].cells:s.buckets[i+1].cells]
	for tier := range uint32(numTiers) {
		at := sort.Search(len(cells), func(i int) bool { return cells[i].key > tier<<24|key })
		if at < len(cells) && cells[at].key>>24 == tier {
			*next = min(*next, cells[at].key&everyPort)
		}
	}
}

// changeNamed is change for the ports of TCP that the peer has names for.
func (t *Table) changeNamed(q *Query, peer *end, next *uint32) {
	for _, p := range t.ids.Get(peer.id).GetNamedPorts() {
		if p.GetProtocol() != api.Protocol_PROTOCOL_TCP {
			continue
		}
		switch port := p.GetPort(); {
		case port > uint32(q.DstPort):
			*next = min(*next, firstTCP|port)
		case port == uint32(q.DstPort):
			*next = min(*next, firstTCP+port+1)
		}
	}
}

// denyByName says whether a rule of a side may come to deny what it would not deny without the names of addresses. One
// that allows cannot, whichever rules it goes before.
func (t *Table) denyByName(s *side) bool {
	if t.patterns == nil {
		return false
	}
	named := func(set uint32) bool {
		is, _ := t.sets.Get(set)
		return is != nil && len(is.config.GetDomains()) > 0
	}
	for i := 1; i < len(s.buckets)-1; i++ {
		if !named(s.buckets[i].set) {
			continue
		}
		for _, c := range s.cells[s.buckets[i].cells:s.buckets[i+1].cells] {
			if c.rank != none && s.rules[c.rank].action != api.PolicyRule_ACTION_ALLOW {
				return true
			}
		}
	}
	for i := range s.named {
		if n := &s.named[i]; s.rules[n.rank].action != api.PolicyRule_ACTION_ALLOW && named(n.set) {
			return true
		}
	}
	return false
}
