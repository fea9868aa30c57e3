// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// endpoint is one who answers for a port of a service.
type endpoint struct {
	address netip.AddrPort
	weight  uint16
	local   bool // on this node

	ready, serving, terminating bool

	zones, nodes []string // that it is best for; empty: not said
}

// fileSlices files EndpointSlices that changed under their services.
func (c *Compiler) fileSlices(w *work) {
	s := &c.services
	for _, key := range w.changed["EndpointSlice"] {
		if was, filed := s.sliceOf[key]; filed {
			at, _ := slices.BinarySearchFunc(s.slices[was], key, model.Key.Compare)
			if s.slices[was] = slices.Delete(s.slices[was], at, at+1); len(s.slices[was]) == 0 {
				delete(s.slices, was)
			}
			delete(s.sliceOf, key)
			s.unfit.put(key, nil)
			s.touched[was] = struct{}{}
		}
		o := c.Object(key)
		if o == nil || o.Spec.(*model.EndpointSlice).Service == "" {
			continue
		}
		of := model.Key{Kind: "Service", Namespace: key.Namespace, Name: o.Spec.(*model.EndpointSlice).Service}
		at, _ := slices.BinarySearchFunc(s.slices[of], key, model.Key.Compare)
		s.slices[of] = slices.Insert(s.slices[of], at, key)
		s.sliceOf[key] = of
		s.touched[of] = struct{}{}
	}
}

// weigh has the services looked at whose backends are pods whose weight changed. That is rare: the slices of their
// namespaces are searched.
func (c *Compiler) weigh(w *work) {
	s := &c.services
	var changed map[model.Key]bool
	namespaces := map[string]bool{}
	for _, key := range w.changed["Pod"] {
		is := uint16(0)
		if o := c.Object(key); o != nil {
			is = o.Spec.(*model.Pod).Weight
		}
		if s.weights[key] == is {
			continue
		}
		if s.weights[key] = is; is == 0 {
			delete(s.weights, key)
		}
		if changed == nil {
			changed = map[model.Key]bool{}
		}
		changed[key], namespaces[key.Namespace] = true, true
	}
	if changed == nil {
		return
	}
	for key, of := range s.sliceOf {
		if !namespaces[key.Namespace] {
			continue
		}
		slice := c.Object(key).Spec.(*model.EndpointSlice)
		if slices.ContainsFunc(slice.Endpoints, func(e model.Endpoint) bool {
			return e.Pod != "" && changed[model.Key{Kind: "Pod", Namespace: key.Namespace, Name: e.Pod}]
		}) {
			s.touched[of] = struct{}{}
		}
	}
}

// backends are those of a port of a service, of one family, in order.
func (c *Compiler) backends(key model.Key, spec *model.Service, port *model.ServicePort, ipv6 bool) []*api.Backend {
	list := c.endpoints(key, spec, port, ipv6)
	use := c.categorize(list)
	backends := make([]*api.Backend, 0, len(list))
	for i := range list {
		e := &list[i]
		if !use[i].cluster && !use[i].local && !e.serving && !e.terminating {
			continue // it has never answered, or does not any more
		}
		backends = append(backends, &api.Backend{
			Address: e.address.Addr().AsSlice(), Port: uint32(e.address.Port()), Weight: uint32(e.weight),
			Cluster: use[i].cluster, Local: use[i].local,
		})
	}
	if len(backends) == 0 {
		return nil
	}
	return backends
}

// endpoints are those of a port, ordered by address and port, each once: of several that are one, the readiest.
func (c *Compiler) endpoints(key model.Key, spec *model.Service, port *model.ServicePort, ipv6 bool) []endpoint {
	list := c.sliceEndpoints(key, spec, port, ipv6)
	if spec.Selector != nil && len(c.services.slices[key]) == 0 {
		list = c.podEndpoints(key, spec, port, ipv6)
	}
	slices.SortStableFunc(list, func(a, b endpoint) int {
		return cmp.Or(a.address.Compare(b.address), compareBool(b.ready, a.ready), compareBool(b.serving, a.serving),
			compareBool(a.terminating, b.terminating), compareBool(b.local, a.local), cmp.Compare(b.weight, a.weight))
	})
	return slices.CompactFunc(list, func(a, b endpoint) bool { return a.address == b.address })
}

// offered is a port of an EndpointSlice.
type offered struct {
	slice *model.Object
	port  uint16
}

// portName is what a port of a service and one of a slice have in common.
type portName struct{ name, protocol string }

// offers are the ports that a service's EndpointSlices have, by name. They are those of the service that was looked at
// last: each of its ports asks for them.
type offers struct {
	of     model.Key
	byName map[portName][]offered
}

// offersOf are those of the service. What changed of its slices counts once forget was called.
func (c *Compiler) offersOf(key model.Key) map[portName][]offered {
	o := &c.services.offers
	if o.of == key {
		return o.byName
	}
	const small = 16 // a map costs as much to clear as when it was full
	if len(o.byName) > small || o.byName == nil {
		o.byName = map[portName][]offered{}
	}
	clear(o.byName)
	o.of = key
	for _, of := range c.services.slices[key] {
		object := c.Object(of)
		slice := object.Spec.(*model.EndpointSlice)
		if len(slice.Endpoints) == 0 {
			continue
		}
		for _, p := range slice.Ports {
			at := portName{p.Name, p.Protocol}
			o.byName[at] = append(o.byName[at], offered{object, p.Port})
		}
	}
	return o.byName
}

func (o *offers) forget() { o.of = model.Key{} }

// sliceEndpoints are those that EndpointSlices say.
func (c *Compiler) sliceEndpoints(
	key model.Key, spec *model.Service, port *model.ServicePort, ipv6 bool,
) (list []endpoint) {
	for _, one := range c.offersOf(key)[portName{port.Name, port.Protocol}] {
		slice := one.slice.Spec.(*model.EndpointSlice)
		for i := range slice.Endpoints {
			from := &slice.Endpoints[i]
			if from.Address.Is6() != ipv6 || c.services.guard.virtual(from.Address) {
				continue
			}
			pod := c.services.weights[model.Key{Kind: "Pod", Namespace: key.Namespace, Name: from.Pod}]
			list = append(list, endpoint{
				address: netip.AddrPortFrom(from.Address, one.port),
				weight:  weightOf(spec, from.Address, from.Pod, cmp.Or(pod, slice.Weight)),
				local:   from.Node != "" && from.Node == c.self.name,
				ready:   from.Ready, serving: from.Serving, terminating: from.Terminating,
				zones: from.Zones, nodes: from.Nodes,
			})
		}
	}
	return list
}

// weightOf is what the service says of a backend, or what is said there; else 1.
func weightOf(spec *model.Service, address netip.Addr, pod string, there uint16) uint16 {
	if weights := spec.Annotations.Weights; len(weights) > 0 {
		there = cmp.Or(weights[address.String()], weights[pod], there)
	}
	return cmp.Or(there, 1)
}
