// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/perf/peer"
)

// serviceWatch asks viaduct's dataplane what it has in force. That of the kernel's subjects has nothing to ask: what
// they change is in force at once.
type serviceWatch struct {
	conn   *grpc.ClientConn // nil: the kernel's
	client api.DataplaneClient
	epoch  uint64
}

func watchServices(subject *peer.Balanced) (*serviceWatch, error) {
	if subject.Network() == nil {
		return &serviceWatch{}, nil
	}
	conn, err := process.Dial(subject.Network().Socket())
	if err != nil {
		return nil, err
	}
	return &serviceWatch{conn: conn, client: api.NewDataplaneClient(conn)}, nil
}

func (w *serviceWatch) close() {
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// ready notes the epoch before a change.
func (w *serviceWatch) ready(ctx context.Context) error {
	if w.conn == nil {
		return nil
	}
	before, err := w.client.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask the dataplane: %w", err)
	}
	w.epoch = before.Epoch
	return nil
}

// await returns how long it is since start when the service has a backend with the address.
func (w *serviceWatch) await(ctx context.Context, start time.Time, name string, backend netip.Addr,
) (time.Duration, error) {
	if w.conn == nil {
		return time.Since(start), nil
	}
	for {
		now, err := w.client.Status(ctx, &api.StatusRequest{})
		if err != nil {
			return 0, fmt.Errorf("wait for %s: %w", name, err)
		}
		took := time.Since(start)
		if now.Epoch != w.epoch {
			w.epoch = now.Epoch
			if has, err := w.has(ctx, name, backend); err != nil || has {
				return took, err
			}
		}
		if err := sleep(ctx, 200*time.Microsecond); err != nil {
			return 0, fmt.Errorf("%s, which was written, is not in force: %w", name, err)
		}
	}
}

// has says whether the service in force has a backend with the address.
func (w *serviceWatch) has(ctx context.Context, name string, backend netip.Addr) (bool, error) {
	stream, err := w.client.Services(ctx, &api.ServicesRequest{Name: name})
	if err != nil {
		return false, fmt.Errorf("ask for %s: %w", name, err)
	}
	want, found := backend.String(), false
	for {
		reply, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return false, fmt.Errorf("ask for %s: %w", name, err)
		}
		for _, s := range reply.Services {
			found = found || slices.ContainsFunc(s.Backends, func(b *api.Backend) bool {
				return b.Address == want && b.State != "draining"
			})
		}
	}
}
