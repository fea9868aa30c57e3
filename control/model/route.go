// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Route leads a destination somewhere.
type Route struct {
	Node         string // node that it is for; empty: every node
	NodeSelector map[string]string
	Destination  netip.Prefix
	Type         string // "forward" (when not said), "blackhole", "unreachable" or "prohibit"
	NextHops     []NextHop
}

// NextHop is one way out, of which there are at least one for type forward and none for the others.
type NextHop struct {
	Via    netip.Addr // zero: on-link
	Port   string     // empty: the port in whose subnet Via lies
	Weight uint32     // 1..65535, 1 when not said
	MTU    uint32     // bytes; 0: the port's
}

type routeSpec struct {
	Node         string            `json:"node"`
	NodeSelector map[string]string `json:"nodeSelector"`
	Destination  string            `json:"destination"`
	Type         string            `json:"type"`
	NextHops     []nextHopSpec     `json:"nextHops"`
}

type nextHopSpec struct {
	Via    string `json:"via"`
	Port   string `json:"port"`
	Weight *int64 `json:"weight"`
	MTU    int64  `json:"mtu"`
}

// maxNextHops bounds a group: more would not fit one table of hash buckets.
const maxNextHops = 256

func (s *routeSpec) build(c *checker) *Route {
	r := &Route{
		Node:         s.Node,
		NodeSelector: s.NodeSelector,
		Destination:  c.prefix("destination", s.Destination),
		Type:         c.oneOf("type", s.Type, "forward", "blackhole", "unreachable", "prohibit"),
	}
	c.check(!r.Destination.Addr().IsMulticast(), "destination", "%s is multicast, which is not forwarded", r.Destination)
	c.check(!linkLocal(r.Destination), "destination", "%s is link-local, which is not forwarded", r.Destination)
	c.check(s.Node == "" || len(s.NodeSelector) == 0, "nodeSelector", "node and nodeSelector exclude each other")
	c.checkLabels("nodeSelector", s.NodeSelector)
	if r.Type != "forward" {
		c.check(len(s.NextHops) == 0, "nextHops", "a route of type %s leads nowhere", r.Type)
		return r
	}
	c.check(len(s.NextHops) > 0, "nextHops", "must name at least one next hop")
	c.check(len(s.NextHops) <= maxNextHops, "nextHops", "at most %d, not %d", maxNextHops, len(s.NextHops))
	for i := range s.NextHops {
		c.within(index("nextHops", i), func() { r.NextHops = append(r.NextHops, s.NextHops[i].build(c)) })
	}
	return r
}

func (s *nextHopSpec) build(c *checker) NextHop {
	h := NextHop{Port: s.Port, Weight: 1, MTU: c.mtu("mtu", s.MTU)}
	if s.Weight != nil {
		h.Weight = uint32(c.between("weight", *s.Weight, 1, maxWeight))
	}
	if s.Port != "" {
		c.name("port", s.Port)
	}
	if s.Via != "" {
		h.Via = c.unicast("via", s.Via)
	}
	c.check(s.Via != "" || s.Port != "", "", "needs via, port or both")
	c.check(s.Port != "" || !h.Via.IsLinkLocalUnicast(), "port", "a link-local next hop needs its port")
	return h
}

// linkLocal says whether all of p is link-local (RFC 3927, RFC 4291 2.5.6).
func linkLocal(p netip.Prefix) bool {
	bits := 10
	if p.Addr().Is4() {
		bits = 16
	}
	return p.Addr().IsLinkLocalUnicast() && p.Bits() >= bits
}
