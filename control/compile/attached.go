// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
)

// attachedAs is who claims a port's name, and the destinations that lead to it, for an attachment.
func attachedAs(port string) claimant { return claimant{byPort, attachmentKey(port)} }

// placedAs is who claims an attachment's addresses.
func placedAs(port string) claimant { return claimant{byPlace, attachmentKey(port)} }

// gateways are the addresses by which those behind a port know the dataplane as their router.
var gateways = []*api.Prefix{
	prefixOf(netip.MustParsePrefix("169.254.1.1/32")),
	prefixOf(netip.MustParsePrefix("fe80::1/64")),
}

// claimAttachedPorts has the attachments that changed claim their ports' names, and those whose pods or namespaces say
// something else of them than they did.
func (c *Compiler) claimAttachedPorts(w *work) {
	c.reconsiderOffload(w)
	for name := range c.attached {
		who := attachedAs(name)
		c.ports.withdraw(who)
		if o := c.attachments[name]; o != nil {
			c.ports.add(name, &claim[*api.Snapshot]{claimant: who, object: o, value: c.attachedPort(o.Spec.(*Attachment))})
		} else {
			c.ports.touched[name] = struct{}{}
		}
	}
	c.attached = map[string]struct{}{} // a cleared map costs as much to walk as when it was full
}

// attachedPort is the attachment's port, with its limit and without numbers.
func (c *Compiler) attachedPort(a *Attachment) *api.Snapshot {
	station := &api.Station{Mac: a.MAC}
	for _, address := range slices.SortedFunc(slices.Values(a.Addresses), netip.Addr.Compare) {
		station.Addresses = append(station.Addresses, address.AsSlice())
	}
	p := &api.Port{
		Name: a.Port, Device: a.Device, Ifindex: a.IfIndex, Attach: api.Port_ATTACH_TRUNK, Addresses: gateways,
		Station: station, NoOffload: c.attachedOf.note(a, c.noOffload(a)),
	}
	if a.Direct {
		p.Attach = api.Port_ATTACH_DIRECT
	}
	s := &api.Snapshot{Ports: []*api.Port{p}}
	if a.Egress != (Rate{}) || a.Ingress != (Rate{}) {
		s.Limits = []*api.Limit{{
			FromPortBitsPerSecond: a.Egress.BitsPerSecond, FromPortBurstBytes: a.Egress.burst(),
			ToPortBitsPerSecond: a.Ingress.BitsPerSecond, ToPortBurstBytes: a.Ingress.burst(),
		}}
	}
	return s
}

// burst is in bytes.
func (r Rate) burst() uint64 { return r.BurstBits/8 + min(r.BurstBits%8, 1) }

// claimAttached has attachments whose ports were looked at claim the destinations that are their addresses; those of no
// pod CIDR, which an IPAM plugin gave or whose CIDR was taken away, with the host's stack as well. One that lost its
// port's name leads nowhere.
func (c *Compiler) claimAttached(w *work) {
	names := w.ports
	if w.whole {
		names = slices.AppendSeq(slices.Clip(names), maps.Keys(c.attachments))
	}
	_, inside := c.podCIDRs(&c.self, c.self.name)
	for _, o := range c.ownAddresses() { // which the host's stack has for itself, whoever claims them
		inside = append(slices.Clip(inside), netip.PrefixFrom(o.address, o.address.BitLen()))
	}
	for _, name := range names {
		who := attachedAs(name)
		c.routes.withdraw(who)
		c.hostRoutes.withdraw(who)
		p := c.ports.inForce[name]
		if p == nil || p.owner != who {
			continue
		}
		o := c.attachments[name]
		value := &group{kind: api.NextHopGroup_KIND_FORWARD, hops: []*api.NextHop{{Port: p.number, Weight: 1}}}
		for _, address := range o.Spec.(*Attachment).Addresses {
			alone := netip.PrefixFrom(address, address.BitLen())
			c.routes.add(alone, &claim[*group]{claimant: who, object: o, value: value})
			if !slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Contains(address) }) {
				c.hostRoutes.add(alone, &claim[hostWay]{claimant: who, object: o})
			}
		}
	}
}

// claimAddresses has the attachment of a port that was looked at claim the identity of its addresses.
func (c *Compiler) claimAddresses(name string) {
	t, who := &c.identities, placedAs(name)
	if was := t.attached[name]; was != nil {
		t.withdraw(who)
		t.quit(was.PodNamespace, who)
		if t.pods[was.pod()] = without(t.pods[was.pod()], who); len(t.pods[was.pod()]) == 0 {
			delete(t.pods, was.pod())
		}
		delete(t.attached, name)
	}
	p := c.ports.inForce[name]
	if p == nil || p.owner != attachedAs(name) {
		return
	}
	o := c.attachments[name]
	a := o.Spec.(*Attachment)
	if a.PodNamespace == "" {
		return
	}
	t.attached[name] = a
	t.pods[a.pod()] = append(t.pods[a.pod()], who)
	c.join(a.PodNamespace, who)
	t.claim(who, o, a.Addresses)
}

func without(list []claimant, who claimant) []claimant {
	return slices.DeleteFunc(list, func(other claimant) bool { return other == who })
}
