// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/ttrpc"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// control is a connection to the daemon that leases addresses and has ports made.
type control struct {
	attach.AttachmentsService
	connection *ttrpc.Client
}

// dial connects to control. That it is away can pass: it is code 11.
func dial(ctx context.Context, c *config) (*control, error) {
	connection, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket())
	if err != nil {
		return nil, fail(types.ErrTryAgainLater, "viaduct-control is not there",
			fmt.Errorf("%w: start viaduct-control with --run %s", err, c.RunDir))
	}
	client := ttrpc.NewClient(connection)
	return &control{attach.NewAttachmentsClient(client), client}, nil
}

func (c *control) close() { c.connection.Close() }
