// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/control/model"
)

// What the services of one namespace may have on a node. The dataplane numbers 2^20 backends: it takes eight namespaces
// to use them up.
const (
	maxPortBackends = 1<<16 - 1 // of one port of a service, of one family
	maxBackends     = 1 << 17
	maxFrontends    = 1 << 17 // and the source ranges of each
	maxExternal     = 1 << 12 // external addresses and load balancers', each a route of the host's
)

// cost is what a service has.
type cost struct {
	frontends, external, backends int
	port                          string // the field of the one that has the most backends
	most                          int    // that it has
}

// space of one namespace's services.
type budget struct {
	costs map[model.Key]cost
	sum   cost
	left  map[model.Key]string // who does not fit, and why
}

// spend notes what services cost that changed, and returns those that come to fit or not to fit, in no order.
func (c *Compiler) spend(keys []model.Key) (turned []model.Key) {
	touched := map[*budget]struct{}{}
	for _, key := range keys {
		b := c.services.budgets[key.Namespace]
		if b == nil {
			b = &budget{costs: map[model.Key]cost{}}
			c.services.budgets[key.Namespace] = b
		}
		b.put(key, c.costOf(key))
		if touched[b] = struct{}{}; len(b.costs) == 0 {
			delete(c.services.budgets, key.Namespace)
		}
	}
	for b := range touched {
		was := b.left
		b.fit()
		for key := range b.costs {
			if b.left[key] != was[key] {
				turned = append(turned, key)
			}
		}
	}
	return turned
}

func (b *budget) put(key model.Key, is cost) {
	was := b.costs[key]
	b.sum.frontends += is.frontends - was.frontends
	b.sum.external += is.external - was.external
	b.sum.backends += is.backends - was.backends
	if b.costs[key] = is; is == (cost{}) {
		delete(b.costs, key)
	}
	if is.most > maxPortBackends || was.most > maxPortBackends {
		b.sum.most = maxPortBackends + 1 // somebody is, or was, too large: fit looks
	}
}

// fit finds out who does not fit: where all do it costs nothing, and else the first by name go before the others.
func (b *budget) fit() {
	b.left = nil
	if b.sum.backends <= maxBackends && b.sum.frontends <= maxFrontends && b.sum.external <= maxExternal &&
		b.sum.most <= maxPortBackends {
		return
	}
	b.left, b.sum.most = map[model.Key]string{}, 0
	var sum cost
	for _, key := range slices.SortedFunc(maps.Keys(b.costs), model.Key.Compare) {
		one := b.costs[key]
		b.sum.most = max(b.sum.most, one.most)
		if reason := sum.without(one); reason != "" {
			b.left[key] = reason
			continue
		}
		sum.frontends += one.frontends
		sum.external += one.external
		sum.backends += one.backends
	}
}

// without says why there is no room for one more; empty: there is.
func (sum cost) without(one cost) (reason string) {
	const of = "%d %s, where services of the namespace before it have %d and all may have %d"
	switch {
	case one.most > maxPortBackends:
		return fmt.Sprintf("%s has %d endpoints, more than %d", one.port, one.most, maxPortBackends)
	case sum.backends+one.backends > maxBackends:
		return fmt.Sprintf("it has "+of, one.backends, "endpoints", sum.backends, maxBackends)
	case sum.frontends+one.frontends > maxFrontends:
		return fmt.Sprintf("it has "+of, one.frontends, "addresses and ports with their source ranges", sum.frontends,
			maxFrontends)
	case sum.external+one.external > maxExternal:
		return fmt.Sprintf("it has "+of, one.external, "external addresses", sum.external, maxExternal)
	}
	return ""
}

// costOf is what a service has of what it says, whoever gets it.
func (c *Compiler) costOf(key model.Key) (sum cost) {
	o := c.Object(key)
	if o == nil || !o.Spec.(*model.Service).Fronted {
		return cost{}
	}
	spec := o.Spec.(*model.Service)
	sum.external = len(spec.External) + len(spec.LoadBalancer)
	each := len(spec.Addresses) + len(spec.External) + len(spec.LoadBalancer)*(1+len(spec.Sources))
	families := len(familiesOf(spec))
	offers := c.offersOf(key)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		sum.frontends += each
		if p.NodePort != 0 {
			sum.frontends += families
		}
		count := [2]int{}
		for _, one := range offers[portName{p.Name, p.Protocol}] {
			endpoints := one.slice.Spec.(*model.EndpointSlice).Endpoints
			count[b2i(endpoints[0].Address.Is6())] += len(endpoints)
		}
		for _, n := range count {
			sum.backends += n
			if n > sum.most {
				sum.most, sum.port = n, fmt.Sprintf("spec.ports[%d]", i)
			}
		}
	}
	return sum
}
