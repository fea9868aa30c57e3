// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// services are those of Service objects, and host ports of attachments. Their owners, by whose keys they are known
// here, claim frontends; what of these an owner has, and who answers there, is looked at when either changed.
type services struct {
	frontends claims[frontend, wanted]
	pool      pool
	owned     map[model.Key][]*service
	touched   map[model.Key]struct{} // owners to be looked at
	former    map[serviceID]uint32   // numbers in a snapshot that an earlier process made; nil after the first compilation

	slices   map[model.Key][]model.Key // EndpointSlices by Service, ordered
	sliceOf  map[model.Key]model.Key   // and the other way
	weights  map[model.Key]uint16      // of pods that have one
	zone     string                    // that the node is in
	cidrs    serviceCIDRs
	selected selected
	offers   offers
	guard    guard
	budgets  map[string]*budget // by namespace
	unfit    complaints         // what of services is left out

	checks  map[model.Key]HealthCheck
	checked []HealthCheck // in order; nil: to be collected again
}

// serviceID is what a service of the snapshot is known by.
type serviceID struct {
	name string
	ipv6 bool
}

func (id serviceID) compare(o serviceID) int {
	return cmp.Or(strings.Compare(id.name, o.name), compareBool(id.ipv6, o.ipv6))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// service is one of the snapshot's.
type service struct {
	id   serviceID
	said *api.Service
}

func newServices() services {
	return services{
		frontends: newClaims(frontend.compare, frontendLost),
		owned:     map[model.Key][]*service{},
		touched:   map[model.Key]struct{}{},
		former:    map[serviceID]uint32{},
		slices:    map[model.Key][]model.Key{},
		sliceOf:   map[model.Key]model.Key{},
		weights:   map[model.Key]uint16{},
		cidrs:     serviceCIDRs{},
		selected:  newSelected(),
		guard:     newGuard(),
		budgets:   map[string]*budget{},
		unfit:     newComplaints(),
		checks:    map[model.Key]HealthCheck{},
	}
}

// claimServices has services that changed, and the node's attachments, claim their frontends, and the host's way there.
func (c *Compiler) claimServices(w *work) {
	s := &c.services
	c.fileSlices(w)
	guarded := c.findGuard(w)
	all := c.claimServiceCIDRs(w) || guarded || w.whole
	if w.whole {
		s.zone = c.self.labels()[model.ZoneLabel]
	}
	keys := slices.Clip(w.changed["Service"])
	if all && c.last != nil { // before the first, all have changed
		keys = slices.AppendSeq(keys, maps.Keys(c.objects["Service"]))
	}
	s.offers.forget()
	keys = append(keys, c.spend(slices.AppendSeq(keys, maps.Keys(s.touched)))...)
	for _, key := range keys {
		c.claimService(key)
		s.touched[key] = struct{}{}
	}
	c.claimHostPorts(w, guarded)
}

// compileServices enters services of which frontends or backends changed.
func (c *Compiler) compileServices(w *work) {
	s := &c.services
	c.weigh(w)
	c.reselect(w)
	s.frontends.settle(func(_ frontend, _ *claim[wanted], all []*claim[wanted]) {
		for _, one := range all {
			s.touched[one.claimant.key] = struct{}{}
		}
	})
	for _, owner := range slices.SortedFunc(maps.Keys(s.touched), model.Key.Compare) { // they are numbered so
		c.complainOf(owner)
		c.enterServices(w.delta, owner)
	}
	s.touched = map[model.Key]struct{}{} // a cleared map costs as much to walk as when it was full
	for _, number := range s.former {
		s.pool.release(number)
	}
	s.former = nil
}

// enterServices puts what is made of an owner in the place of what was.
func (c *Compiler) enterServices(d *api.Delta, owner model.Key) {
	s := &c.services
	was := s.owned[owner]
	is, object := c.servicesOf(owner)
	slices.SortFunc(is, func(a, b *service) int { return a.id.compare(b.id) })
	find := func(list []*service, id serviceID) (at int, there bool) {
		return slices.BinarySearchFunc(list, id, func(a *service, id serviceID) int { return a.id.compare(id) })
	}
	for _, one := range is {
		one.said.Origin = c.origins.refer(object)
		at, before := find(was, one.id)
		if before {
			one.said.Id = was[at].said.Id
		} else {
			one.said.Id = s.number(one.id)
		}
		if !before || !proto.Equal(was[at].said, one.said) {
			d.Set.Services = append(d.Set.Services, one.said)
		}
	}
	for _, one := range was {
		c.origins.forget(owner)
		if _, still := find(is, one.id); !still {
			d.RemovedServices = append(d.RemovedServices, one.said.Id)
			s.pool.release(one.said.Id)
		}
	}
	if s.owned[owner] = is; len(is) == 0 {
		delete(s.owned, owner)
	}
}

// number is the one that the service had with an earlier process, or one that is free.
func (s *services) number(id serviceID) uint32 {
	if number := s.former[id]; number != 0 {
		delete(s.former, id)
		return number
	}
	return s.pool.take()
}

// servicesOf makes what the owner has frontends for, and says whose object that is.
func (c *Compiler) servicesOf(owner model.Key) (list []*service, object *model.Object) {
	s := &c.services
	byID := map[serviceID]*service{}
	for _, class := range []class{byCluster, byAllotted, byObject, byPort} {
		who := claimant{class, owner}
		for _, key := range s.frontends.byOwner[who] {
			won := s.frontends.winner(key)
			if won == nil || won.claimant != who {
				continue
			}
			one := byID[won.value.id]
			if one == nil {
				one = &service{id: won.value.id, said: &api.Service{
					Name: won.value.id.name, Ipv6: won.value.id.ipv6, Protocol: key.protocol}}
				byID[one.id] = one
				list, object = append(list, one), won.object
				c.describe(one.said, won)
			}
			one.said.Frontends = append(one.said.Frontends, won.value.frontend)
		}
	}
	for _, one := range list {
		slices.SortFunc(one.said.Frontends, compareFrontends)
		c.announce(one.said)
	}
	c.noteHealth(owner)
	return list, object
}

var algorithms = map[string]api.Service_Algorithm{
	"":                     api.Service_ALGORITHM_RANDOM,
	"random":               api.Service_ALGORITHM_RANDOM,
	"round-robin":          api.Service_ALGORITHM_ROUND_ROBIN,
	"weighted-round-robin": api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN,
	"least-connections":    api.Service_ALGORITHM_LEAST_CONNECTIONS,
	"two-choices":          api.Service_ALGORITHM_TWO_CHOICES,
	"source-hash":          api.Service_ALGORITHM_SOURCE_HASH,
	"maglev":               api.Service_ALGORITHM_MAGLEV,
	"maglev-bounded":       api.Service_ALGORITHM_MAGLEV_BOUNDED,
}

var removals = map[string]api.Service_Removal{
	"":      api.Service_REMOVAL_DRAIN,
	"drain": api.Service_REMOVAL_DRAIN,
	"reset": api.Service_REMOVAL_RESET,
}

// describe says who answers for the service that a frontend is of, and how one of them is chosen.
func (c *Compiler) describe(said *api.Service, won *claim[wanted]) {
	config := c.self.config
	said.Algorithm, said.Removal = algorithms[config.Algorithm], removals[config.RemovedBackends]
	spec, is := won.object.Spec.(*model.Service)
	if !is {
		said.Backends = []*api.Backend{won.value.backend}
		return
	}
	a := &spec.Annotations
	said.Algorithm = algorithms[cmp.Or(a.Algorithm, config.Algorithm)]
	said.Removal = removals[cmp.Or(a.Removed, config.RemovedBackends)]
	said.AffinitySeconds, said.SlowStartSeconds = spec.AffinitySeconds, a.SlowStart
	said.EjectionFailures, said.DirectReturn = a.Ejection, a.Direct
	said.Backends = c.backends(won.object.Key, spec, won.value.port, won.value.id.ipv6)
}
