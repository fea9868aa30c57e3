// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// Pod says which addresses a pod has, by its object and its attachments, IPv4 first, and which node it is on; found is
// whether any of them tells of it.
func (c *Compiler) Pod(namespace, name string) (addresses []netip.Addr, node string, found bool) {
	key := model.Key{Kind: "Pod", Namespace: namespace, Name: name}
	if o := c.Object(key); o != nil {
		pod := o.Spec.(*model.Pod)
		addresses, node, found = slices.Clone(pod.Addresses), pod.Node, true
		if n := c.Object(model.Key{Kind: "Node", Name: pod.Node}); pod.HostNetwork && n != nil {
			addresses = append(addresses, n.Spec.(*model.Node).Addresses...)
		}
	}
	for _, o := range c.attachments {
		if a := o.Spec.(*Attachment); a.pod() == key {
			addresses, node, found = append(addresses, a.Addresses...), c.self.name, true
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), node, found
}

// PodPorts are the ports that a pod's containers name, by its object.
func (c *Compiler) PodPorts(namespace, name string) []*api.NamedPort {
	if o := c.Object(model.Key{Kind: "Pod", Namespace: namespace, Name: name}); o != nil {
		return namedPorts(o.Spec.(*model.Pod).Ports)
	}
	return nil
}
