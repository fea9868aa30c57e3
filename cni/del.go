// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// del undoes an ADD, whole or half. What is gone already, with the namespace or before, is well: it may be called any
// number of times. It needs neither CNI_NETNS nor what only an ADD asks for, and not control either, which removes by
// itself what has no device any more.
func del(ctx context.Context, args *skel.CmdArgs) error {
	c, err := load(args)
	if err != nil {
		return err
	}
	a := &attachment{args: args, config: c}
	a.key = &attach.Key{Network: c.Name, Container: args.ContainerID, Interface: args.IfName}
	a.names = name(a.key)
	defer a.close()
	if a.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fail(types.ErrIOFailure, "open netlink", err)
	}
	a.control, _ = dial(ctx, c)
	return a.remove(ctx)
}

// removeWithin is how long control may take to remove an attachment. What it does not hear of it sweeps.
const removeWithin = 5 * time.Second

// remove removes the device, and only then gives the addresses back, so that nobody has them while the container
// does. Each is tried whatever became of the one before.
func (a *attachment) remove(ctx context.Context) error {
	removed := unpair(a.host, a.names.owns, a.names.device)
	var errs []error
	if a.control != nil {
		bounded, cancel := context.WithTimeout(ctx, removeWithin) // the IPAM plugin has to have time
		defer cancel()
		_, err := a.control.Remove(bounded, &attach.RemoveRequest{Key: a.key})
		never := status.Code(err) == codes.InvalidArgument // nothing can be attached by such a key
		if err != nil && !never && !isAway(err) {
			errs = append(errs, answered("viaduct-control did not remove the interface", err))
		}
	}
	if a.config.delegated() {
		errs = append(errs, a.config.ipamError(invoke.DelegateDel(ctx, a.config.IPAM.Type, a.args.StdinData, nil)))
	}
	return first(append(errs, <-removed))
}
