// SPDX-License-Identifier: Apache-2.0

package service

// bounded is maglev for which no member has more than its share of the flows and a quarter (Mirrokni, Thorup and
// Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016, with c = 1.25): a flow whose member is full goes to the
// one of the next place. There is always one: the bounds together are more than all flows.
func (p *pool) bounded(s *Service, q *Query) *member {
	at := hashFlow(q) % uint64(len(p.lookup))
	all := p.flows(s) + 1
	var fit *member
	m := &p.members[p.lookup[at]]
	for range tries * len(p.members) {
		switch s.state(m, q.Now) {
		case onTrial:
			return m
		case well:
			if m.slot.flows() < p.bound(m, all) {
				return m
			}
			if fit == nil {
				fit = m
			}
		}
		m = p.after(&at)
	}
	if fit != nil { // others than the pool's have flows as well
		return fit
	}
	return m
}

// flows is how many flows the members have. Of a large pool it is how many the service has, those that go on to
// backends that are gone included.
func (p *pool) flows(s *Service) (all uint64) {
	if len(p.members) > looked {
		return uint64(max(s.group.active.Load(), 0))
	}
	for i := range p.members {
		all += p.members[i].slot.flows()
	}
	return all
}

// bound is how many of so many flows a member may have: ⌈1.25 · flows · weight / total⌉.
func (p *pool) bound(m *member, flows uint64) uint64 {
	return (5*flows*uint64(m.weight) + 4*p.total - 1) / (4 * p.total)
}
