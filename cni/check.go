// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// check names everything that is not as ADD left it: devices, addresses, routes, and, as control says, the hook and
// the tables. What plugins behind this one have changed is in prevResult, and is right.
func check(ctx context.Context, args *skel.CmdArgs) error {
	a, err := open(ctx, args)
	if err != nil {
		return err
	}
	defer a.close()
	if a.previous == nil {
		return invalid("CHECK without prevResult")
	}
	mine := a.mine()
	if mine == nil {
		return types.NewError(errDiffers, "prevResult does not have the interface",
			fmt.Sprintf("no %s in %s", a.key.Interface, a.sandbox.path))
	}
	if a.config.delegated() {
		if err := invoke.DelegateCheck(ctx, a.config.IPAM.Type, args.StdinData, nil); err != nil {
			return a.config.ipamError(err)
		}
	}
	reply, err := a.control.Check(ctx, &attach.CheckRequest{Key: a.key, HostPorts: a.wanted.hostPorts})
	if err != nil {
		return answered("viaduct-control: the interface is not in force", err)
	}
	p, err := read(reply)
	if err != nil {
		return err
	}
	p.routes = a.granted(p) // not those of today's settings
	differences, err := a.differences(p, mine.Mac, mine.Mtu)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return types.NewError(errDiffers, "the interface is not as ADD left it", line(strings.Join(differences, "; ")))
	}
	return nil
}

// granted are the routes by our gateways that prevResult has. Before version 1.1.0 it does not tell their MTUs.
func (a *attachment) granted(p *plan) (routes []planned) {
	for _, r := range a.previous.Routes {
		if r == nil {
			continue
		}
		destination, ok := prefixOf(r.Dst)
		if ok && r.GW.Equal(p.gateways[destination.Addr().Is4()].AsSlice()) {
			mtu := r.MTU
			if mtu == 0 {
				mtu = anyMTU
			}
			routes = append(routes, planned{destination, mtu})
		}
	}
	return routes
}

// anyMTU is that of a route of which it is not known.
const anyMTU = -1

// mine is the container's interface in prevResult.
func (a *attachment) mine() *current.Interface {
	for _, i := range a.previous.Interfaces {
		if i != nil && i.Name == a.key.Interface && i.Sandbox == a.sandbox.path {
			return i
		}
	}
	return nil
}

// differences lists how the interface differs from the plan, its MAC, and its MTU unless that is 0.
func (a *attachment) differences(p *plan, mac string, mtu int) ([]string, error) {
	device, err := find(a.host, a.names.device)
	if err != nil {
		return nil, err
	}
	inside, err := find(a.sandbox.links, a.key.Interface)
	switch {
	case err != nil:
		return nil, err
	case device == nil:
		return []string{"the host has no " + a.names.device}, nil
	case inside == nil:
		return []string{"the container has no " + a.key.Interface}, nil
	}
	var d []string
	if !a.names.owns(device) {
		d = append(d, fmt.Sprintf("%s is another's: its alias is %q", a.names.device, device.Attrs().Alias))
	}
	if !a.peers(device, inside) {
		d = append(d, fmt.Sprintf("%s is not the other end of %s", a.key.Interface, a.names.device))
	}
	d = append(d, state(a.names.device, device, "", linkMTU)...)
	d = append(d, state(a.key.Interface, inside, mac, mtu)...)
	if d, err = a.missingAddresses(d, p, inside); err != nil {
		return nil, err
	}
	return a.missingRoutes(d, p, inside.Attrs().Index)
}

// state lists what is wrong with a device itself; an empty MAC and an MTU of 0 are any.
func state(name string, l netlink.Link, mac string, mtu int) (d []string) {
	attrs := l.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		d = append(d, name+" is down")
	}
	if mac != "" && !strings.EqualFold(attrs.HardwareAddr.String(), mac) {
		d = append(d, fmt.Sprintf("%s has MAC %v, not %s", name, attrs.HardwareAddr, mac))
	}
	if mtu != 0 && attrs.MTU != mtu {
		d = append(d, fmt.Sprintf("%s has MTU %d, not %d", name, attrs.MTU, mtu))
	}
	return d
}

func (a *attachment) missingAddresses(d []string, p *plan, inside netlink.Link) ([]string, error) {
	have, err := a.sandbox.links.AddrList(inside, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fail(types.ErrIOFailure, "list the container's addresses", err)
	}
	for _, address := range p.addresses {
		want := host(address).String()
		if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == want }) {
			d = append(d, fmt.Sprintf("%s has no address %s", a.key.Interface, want))
		}
	}
	return d, nil
}

// missingRoutes lists routes that are not there. Another interface's route in the main table is as good as ours; so is
// one of ours in another table, where sbr behind this plugin moves what it keeps.
func (a *attachment) missingRoutes(d []string, p *plan, index int) ([]string, error) {
	if err := a.yield(p, index); err != nil {
		return nil, fail(types.ErrIOFailure, "look at the container's routes", err)
	}
	have, err := a.sandbox.links.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fail(types.ErrIOFailure, "list the container's routes", err)
	}
	for _, want := range p.routes {
		if !slices.ContainsFunc(have, func(h netlink.Route) bool { return p.serves(want, h) }) {
			missing := fmt.Sprintf("no route to %v by %v", want.destination, p.gateways[want.destination.Addr().Is4()])
			if want.mtu > 0 {
				missing += fmt.Sprintf(" with MTU %d", want.mtu)
			}
			d = append(d, missing)
		}
	}
	return d, nil
}

// serves says whether the interface's route is as planned, or in a table of its own leads as far.
func (p *plan) serves(want planned, have netlink.Route) bool {
	if have.Dst == nil || !have.Gw.Equal(p.gateways[want.destination.Addr().Is4()].AsSlice()) {
		return false
	}
	destination, ok := prefixOf(*have.Dst)
	if have.Table != unix.RT_TABLE_MAIN {
		return ok && destination.Contains(want.destination.Addr())
	}
	return destination == want.destination && (have.MTU == want.mtu || want.mtu == anyMTU)
}
