// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// frontend is a place where one service at most takes traffic. What is at the addresses of the node has the unspecified
// address of its family.
type frontend struct {
	address  netip.Addr
	protocol api.Protocol
	port     uint16
}

func (f frontend) compare(o frontend) int {
	return cmp.Or(f.address.Compare(o.address), cmp.Compare(f.protocol, o.protocol), cmp.Compare(f.port, o.port))
}

func (f frontend) String() string {
	where := netip.AddrPortFrom(f.address, f.port).String()
	if f.address.IsUnspecified() {
		where = fmt.Sprintf("port %d of the node", f.port)
	}
	return fmt.Sprintf("%s (%s)", where, protocolName(f.protocol))
}

// protocolName is "TCP", as objects have it.
func protocolName(p api.Protocol) string { return p.String()[len("PROTOCOL_"):] }

// wanted is what somebody claims a frontend for.
type wanted struct {
	id       serviceID
	frontend *api.Frontend
	field    string             // of the object, that says so
	port     *model.ServicePort // of a service
	backend  *api.Backend       // of a host port
}

// frontendLost: what a service has twice, it has once.
func frontendLost(which frontend, loser, winner *claim[wanted]) *model.Error {
	if loser.claimant.key == winner.claimant.key {
		return nil
	}
	return refuse(loser.object, loser.value.field, "%s is %s's already", which, winner.object.Origin())
}

func compareFrontends(a, b *api.Frontend) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(len(a.Address), len(b.Address)),
		bytes.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
}

// claimService has a service claim its frontends, and those of its addresses that are in no service CIDR a way of the
// host's. Nobody takes another's cluster address by naming it: these go first.
func (c *Compiler) claimService(key model.Key) {
	s := &c.services
	for _, class := range []class{byCluster, byAllotted, byObject} {
		s.frontends.withdraw(claimant{class, key})
	}
	s.unfit.put(key, nil)
	c.hostRoutes.withdraw(claimant{byService, key})
	o := c.Object(key)
	s.selected.note(key, o)
	if o == nil || !o.Spec.(*model.Service).Fronted {
		return
	}
	if b := s.budgets[key.Namespace]; b != nil && b.left[key] != "" {
		s.unfit.put(key, []*model.Error{refuse(o, "spec", "the service is left out: %s", b.left[key])})
		return
	}
	spec := o.Spec.(*model.Service)
	var unfit []*model.Error
	for _, ipv6 := range familiesOf(spec) {
		f := fronts{c: c, object: o, spec: spec, ipv6: ipv6}
		f.find()
		for i := range spec.Ports {
			f.port(&spec.Ports[i], i)
		}
		for _, list := range [][]netip.Addr{f.own, f.external, f.balancers} {
			f.ways(list)
		}
		unfit = append(unfit, f.unfit...)
	}
	s.unfit.put(key, unfit)
}

// familiesOf are those that the service is of: those of its own addresses or, where it has none, that it is said to be
// of, or of its other addresses; else IPv4.
func familiesOf(spec *model.Service) (ipv6 []bool) {
	has := [2]bool{}
	note := func(list []netip.Addr) bool {
		for _, a := range list {
			has[b2i(a.Is6())] = true
		}
		return len(list) > 0
	}
	if !note(spec.Addresses) {
		for _, family := range spec.Families {
			has[b2i(family == 6)] = true
		}
		if len(spec.Families) == 0 && !note(spec.External) && !note(spec.LoadBalancer) {
			has[0] = true
		}
	}
	for i, is := range has {
		if is {
			ipv6 = append(ipv6, i == 1)
		}
	}
	return ipv6
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fronts claims the frontends that a service has of one family.
type fronts struct {
	c      *Compiler
	object *model.Object
	spec   *model.Service
	ipv6   bool

	own, external, balancers []netip.Addr // addresses that it may have
	unfit                    []*model.Error
}

// find finds the addresses of the family, without those that it cannot have.
func (f *fronts) find() {
	f.own = f.ours(f.spec.Addresses)
	may := func(list []netip.Addr, field string) (some []netip.Addr) {
		for _, a := range f.ours(list) {
			if reason := f.c.services.guard.notExternal(a); reason != "" {
				f.refuse(field, reason)
			} else {
				some = append(some, a)
			}
		}
		return some
	}
	f.external = may(f.spec.External, "spec.externalIPs")
	f.balancers = may(f.spec.LoadBalancer, "status.loadBalancer.ingress")
}

// maxUnfit bounds what is said of one service.
const maxUnfit = 16

func (f *fronts) refuse(field, reason string) {
	if len(f.unfit) < maxUnfit {
		f.unfit = append(f.unfit, refuse(f.object, field, "%s", reason))
	}
}

// port claims those of one port, the i-th.
func (f *fronts) port(p *model.ServicePort, i int) {
	external := func(kind api.Frontend_Kind) *api.Frontend {
		return &api.Frontend{Kind: kind, Port: uint32(p.Port), LocalOnly: f.spec.ExternalLocal}
	}
	for _, a := range f.own {
		f.claim(byCluster, a, p, "spec.clusterIPs", &api.Frontend{
			Kind: api.Frontend_KIND_CLUSTER_IP, Port: uint32(p.Port), LocalOnly: f.spec.InternalLocal})
	}
	for _, a := range f.external {
		f.claim(byObject, a, p, "spec.externalIPs", external(api.Frontend_KIND_EXTERNAL_IP))
	}
	for _, a := range f.balancers {
		balanced := external(api.Frontend_KIND_LOAD_BALANCER)
		balanced.Sources = f.sources()
		f.claim(byAllotted, a, p, "status.loadBalancer.ingress", balanced)
	}
	if p.NodePort != 0 {
		at := external(api.Frontend_KIND_NODE_PORT)
		at.Port = uint32(p.NodePort)
		f.claim(byAllotted, ofNode(f.ipv6), p, fmt.Sprintf("spec.ports[%d].nodePort", i), at)
	}
}

// ofNode stands for all addresses of the node.
func ofNode(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (f *fronts) claim(as class, address netip.Addr, p *model.ServicePort, field string, made *api.Frontend) {
	if !address.IsUnspecified() {
		made.Address = address.AsSlice()
	}
	if as != byCluster {
		if reason := f.c.services.guard.notPort(address, p.Protocol, uint16(made.Port)); reason != "" {
			f.refuse(field, reason)
			return
		}
	}
	key := f.object.Key
	name := key.Namespace + "/" + key.Name
	if p.Name != "" {
		name += ":" + p.Name
	}
	f.c.services.frontends.add(frontend{address, protocols[p.Protocol], uint16(made.Port)}, &claim[wanted]{
		claimant: claimant{as, key}, object: f.object,
		value: wanted{id: serviceID{name, f.ipv6}, frontend: made, field: field, port: p},
	})
}

// ours are those of the family.
func (f *fronts) ours(list []netip.Addr) (some []netip.Addr) {
	for _, a := range list {
		if a.Is6() == f.ipv6 {
			some = append(some, a)
		}
	}
	return some
}

// sources are those of the family that may come. Where only some of the other family may, nobody of this one: only the
// unspecified address, which nobody has.
func (f *fronts) sources() (list []*api.Prefix) {
	for _, p := range f.spec.Sources {
		if p.Addr().Is6() == f.ipv6 {
			list = append(list, prefixOf(p))
		}
	}
	if len(list) == 0 && len(f.spec.Sources) > 0 {
		list = []*api.Prefix{whole(ofNode(f.ipv6))}
	}
	return list
}

// ways has the host's stack lead to addresses by the dataplane, unless a service CIDR does.
func (f *fronts) ways(list []netip.Addr) {
	for _, a := range list {
		if f.c.self.pods && !f.c.services.cidrs.contain(a) {
			f.c.hostRoutes.add(netip.PrefixFrom(a, a.BitLen()), &claim[hostWay]{
				claimant: claimant{byService, f.object.Key}, object: f.object, value: hostWay{service: true}})
		}
	}
}
