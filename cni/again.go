// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
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
		if result, err := a.standing(ctx); result != nil || err != nil {
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
	device, err = a.host.LinkByName(a.names.device)
	if err != nil && !absent(err) {
		return nil, nil, fail(types.ErrIOFailure, "find "+a.names.device, err)
	}
	if err == nil && !a.names.owns(device) {
		return nil, nil, types.NewError(errForeign, "the host has another device "+a.names.device, "")
	}
	inside, insideErr := a.sandbox.links.LinkByName(a.key.Interface)
	if insideErr != nil && !absent(insideErr) {
		return nil, nil, fail(types.ErrIOFailure, "find "+a.key.Interface+" in the container", insideErr)
	}
	if err != nil {
		device = nil
	}
	if insideErr != nil {
		return device, nil, nil
	}
	if device == nil || !a.peers(device, inside) {
		return nil, nil, argument("CNI_IFNAME: the container has another interface %s", a.key.Interface)
	}
	return device, inside, nil
}

// standing returns the result of an ADD that was completed in the same words, nil when there is none: control answers
// the same for the same, and the interface is what it answers.
func (a *attachment) standing(ctx context.Context) (*current.Result, error) {
	if a.config.delegated() {
		return nil, nil
	}
	p, err := a.ask(ctx)
	if err != nil {
		return nil, err
	}
	differences, err := a.differences(p, a.mac().String(), 0)
	if err != nil || len(differences) > 0 {
		return nil, err
	}
	return a.result(p), nil
}
