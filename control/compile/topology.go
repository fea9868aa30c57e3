// SPDX-License-Identifier: Apache-2.0

package compile

import "slices"

// usable is where an endpoint may be chosen.
type usable struct{ cluster, local bool }

// categorize says which endpoints may be chosen where every node's may, and which where only this node's may, with
// kube-proxy's meaning (k8s.io/kubernetes, pkg/proxy/topology.go). In both sets those that are ready go before those
// that are about to end and still serve (KEP-1669). Where hints say whom an endpoint is best for, the cluster's set has
// those for this node, or else for its zone, if all that are ready have hints (KEP-2433, KEP-3015); who is local may be
// chosen whatever they say.
func (c *Compiler) categorize(list []endpoint) []usable {
	use := make([]usable, len(list))
	best := c.bestFor(list)
	ready := func(e *endpoint) bool { return e.ready }
	ending := func(e *endpoint) bool { return e.serving && e.terminating }
	for _, may := range []func(*endpoint) bool{ready, ending} {
		found := false
		for i := range list {
			use[i].cluster = may(&list[i]) && best(&list[i])
			found = found || use[i].cluster
		}
		if found {
			break
		}
		best = func(*endpoint) bool { return true }
	}
	for _, may := range []func(*endpoint) bool{ready, ending} {
		found := false
		for i := range list {
			use[i].local = list[i].local && may(&list[i])
			found = found || use[i].local
		}
		if found {
			break
		}
	}
	return use
}

// bestFor says which endpoints hints leave.
func (c *Compiler) bestFor(list []endpoint) func(*endpoint) bool {
	node := func(e *endpoint) []string { return e.nodes }
	zone := func(e *endpoint) []string { return e.zones }
	switch {
	case hinted(list, node, c.self.name):
		return func(e *endpoint) bool { return slices.Contains(e.nodes, c.self.name) }
	case c.services.zone != "" && hinted(list, zone, c.services.zone):
		return func(e *endpoint) bool { return slices.Contains(e.zones, c.services.zone) }
	}
	return func(*endpoint) bool { return true }
}

// hinted says whether all endpoints that are ready have hints, and one of them this one.
func hinted(list []endpoint, hints func(*endpoint) []string, this string) (has bool) {
	for i := range list {
		if e := &list[i]; e.ready {
			if len(hints(e)) == 0 {
				return false
			}
			has = has || slices.Contains(hints(e), this)
		}
	}
	return has
}
