// SPDX-License-Identifier: Apache-2.0

package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
)

// tables are what is in force, a line for each entry, in order.
type tables struct{ ports, routes, identities []string }

// ask lets f put questions to a daemon of the site, for as long as a question may take.
func (s *site) ask(socket string, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := process.Dial(filepath.Join(s.run, socket))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return f(ctx, conn)
}

// dataplaneStatus is what the dataplane says of itself.
func (s *site) dataplaneStatus() (status *api.StatusReply, err error) {
	err = s.ask("dataplane.sock", func(ctx context.Context, c *grpc.ClientConn) error {
		status, err = api.NewDataplaneClient(c).Status(ctx, &api.StatusRequest{})
		return err
	})
	return status, err
}

// controlStatus is what control says of itself.
func (s *site) controlStatus() (status *controlapi.StatusReply, err error) {
	err = s.ask("control.sock", func(ctx context.Context, c *grpc.ClientConn) error {
		status, err = controlapi.NewControlClient(c).Status(ctx, &controlapi.StatusRequest{})
		return err
	})
	return status, err
}

// replies are the tables as the dataplane says them.
type replies struct {
	ports      *api.PortsReply
	routes     *api.RoutesReply
	identities *api.IdentitiesReply
}

func (s *site) replies() (r replies, err error) {
	err = s.ask("dataplane.sock", func(ctx context.Context, conn *grpc.ClientConn) error {
		c := api.NewDataplaneClient(conn)
		if r.ports, err = c.Ports(ctx, &api.PortsRequest{}); err != nil {
			return err
		}
		if r.routes, err = gather(c.Routes(ctx, &api.RoutesRequest{})); err != nil {
			return err
		}
		r.identities, err = gather(c.Identities(ctx, &api.IdentitiesRequest{}))
		return err
	})
	return r, err
}

// gather puts the messages of a stream into one.
func gather[T any, P interface {
	*T
	proto.Message
}](stream grpc.ServerStreamingClient[T], err error) (*T, error) {
	all := new(T)
	if err != nil {
		return nil, err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(P(all), P(part))
	}
}

// tables reads what is in force and makes lines of it.
func (s *site) tables() (t tables, err error) {
	r, err := s.replies()
	if err != nil {
		return t, err
	}
	for _, p := range r.ports.Ports {
		t.ports = append(t.ports, fmt.Sprintf("%s on %s %v %v", p.Name, p.Device, p.Addresses, p.State))
	}
	for _, route := range r.routes.Routes {
		if strings.HasPrefix(route.Origin, "Route ") || strings.HasPrefix(route.Origin, "Node ") {
			t.routes = append(t.routes, routeLine(route))
		}
	}
	for _, i := range r.identities.Identities {
		for _, p := range i.Prefixes {
			t.identities = append(t.identities, fmt.Sprintf("%s %s %s %v %v", p.Prefix, i.Kind, i.Namespace, i.Labels,
				i.NamespaceLabels))
		}
	}
	slices.Sort(t.ports)
	slices.Sort(t.routes)
	slices.Sort(t.identities)
	return t, nil
}

func routeLine(r *api.Route) string {
	var hops []string
	for _, h := range r.Hops {
		hops = append(hops, fmt.Sprintf("%s via %s weight %d mtu %d", h.Port, h.Via, h.Weight, h.Mtu))
	}
	slices.Sort(hops)
	return fmt.Sprintf("%s %s %q", r.Destination, r.Kind, hops)
}

// differ says in which lines two tables differ.
func (t tables) differ(want tables) error {
	return errors.Join(lines("ports", t.ports, want.ports), lines("routes", t.routes, want.routes),
		lines("identities", t.identities, want.identities))
}

func lines(what string, got, want []string) error {
	var b strings.Builder
	for len(got) > 0 || len(want) > 0 {
		var order int
		switch {
		case len(got) == 0:
			order = 1
		case len(want) == 0:
			order = -1
		default:
			order = cmp.Compare(got[0], want[0])
		}
		if order < 0 {
			fmt.Fprintf(&b, "  too many: %s\n", got[0])
		}
		if order > 0 {
			fmt.Fprintf(&b, "  missing:  %s\n", want[0])
		}
		if order <= 0 {
			got = got[1:]
		}
		if order >= 0 {
			want = want[1:]
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return fmt.Errorf("%s:\n%s", what, b.String())
}
