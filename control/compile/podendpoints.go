// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/model"
)

// Where no API server has a service, nobody need write EndpointSlices for it. Such a service has a selector here, and
// where it has no slice its endpoints are the pods that it selects.

// selected is what is known of services with selectors.
type selected struct {
	services map[string]map[model.Key]struct{} // with selectors, by namespace
	hosted   map[string]map[model.Key]struct{} // pods on their nodes' networks, by namespace
	ports    map[string]string                 // namespaces of attachments' pods, by port
}

func newSelected() selected {
	return selected{
		services: map[string]map[model.Key]struct{}{},
		hosted:   map[string]map[model.Key]struct{}{},
		ports:    map[string]string{},
	}
}

// note takes note of a service that changed.
func (s *selected) note(key model.Key, o *model.Object) {
	file(s.services, key, o != nil && o.Spec.(*model.Service).Selector != nil)
}

// file has the key in the set of its namespace, or not.
func file(sets map[string]map[model.Key]struct{}, key model.Key, in bool) {
	set := sets[key.Namespace]
	switch {
	case in && set == nil:
		sets[key.Namespace] = map[model.Key]struct{}{key: {}}
	case in:
		set[key] = struct{}{}
	case set != nil:
		if delete(set, key); len(set) == 0 {
			delete(sets, key.Namespace)
		}
	}
}

// reselect has the services with selectors looked at in whose namespaces pods or attachments changed.
func (c *Compiler) reselect(w *work) {
	s := &c.services.selected
	namespaces := map[string]struct{}{}
	for _, key := range w.changed["Pod"] {
		o := c.Object(key)
		file(s.hosted, key, o != nil && o.Spec.(*model.Pod).HostNetwork)
		namespaces[key.Namespace] = struct{}{}
	}
	for _, port := range w.ports {
		if was, there := s.ports[port]; there {
			namespaces[was] = struct{}{}
			delete(s.ports, port)
		}
		if a := c.identities.attached[port]; a != nil {
			namespaces[a.PodNamespace] = struct{}{}
			s.ports[port] = a.PodNamespace
		}
	}
	if len(s.services) == 0 {
		return
	}
	for namespace := range namespaces {
		for key := range s.services[namespace] {
			c.services.touched[key] = struct{}{}
		}
	}
}

// podEndpoints are the pods that the service selects, at the port that it has there.
func (c *Compiler) podEndpoints(
	key model.Key, spec *model.Service, port *model.ServicePort, ipv6 bool,
) (list []endpoint) {
	pods := maps.Clone(c.services.selected.hosted[key.Namespace])
	if pods == nil {
		pods = map[model.Key]struct{}{}
	}
	if space := c.identities.spaces[key.Namespace]; space != nil {
		for who := range space.pods {
			if a := c.identities.attached[who.key.Name]; who.class == byPlace && a != nil {
				pods[a.pod()] = struct{}{}
			} else {
				pods[who.key] = struct{}{}
			}
		}
	}
	for pod := range pods {
		o := c.Object(pod)
		if o == nil || o.Spec.(*model.Pod).Finished || !selects(spec.Selector, o.Labels) {
			continue
		}
		number := targetOf(port, o.Spec.(*model.Pod))
		addresses, local := c.podAddresses(o)
		for _, a := range addresses {
			if number == 0 || a.Is6() != ipv6 {
				continue
			}
			p := o.Spec.(*model.Pod)
			list = append(list, endpoint{
				address: netip.AddrPortFrom(a, number), weight: weightOf(spec, a, pod.Name, p.Weight), local: local,
				ready: spec.Unready || !p.Unready && !p.Terminating, serving: !p.Unready,
				terminating: p.Terminating,
			})
		}
	}
	return list
}

func selects(s model.Selector, labels map[string]string) bool {
	return !slices.ContainsFunc(s, func(r model.Requirement) bool {
		value, has := labels[r.Key]
		return !r.Matches(value, has)
	})
}

// targetOf is the pod's port that a service's leads to; 0: it has none of the name.
func targetOf(port *model.ServicePort, pod *model.Pod) uint16 {
	if port.TargetName == "" {
		return port.Target
	}
	for _, p := range pod.Ports {
		if p.Name == port.TargetName && p.Protocol == port.Protocol {
			return p.Port
		}
	}
	return 0
}

// podAddresses are those that the pod's object says, its node's where it has that one's, and those of its attachments;
// local is whether it is on this node.
func (c *Compiler) podAddresses(o *model.Object) (addresses []netip.Addr, local bool) {
	pod := o.Spec.(*model.Pod)
	addresses, local = slices.Clone(pod.Addresses), pod.Node != "" && pod.Node == c.self.name
	if n := c.Object(model.Key{Kind: "Node", Name: pod.Node}); pod.HostNetwork && n != nil && len(addresses) == 0 {
		addresses = slices.Clone(n.Spec.(*model.Node).Addresses)
	}
	for _, who := range c.identities.pods[o.Key] {
		if a := c.identities.attached[who.key.Name]; a != nil {
			addresses, local = append(addresses, a.Addresses...), true
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), local
}
