// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/viaduct-net/viaduct/control/model"
)

// Who may write a Service in one namespace names any address in it. guard is what such a name is not to take:
// kube-proxy lets it have all of these (CVE-2020-8554).
type guard struct {
	pods     *netipx.IPSet // pod CIDRs of all nodes
	services *netipx.IPSet // service CIDRs
	nodes    map[netip.Addr]struct{}
	failSafe map[model.FailSafePort]struct{} // ports of nodes by which they are reached
	own      [2]netip.Addr                   // the dataplane's addresses
}

func newGuard() guard { return guard{pods: &netipx.IPSet{}, services: &netipx.IPSet{}} }

// findGuard finds it anew where it may have changed, and says whether it has.
func (c *Compiler) findGuard(w *work) (changed bool) {
	if !w.whole && len(w.changed["Node"])+len(w.changed["NodeConfig"])+len(w.changed["ServiceCIDR"]) == 0 {
		return false
	}
	var pods, services netipx.IPSetBuilder
	is := guard{nodes: map[netip.Addr]struct{}{}, failSafe: map[model.FailSafePort]struct{}{}, own: c.self.dataplane}
	nodes, cidrs := c.cluster()
	for _, a := range nodes {
		is.nodes[a] = struct{}{}
	}
	for _, p := range cidrs {
		pods.AddPrefix(p)
	}
	for _, one := range c.serviceCIDRs() {
		services.AddPrefix(one.prefix)
	}
	for _, p := range c.self.config.FailSafe.Ingress {
		is.failSafe[p] = struct{}{}
	}
	was := &c.services.guard
	var err, failed error
	is.pods, err = pods.IPSet()
	is.services, failed = services.IPSet()
	if err != nil || failed != nil { // of prefixes that are not valid, of which there are none
		return false
	}
	changed = !was.pods.Equal(is.pods) || !was.services.Equal(is.services) || !maps.Equal(was.nodes, is.nodes) ||
		!maps.Equal(was.failSafe, is.failSafe) || was.own != is.own
	c.services.guard = is
	return changed
}

// notExternal says why an address cannot be one by which a service is reached from outside; empty: it can.
func (g *guard) notExternal(a netip.Addr) (reason string) {
	switch {
	case g.pods.Contains(a):
		return fmt.Sprintf("%s is in a pod CIDR", a)
	case g.services.Contains(a):
		return fmt.Sprintf("%s is in a service CIDR", a)
	}
	return ""
}

// notPort says why a port of the address cannot be a service's, or a pod's host port; empty: it can. The unspecified
// address is all of the node's.
func (g *guard) notPort(a netip.Addr, protocol string, port uint16) (reason string) {
	_, node := g.nodes[a]
	if _, kept := g.failSafe[model.FailSafePort{Protocol: protocol, Port: port}]; kept && (node || a.IsUnspecified()) {
		return fmt.Sprintf("%s %d of nodes is theirs, by failSafe of the NodeConfig", protocol, port)
	}
	return ""
}

// isNode says whether an address is a node's own.
func (g *guard) isNode(a netip.Addr) bool {
	_, is := g.nodes[a]
	return is
}

// virtual says whether nobody answers at an address by itself: services, of which one is not another's backend, and the
// dataplane.
func (g *guard) virtual(a netip.Addr) bool {
	return g.services.Contains(a) || a == g.own[0] || a == g.own[1]
}

// complainOf says which EndpointSlices of the service name what is nobody's address.
func (c *Compiler) complainOf(service model.Key) {
	s := &c.services
	for _, key := range s.slices[service] {
		o := c.Object(key)
		list := o.Spec.(*model.EndpointSlice).Endpoints
		i := slices.IndexFunc(list, func(e model.Endpoint) bool { return s.guard.virtual(e.Address) })
		if i < 0 {
			s.unfit.put(key, nil)
			continue
		}
		s.unfit.put(key, []*model.Error{refuse(o, fmt.Sprintf("endpoints[%d].addresses", i),
			"%s is a service's address, or the dataplane's, and cannot be a backend", list[i].Address)})
	}
}
