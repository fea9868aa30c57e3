// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/model"
)

// HealthCheck is what load balancers are to find out at a port of the node: whether a service has backends here.
type HealthCheck struct {
	Namespace, Name string
	Port            uint16
	Local           int // pods on this node that are ready
}

// noteHealth counts a service's backends on this node, if anybody asks for them.
func (c *Compiler) noteHealth(owner model.Key) {
	s := &c.services
	was, had := s.checks[owner]
	o := c.Object(owner)
	spec, is := (*model.Service)(nil), false
	if o != nil {
		spec, is = o.Spec.(*model.Service)
	}
	if !is || spec.HealthCheckPort == 0 {
		if had {
			delete(s.checks, owner)
			s.checked = nil
		}
		return
	}
	local := map[netip.Addr]struct{}{}
	for i := range spec.Ports {
		for _, ipv6 := range familiesOf(spec) {
			for _, e := range c.endpoints(owner, spec, &spec.Ports[i], ipv6) {
				if e.local && e.ready {
					local[e.address.Addr()] = struct{}{}
				}
			}
		}
	}
	check := HealthCheck{owner.Namespace, owner.Name, spec.HealthCheckPort, len(local)}
	if !had || was != check {
		s.checks[owner] = check
		s.checked = nil
	}
}

// HealthChecks are those of the last Snapshot, ordered by namespace and name. The list is not to be changed.
func (c *Compiler) HealthChecks() []HealthCheck {
	s := &c.services
	if s.checked == nil && len(s.checks) > 0 {
		s.checked = slices.SortedFunc(maps.Values(s.checks), func(a, b HealthCheck) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
	}
	return s.checked
}
