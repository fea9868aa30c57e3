// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// HostPort is a port of the node that leads to one of a pod's.
type HostPort struct {
	// HostIP is the address of the node that it is at; the zero value is all, and an unspecified one all of its family.
	HostIP                  netip.Addr
	HostPort, ContainerPort uint16
	Protocol                api.Protocol // TCP, UDP or SCTP
}

// claimHostPorts has the attachments whose ports were looked at, or all, claim their host ports. Services go before
// them.
func (c *Compiler) claimHostPorts(w *work, all bool) {
	s := &c.services
	names := w.ports
	if all {
		names = slices.AppendSeq(slices.Clip(names), maps.Keys(c.attachments))
	}
	for _, name := range names {
		who := attachedAs(name)
		s.frontends.withdraw(who)
		s.touched[who.key] = struct{}{}
		p := c.ports.inForce[name]
		if p == nil || p.owner != who {
			continue
		}
		for i := range c.attachments[name].Spec.(*Attachment).HostPorts {
			for _, ipv6 := range []bool{false, true} {
				c.claimMapped(who, i, ipv6)
			}
		}
	}
}

// claimMapped claims the i-th host port of an attachment, of one family.
func (c *Compiler) claimMapped(who claimant, i int, ipv6 bool) {
	o := c.attachments[who.key.Name]
	a := o.Spec.(*Attachment)
	h := a.HostPorts[i]
	at := slices.IndexFunc(a.Addresses, func(a netip.Addr) bool { return a.Is6() == ipv6 })
	if at < 0 || h.HostIP.IsValid() && h.HostIP.Is6() != ipv6 {
		return
	}
	pod := a.Port
	if a.PodNamespace != "" {
		pod = a.PodNamespace + "/" + a.PodName
	}
	name := fmt.Sprintf("%s:hostport-%s-%d", pod, protocolName(h.Protocol), h.HostPort)
	f := &api.Frontend{Kind: api.Frontend_KIND_HOST_PORT, Port: uint32(h.HostPort)}
	key := frontend{ofNode(ipv6), h.Protocol, h.HostPort}
	if h.HostIP.IsValid() && !h.HostIP.IsUnspecified() {
		key.address, f.Address = h.HostIP, h.HostIP.AsSlice()
		name += "@" + h.HostIP.String()
	}
	field := fmt.Sprintf("hostPorts[%d]", i)
	var err *model.Error
	if reason := c.services.guard.notPort(ofNode(ipv6), protocolName(h.Protocol), h.HostPort); reason != "" {
		err = refuse(o, field, "%s", reason)
	}
	c.services.frontends.add(key, &claim[wanted]{claimant: who, object: o, err: err, value: wanted{
		id: serviceID{name, ipv6}, frontend: f, field: field,
		backend: &api.Backend{Address: a.Addresses[at].AsSlice(), Port: uint32(h.ContainerPort), Weight: 1,
			Cluster: true, Local: true},
	}})
}
