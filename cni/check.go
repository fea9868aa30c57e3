// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

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
			return err
		}
	}
	reply, err := a.control.Check(ctx, &attach.CheckRequest{Key: a.key})
	if err != nil {
		return answered("viaduct-control: the interface is not in force", err)
	}
	p, err := parse(reply)
	if err != nil {
		return fail(types.ErrDecodingFailure, "read viaduct-control's answer", err)
	}
	differences, err := a.differences(p, mine.Mac, mine.Mtu)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return types.NewError(errDiffers, "the interface is not as ADD left it", line(strings.Join(differences, "; ")))
	}
	return nil
}

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
	var d []string
	device, err := a.host.LinkByName(a.names.device)
	if err != nil && !absent(err) {
		return nil, fail(types.ErrIOFailure, "find "+a.names.device, err)
	}
	switch {
	case err != nil:
		return []string{fmt.Sprintf("the host has no %s", a.names.device)}, nil
	case !a.names.owns(device):
		d = append(d, fmt.Sprintf("%s is another attachment's: its alias is %q", a.names.device, device.Attrs().Alias))
	}
	d = append(d, state(a.names.device, device, "", linkMTU)...)
	inside, err := a.sandbox.links.LinkByName(a.key.Interface)
	if err != nil && !absent(err) {
		return nil, fail(types.ErrIOFailure, "find "+a.key.Interface+" in the container", err)
	}
	if err != nil {
		return append(d, fmt.Sprintf("the container has no %s", a.key.Interface)), nil
	}
	if !a.peers(device, inside) {
		d = append(d, fmt.Sprintf("%s is not the other end of %s", a.key.Interface, a.names.device))
	}
	d = append(d, state(a.key.Interface, inside, mac, mtu)...)
	d, err = a.missingAddresses(d, p, inside)
	if err != nil {
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

// missingRoutes lists routes that are not in any table: sbr behind this plugin moves them to one of the interface's.
func (a *attachment) missingRoutes(d []string, p *plan, index int) ([]string, error) {
	for _, r := range p.routes {
		routes, err := a.to(r.destination)
		if err != nil {
			return nil, fail(types.ErrIOFailure, "look at the container's routes", err)
		}
		d = append(d, p.compare(r, routes, index)...)
	}
	return d, nil
}

// compare says how what there is to a destination differs. Another interface's route is as well.
func (p *plan) compare(want planned, have []netlink.Route, index int) []string {
	if len(have) == 0 {
		return []string{fmt.Sprintf("no route to %v", want.destination)}
	}
	for _, h := range have {
		gateway := p.gateways[want.destination.Addr().Is4()]
		if h.LinkIndex != index || h.Gw.Equal(gateway.AsSlice()) && h.MTU == want.mtu {
			return nil
		}
	}
	return []string{fmt.Sprintf("the route to %v is %v, not by %v with MTU %d", want.destination, have[0],
		p.gateways[want.destination.Addr().Is4()], want.mtu)}
}
