// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// plan is what the interface in the container is to be like: control's answer, parsed.
type plan struct {
	mtu       int // bytes, of the link
	addresses []netip.Addr
	gateways  map[bool]netip.Addr // by whether it is IPv4
	routes    []planned
}

type planned struct {
	destination netip.Prefix
	mtu         int // bytes; 0: the link's
}

func parse(reply *attach.AddReply) (*plan, error) {
	p := &plan{mtu: int(reply.Mtu), gateways: map[bool]netip.Addr{}}
	for _, s := range reply.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		p.addresses = append(p.addresses, a)
	}
	for _, s := range reply.Gateways {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		p.gateways[a.Is4()] = a
	}
	for _, r := range reply.Routes {
		d, err := netip.ParsePrefix(r.Destination)
		if err != nil {
			return nil, err
		}
		if !p.gateways[d.Addr().Is4()].IsValid() {
			return nil, fmt.Errorf("route %v has no gateway", d)
		}
		p.routes = append(p.routes, planned{d.Masked(), int(r.Mtu)})
	}
	if len(p.addresses) == 0 || p.mtu == 0 {
		return nil, errors.New("no address, or no MTU")
	}
	return p, nil
}

// wire gives the interface its addresses, brings it up, and adds its routes. A destination that the namespace has a
// route for by another interface, such as the default of several interfaces, stays that one's.
func (a *attachment) wire(p *plan) error {
	link, err := a.sandbox.links.LinkByName(a.key.Interface)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", a.key.Interface, err)
	}
	if slices.ContainsFunc(p.addresses, netip.Addr.Is6) {
		if err := a.sandbox.enableIPv6(a.key.Interface); err != nil {
			return fmt.Errorf("enable IPv6 on %s: %w", a.key.Interface, err)
		}
	}
	for _, address := range p.addresses {
		// Nobody else has a leased address: to wait for an objection would only delay the container.
		err := a.sandbox.links.AddrAdd(link, &netlink.Addr{IPNet: host(address), Flags: unix.IFA_F_NODAD})
		if err != nil {
			return fmt.Errorf("add %v to %s: %w", address, a.key.Interface, err)
		}
	}
	if p.mtu != link.Attrs().MTU {
		if err := a.sandbox.links.LinkSetMTU(link, p.mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", a.key.Interface, p.mtu, err)
		}
	}
	if err := a.sandbox.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s in the container: %w", a.key.Interface, err)
	}
	return a.addRoutes(p, link.Attrs().Index)
}

// host is the subnet of one address.
func host(a netip.Addr) *net.IPNet { return network(netip.PrefixFrom(a, a.BitLen())) }

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addRoutes adds the routes.
func (a *attachment) addRoutes(p *plan, index int) error {
	if gateway, has := p.gateways[true]; has {
		// IPv4 wants a gateway to be on a link. Each interface may have a route that says so, for what picks by interface.
		err := a.sandbox.links.RouteAppend(&netlink.Route{
			LinkIndex: index, Dst: host(gateway), Scope: netlink.SCOPE_LINK})
		if err != nil {
			return fmt.Errorf("add the route to %v: %w", gateway, err)
		}
	}
	if err := a.yield(p, index); err != nil {
		return err
	}
	for _, r := range p.routes {
		if err := a.sandbox.links.RouteAdd(p.route(r, index)); err != nil {
			return fmt.Errorf("add the route to %v: %w", r.destination, err)
		}
	}
	return nil
}

func (p *plan) route(r planned, index int) *netlink.Route {
	gateway := p.gateways[r.destination.Addr().Is4()]
	return &netlink.Route{LinkIndex: index, Dst: network(r.destination), Gw: gateway.AsSlice(), MTU: r.mtu}
}

// yield drops routes from the plan to which another interface of the container has one in the main table.
func (a *attachment) yield(p *plan, index int) error {
	var mine []planned
	for _, r := range p.routes {
		routes, err := a.to(r.destination)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(routes, func(h netlink.Route) bool { return h.LinkIndex != index }) {
			mine = append(mine, r)
		}
	}
	p.routes = mine
	return nil
}

// to lists the main table's routes to exactly one destination.
func (a *attachment) to(destination netip.Prefix) ([]netlink.Route, error) {
	routes, err := a.sandbox.links.RouteListFiltered(family(destination.Addr()),
		&netlink.Route{Dst: network(destination), Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the container's routes: %w", err)
	}
	return routes, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
