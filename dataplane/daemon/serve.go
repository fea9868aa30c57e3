// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/internal/process"
)

// serve answers the CLI on a unix socket until the context ends.
func (d *daemon) serve(ctx context.Context) error {
	listener, err := process.Listen(ctx, filepath.Join(d.o.Run, "dataplane.sock"))
	if err != nil {
		return err
	}
	s := grpc.NewServer() // the permissions of the socket say who may look
	api.RegisterDataplaneServer(s, &server{f: d.f, status: d.status})
	context.AfterFunc(ctx, s.Stop)
	if err := s.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// status is the forwarder's, with how control and the state file are.
func (d *daemon) status() *api.StatusReply {
	s := d.f.Status()
	s.TablesFrom = d.from.Load().(string)
	s.ControlLink, s.StateFile = d.client.Status(), d.file.Status()
	if !s.ControlLink.Connected {
		s.Degraded = append(s.Degraded, &api.Degradation{Subject: "control", Reason: "is away: " + s.ControlLink.Error})
	}
	if trouble := s.StateFile.Trouble; trouble != "" {
		s.Degraded = append(s.Degraded, &api.Degradation{Subject: "state file", Reason: trouble})
	}
	slices.SortFunc(s.Degraded, func(a, b *api.Degradation) int { return cmp.Compare(a.Subject, b.Subject) })
	return s
}

// server answers from the forwarder.
type server struct {
	api.UnimplementedDataplaneServer
	f      *forwarder.Forwarder
	status func() *api.StatusReply
}

func (s *server) Status(context.Context, *api.StatusRequest) (*api.StatusReply, error) {
	return s.status(), nil
}

func (s *server) Ports(_ context.Context, r *api.PortsRequest) (*api.PortsReply, error) {
	if err := s.known(r.Name); err != nil {
		return nil, err
	}
	return s.f.Ports(r.Name), nil
}

func (s *server) Neighbors(_ context.Context, r *api.NeighborsRequest) (*api.NeighborsReply, error) {
	if err := s.known(r.Port); err != nil {
		return nil, err
	}
	return s.f.NeighborList(r.Port), nil
}

func (s *server) Ledger(_ context.Context, r *api.LedgerRequest) (*api.LedgerReply, error) {
	if err := s.known(r.Port); err != nil {
		return nil, err
	}
	return s.f.Report(r.Port), nil
}

func (s *server) Routes(r *api.RoutesRequest, stream grpc.ServerStreamingServer[api.RoutesReply]) error {
	routes, epoch, err := s.f.Routes(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return inParts(routes, func(part []*api.Route) error {
		return stream.Send(&api.RoutesReply{Epoch: epoch, Routes: part})
	})
}

func (s *server) Identities(r *api.IdentitiesRequest, stream grpc.ServerStreamingServer[api.IdentitiesReply]) error {
	identities, epoch, err := s.f.Identities(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return inParts(identities, func(part []*api.Identity) error {
		return stream.Send(&api.IdentitiesReply{Epoch: epoch, Identities: part})
	})
}

func (s *server) Policies(r *api.PoliciesRequest, stream grpc.ServerStreamingServer[api.PoliciesReply]) error {
	policies, epoch, err := s.f.Policies(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return inParts(slices.Values(policies), func(part []*api.Policy) error {
		return stream.Send(&api.PoliciesReply{Epoch: epoch, Policies: part})
	})
}

func (s *server) Services(r *api.ServicesRequest, stream grpc.ServerStreamingServer[api.ServicesReply]) error {
	services, err := s.f.Services(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return inParts(services, func(part []*api.Service) error {
		return stream.Send(&api.ServicesReply{Services: part})
	})
}

func (s *server) Flows(r *api.FlowsRequest, stream grpc.ServerStreamingServer[api.FlowsReply]) error {
	if err := s.known(r.Port); err != nil {
		return err
	}
	flows, err := s.f.Flows(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return inParts(flows, func(part []*api.Flow) error { return stream.Send(&api.FlowsReply{Flows: part}) })
}

func (s *server) Denials(_ context.Context, r *api.DenialsRequest) (*api.DenialsReply, error) {
	if err := s.known(r.Port); err != nil {
		return nil, err
	}
	reply, err := s.f.Denials(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return reply, nil
}

func (s *server) Explain(_ context.Context, r *api.ExplainRequest) (*api.ExplainReply, error) {
	reply, err := s.f.Explain(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return reply, nil
}

// atOnce is how many objects one message of a stream carries.
const atOnce = 1000

// inParts sends a list in parts, the last of which may be empty.
func inParts[T any](list iter.Seq[T], send func([]T) error) error {
	var part []T
	for e := range list {
		part = append(part, e)
		if len(part) == atOnce {
			if err := send(part); err != nil {
				return err
			}
			part = nil
		}
	}
	return send(part)
}

// known refuses the name of a port that does not exist.
func (s *server) known(port string) error {
	if port != "" && !s.f.HasPort(port) {
		return status.Errorf(codes.NotFound, "no port is named %q; \"viaduct ports\" lists them", port)
	}
	return nil
}

// serveMetrics serves Prometheus metrics until the context ends.
func (d *daemon) serveMetrics(ctx context.Context) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(forwarder.NewCollector(d.f), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "viaduct_control_connected", Help: "Whether the stream from control is open.",
	}, func() float64 {
		if d.client.Status().Connected {
			return 1
		}
		return 0
	}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", d.o.Metrics)
	if err != nil {
		return &process.SetUpError{Err: fmt.Errorf("listen for metrics: %w", err)}
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
