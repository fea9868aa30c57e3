// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// result is what ADD says: what the plugins before said, and behind it the interfaces of this one: the host's end, and
// the container's, which has the addresses.
func (a *attachment) result(p *plan) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	if a.previous != nil {
		*r = *a.previous
	}
	r.Interfaces = append(r.Interfaces,
		&current.Interface{Name: a.names.device, Mac: a.names.hostMAC.String(), Mtu: linkMTU},
		&current.Interface{
			Name: a.key.Interface, Mac: a.mac().String(), Mtu: p.mtu, Sandbox: a.sandbox.path},
	)
	inside := len(r.Interfaces) - 1
	for _, address := range p.addresses {
		ip := &current.IPConfig{Interface: current.Int(inside), Address: *host(address)}
		if gateway := p.gateways[address.Is4()]; gateway.IsValid() {
			ip.Gateway = gateway.AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	for _, route := range p.routes {
		gateway := p.gateways[route.destination.Addr().Is4()]
		r.Routes = append(r.Routes, &types.Route{
			Dst: *network(route.destination), GW: net.IP(gateway.AsSlice()), MTU: route.mtu})
	}
	if dns := a.dns(); !dns.IsEmpty() {
		r.DNS = dns
	}
	return r
}

// dns is the configuration's, else the IPAM plugin's.
func (a *attachment) dns() types.DNS {
	if a.config.DNS.IsEmpty() && a.given != nil {
		return a.given.DNS
	}
	return a.config.DNS
}
