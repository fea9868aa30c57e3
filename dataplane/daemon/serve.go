// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
)

// serve answers the CLI on a unix socket until the context ends. The socket is for root and its group.
func serve(ctx context.Context, f *forwarder.Forwarder, path string) error {
	_ = os.Remove(path) // of a process that was killed: the run directory's lock says that it is ours
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return &SetUpError{fmt.Errorf("listen on %s: %w", path, err)}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return &SetUpError{errors.Join(err, listener.Close())}
	}
	s := grpc.NewServer()
	api.RegisterDataplaneServer(s, &server{f: f})
	context.AfterFunc(ctx, s.Stop)
	if err := s.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// server answers from the forwarder.
type server struct {
	api.UnimplementedDataplaneServer
	f *forwarder.Forwarder
}

func (s *server) Status(context.Context, *api.StatusRequest) (*api.StatusReply, error) {
	return s.f.Status(), nil
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

// routesAtOnce is how many routes one message of the stream carries.
const routesAtOnce = 1000

func (s *server) Routes(r *api.RoutesRequest, stream grpc.ServerStreamingServer[api.RoutesReply]) error {
	routes, epoch, err := s.f.Routes(r)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	reply := &api.RoutesReply{Epoch: epoch}
	for route := range routes {
		reply.Routes = append(reply.Routes, route)
		if len(reply.Routes) == routesAtOnce {
			if err := stream.Send(reply); err != nil {
				return err
			}
			reply = &api.RoutesReply{Epoch: epoch}
		}
	}
	return stream.Send(reply)
}

// known refuses the name of a port that does not exist.
func (s *server) known(port string) error {
	if port != "" && !s.f.HasPort(port) {
		return status.Errorf(codes.NotFound, "no port is named %q; \"viaduct ports\" lists them", port)
	}
	return nil
}

// serveMetrics serves Prometheus metrics until the context ends.
func serveMetrics(ctx context.Context, f *forwarder.Forwarder, address string) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(forwarder.NewCollector(f))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return &SetUpError{fmt.Errorf("listen for metrics: %w", err)}
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
