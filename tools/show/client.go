// SPDX-License-Identifier: Apache-2.0

// Package show is the commands that print what a running dataplane has in force: each asks for one message over the
// dataplane's unix socket and prints it as a table or as JSON.
package show

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
)

// Timeout bounds one question to the dataplane.
const Timeout = 10 * time.Second

// Client asks one dataplane, and the control of the same run directory.
type Client struct {
	conn    *grpc.ClientConn
	rpc     api.DataplaneClient
	control string // path of control's socket
	absence error  // why there is no dataplane to ask; nil: there is one
}

// withoutDataplane is a client that asks control alone.
func withoutDataplane(run string, absence error) *Client {
	return &Client{control: filepath.Join(run, controlSocket), absence: absence}
}

// controlSocket is control's in the run directory.
const controlSocket = "control.sock"

// Connect opens the dataplane's socket in the run directory. Its error says in one line what to do.
func Connect(run string) (*Client, error) {
	path := filepath.Join(run, "dataplane.sock")
	if err := reachable(path, "dataplane"); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///dataplane",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return &Client{conn: conn, rpc: api.NewDataplaneClient(conn), control: filepath.Join(run, controlSocket)}, nil
}

// reachable says in one line what to do where no such daemon listens.
func reachable(path, daemon string) error {
	c, err := net.DialTimeout("unix", path, Timeout)
	switch {
	case err == nil:
		return c.Close()
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is not ours to open: run as root", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no %[1]s answers on %[2]s: is viaduct-%[1]s running? --run names its directory", daemon, path)
	}
	return fmt.Errorf("connect to %s: %w", path, err)
}

// Close releases the connection.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Status asks how the dataplane is.
func (c *Client) Status(ctx context.Context) (*api.StatusReply, error) {
	return plain(c.rpc.Status(ctx, &api.StatusRequest{}))
}

// Control asks how control is.
func (c *Client) Control(ctx context.Context) (*controlapi.StatusReply, error) {
	return askControl(c.control, func(rpc controlapi.ControlClient) (*controlapi.StatusReply, error) {
		return rpc.Status(ctx, &controlapi.StatusRequest{})
	})
}

// Pod asks control where a pod is.
func (c *Client) Pod(ctx context.Context, namespace, name string) (*controlapi.PodReply, error) {
	return askControl(c.control, func(rpc controlapi.ControlClient) (*controlapi.PodReply, error) {
		return rpc.Pod(ctx, &controlapi.PodRequest{Namespace: namespace, Name: name})
	})
}

// askControl asks the control on a socket one thing.
func askControl[T any](path string, ask func(controlapi.ControlClient) (*T, error)) (*T, error) {
	if err := reachable(path, "control"); err != nil {
		return nil, err
	}
	conn, err := process.Dial(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return plain(ask(controlapi.NewControlClient(conn)))
}

// Ports asks for the ports in force, or for the one named.
func (c *Client) Ports(ctx context.Context, name string) (*api.PortsReply, error) {
	return plain(c.rpc.Ports(ctx, &api.PortsRequest{Name: name}))
}

// Neighbors asks for the neighbour cache, or for one port's part of it.
func (c *Client) Neighbors(ctx context.Context, port string) (*api.NeighborsReply, error) {
	return plain(c.rpc.Neighbors(ctx, &api.NeighborsRequest{Port: port}))
}

// Ledger asks what became of every packet, or of those of one port.
func (c *Client) Ledger(ctx context.Context, port string) (*api.LedgerReply, error) {
	return plain(c.rpc.Ledger(ctx, &api.LedgerRequest{Port: port}))
}

// Routes asks for the routes in force and gathers the stream into one reply.
func (c *Client) Routes(ctx context.Context, ask *api.RoutesRequest) (*api.RoutesReply, error) {
	all := &api.RoutesReply{}
	stream, err := c.rpc.Routes(ctx, ask)
	return all, gather(stream, err, func(part *api.RoutesReply) {
		all.Epoch = part.Epoch
		all.Routes = append(all.Routes, part.Routes...)
	})
}

// Identities asks for the identities in force and gathers the stream into one reply.
func (c *Client) Identities(ctx context.Context, ask *api.IdentitiesRequest) (*api.IdentitiesReply, error) {
	all := &api.IdentitiesReply{}
	stream, err := c.rpc.Identities(ctx, ask)
	return all, gather(stream, err, func(part *api.IdentitiesReply) {
		all.Epoch = part.Epoch
		all.Identities = append(all.Identities, part.Identities...)
	})
}

// gather calls add with every part of a stream that was opened with err.
func gather[T any](stream grpc.ServerStreamingClient[T], err error, add func(*T)) error {
	for err == nil {
		var part *T
		if part, err = stream.Recv(); err == nil {
			add(part)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	_, err = plain[any](nil, err)
	return err
}

// plain takes gRPC's wrapping off an error, which tells a person nothing.
func plain[T any](reply T, err error) (T, error) {
	if s, ok := grpcstatus.FromError(err); ok && err != nil {
		err = errors.New(s.Message())
	}
	return reply, err
}
