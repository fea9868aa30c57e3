// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"slices"
)

// Config is what a snapshot asks of the host's stack. Bits of prefixes behind their lengths are zero.
type Config struct {
	Routes []Route // prefixes are unique
	// Pods are the prefixes of this node's pods: what comes in by another device than PairStack and claims to be from
	// there is dropped.
	Pods []netip.Prefix
	// Masquerade has what leaves the node from Pods to anywhere but Pods and Direct get the address of the device that it
	// leaves by.
	Masquerade bool
	Direct     []netip.Prefix
	// Services has what the dataplane sends outside for services not tracked: see leaveUntracked; and what the host's own
	// processes answer for services go back to the dataplane: see Answers. Without pods there are none.
	Services bool
	// Forward has the host forward packets of each family that has routes here. Not wanted, it is as it was before.
	Forward bool
}

// Route is a route of the host's main table.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr // the next router; the zero Addr: the dataplane, by PairStack
}

// Apply brings routes, forwarding and rules to the config. For what cannot be had a note says why, the rest is in
// force, and the next Apply tries again. An error is the machine's (netlink does not answer) and leaves a part undone.
// Nothing is forwarded before the rules for it are in place.
//
// A config that is in force costs a dump of our own routes, some reads of sysctls and one question to nftables.
func (s *Stack) Apply(c Config) ([]Note, error) {
	notes := s.applyRules(&c)
	s.answers = c.Services && len(c.Pods) > 0 && len(notes) == 0
	if err := s.applyAnswers(s.answers); err != nil {
		s.answers = false
		notes = append(notes, Note{"services",
			"the host's processes see clients by the dataplane's address: " + oneLine(err)})
	}
	routes, err := s.applyRoutes(c.Routes)
	notes = append(notes, routes...)
	if err != nil {
		return notes, err
	}
	return append(notes, s.applyForwarding(c.forwards(netip.Addr.Is4), c.forwards(netip.Addr.Is6))...), nil
}

func (c Config) forwards(family func(netip.Addr) bool) bool {
	return c.Forward && slices.ContainsFunc(c.Routes, func(r Route) bool { return family(r.Prefix.Addr()) })
}
