// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// report (STATUS) says when ADD would fail, and why: code 50, or 51 when pods that are there may be cut off, too.
func report(ctx context.Context, args *skel.CmdArgs) error {
	c, err := load(args)
	if err != nil {
		return err
	}
	if _, err := c.wants(&skel.CmdArgs{}); err != nil {
		return err
	}
	control, err := dial(ctx, c)
	if e := (*types.Error)(nil); errors.As(err, &e) {
		return types.NewError(types.ErrPluginNotAvailable, e.Msg, e.Details)
	}
	if err != nil {
		return err
	}
	defer control.close()
	if _, err := control.Ready(ctx, &attach.ReadyRequest{Leases: !c.delegated()}); err != nil {
		why, code := status.Convert(err), types.ErrPluginNotAvailable
		if why.Code() == codes.FailedPrecondition {
			code = types.ErrLimitedConnectivity
		}
		return fail(code, "no interface can be added", errors.New(why.Message()))
	}
	if c.delegated() {
		return c.ipamError(invoke.DelegateStatus(ctx, c.IPAM.Type, args.StdinData, nil))
	}
	return nil
}
