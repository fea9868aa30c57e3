// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// again is for an ADD that finds a device of its name. One that an ADD completed stands: its result is returned once
// more. What an ADD left that was killed is removed, and neither result nor error returned. What is somebody else's is
// an error, and not touched.
func (a *attachment) again(ctx context.Context) (*current.Result, error) {
	device, inside, err := a.found()
	if err != nil {
		return nil, err
	}
	if device != nil && inside != nil && inside.Attrs().Flags&net.FlagUp != 0 {
		if result, err := a.standing(ctx, inside); result != nil || err != nil {
			return result, err
		}
	}
	if err := a.remove(ctx); err != nil {
		return nil, fail(types.ErrIOFailure, "remove what an earlier ADD left", err)
	}
	return nil, nil
}

// found returns the pair's ends that are there, nil for one that is not, and an error for what is not ours.
func (a *attachment) found() (device, inside netlink.Link, err error) {
	if device, err = find(a.host, a.names.device); err != nil {
		return nil, nil, err
	}
	if device != nil && !a.names.owns(device) {
		return nil, nil, types.NewError(errForeign, "the host has another device "+a.names.device, "")
	}
	if inside, err = find(a.sandbox.links, a.key.Interface); err != nil {
		return nil, nil, err
	}
	if inside != nil && (device == nil || !a.peers(device, inside)) {
		return nil, nil, argument("CNI_IFNAME: the container has another interface %s", a.key.Interface)
	}
	return device, inside, nil
}

// standing returns the result of an ADD that was completed in the same words, nil when there is none: control answers
// the same, and the interface is what it answers.
func (a *attachment) standing(ctx context.Context, inside netlink.Link) (*current.Result, error) {
	p, err := a.recall(ctx, inside.Attrs().Index)
	if p == nil || err != nil {
		return nil, err
	}
	if err := a.yield(p, inside.Attrs().Index); err != nil {
		return nil, fail(types.ErrIOFailure, "look at the container's routes", err)
	}
	alone := *p
	alone.routes = nil
	for _, r := range p.routes {
		if r.destination.Bits() == 0 { // the others, and MTUs, may have changed since with the node's settings
			alone.routes = append(alone.routes, planned{r.destination, anyMTU})
		}
	}
	differences, err := a.differences(&alone, a.mac().String(), p.mtu)
	if err != nil || len(differences) > 0 {
		return nil, err
	}
	return a.result(p), nil
}

// recall is what an earlier ADD was answered, nil for nothing. Where an IPAM plugin gave the addresses, which gives
// them only once, control's record has them, and the container the routes.
func (a *attachment) recall(ctx context.Context, index int) (*plan, error) {
	if !a.config.delegated() {
		return a.ask(ctx)
	}
	reply, err := a.control.Check(ctx, &attach.CheckRequest{Key: a.key, HostPorts: a.wanted.hostPorts})
	if err = answered("viaduct-control does not answer for the interface", err); code(err) == errDiffers {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	routes, err := a.sandbox.links.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index},
		netlink.RT_FILTER_OIF)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fail(types.ErrIOFailure, "list the container's routes", err)
	}
	given := &current.Result{}
	for _, r := range routes {
		if r.Gw != nil && r.Dst != nil {
			given.Routes = append(given.Routes, &types.Route{Dst: *r.Dst})
		}
	}
	addRoutes(reply, given)
	return read(reply)
}
