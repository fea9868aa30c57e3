// SPDX-License-Identifier: Apache-2.0

// Package healthcheck answers load balancers that ask, at a port of the node, whether a service has backends there:
// those of services whose outside traffic stays on the node that it comes to (spec.healthCheckNodePort). What it
// answers is what kube-proxy answers (k8s.io/kubernetes, pkg/proxy/healthcheck/service_health.go).
//
// Files: healthcheck.go (which ports are open), answer.go (what is answered there).
package healthcheck

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// retry is when a port that was taken is tried again.
const retry = 10 * time.Second

// patience is how long a connection may take for anything: anybody who reaches the node may open one. Load balancers
// ask every few seconds.
const patience = 15 * time.Second

// Server has a port open for each service that is to be asked for. Use New.
type Server struct {
	healthy func() bool
	log     *zap.Logger
	poke    chan struct{}

	mu      sync.Mutex
	wanted  []compile.HealthCheck                // as it was last set
	checks  map[uint16]compile.HealthCheck       // by port
	open    map[uint16]*http.Server              // ports that are
	refused map[compile.HealthCheck]*model.Error // why others are not; how many backends there are does not count: it is 0
	retry   time.Duration
}

// New returns a server with no port open. healthy says whether services are forwarded at all.
func New(healthy func() bool, log *zap.Logger) *Server {
	return &Server{
		healthy: healthy, log: log, poke: make(chan struct{}, 1), checks: map[uint16]compile.HealthCheck{},
		open: map[uint16]*http.Server{}, refused: map[compile.HealthCheck]*model.Error{}, retry: retry,
	}
}

// Set says what is to be answered from now on, in order: of two services with one port the first has it. It returns at
// once.
func (s *Server) Set(checks []compile.HealthCheck) {
	s.mu.Lock()
	s.wanted = checks
	for _, check := range checks { // of ports that are open it holds at once
		if was, there := s.checks[check.Port]; there && same(was, check) {
			s.checks[check.Port] = check
		}
	}
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default: // one is pending
	}
}

// same says whether two are of one service.
func same(a, b compile.HealthCheck) bool { return a.Namespace == b.Namespace && a.Name == b.Name }

// Refused are the services whose ports are not open, and why, in order.
func (s *Server) Refused() (list []*model.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.refused {
		list = append(list, err)
	}
	slices.SortFunc(list, func(a, b *model.Error) int { return a.Key.Compare(b.Key) })
	return list
}

// Run opens and closes ports until the context ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.turn(ctx, nil)
	for {
		s.mu.Lock()
		wanted := s.wanted
		s.mu.Unlock()
		var again <-chan time.Time
		if !s.turn(ctx, wanted) {
			again = time.After(s.retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		case <-again:
		}
	}
}

// turn has open what is wanted, and says whether all of it is.
func (s *Server) turn(ctx context.Context, wanted []compile.HealthCheck) (all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	checks, refused := map[uint16]compile.HealthCheck{}, map[compile.HealthCheck]*model.Error{}
	for _, check := range wanted {
		if other, taken := checks[check.Port]; taken {
			s.refuse(refused, check, fmt.Errorf("the port is that of Service %s/%s", other.Namespace, other.Name))
			continue
		}
		checks[check.Port] = check
	}
	s.checks = checks
	for port, server := range s.open {
		if _, still := checks[port]; !still {
			_ = server.Close()
			delete(s.open, port)
		}
	}
	all = true
	for _, port := range slices.Sorted(maps.Keys(checks)) {
		if s.open[port] != nil {
			continue
		}
		if err := s.listen(ctx, port); err != nil {
			s.refuse(refused, checks[port], err)
			all = false
		}
	}
	s.refused = refused
	return all
}

// refuse notes why a port is not open; what is said for the first time is logged.
func (s *Server) refuse(list map[compile.HealthCheck]*model.Error, check compile.HealthCheck, err error) {
	check.Local = 0
	key := model.Key{Kind: "Service", Namespace: check.Namespace, Name: check.Name}
	refused := model.NewError(model.Place{}, key, "spec.healthCheckNodePort", err.Error())
	if was := s.refused[check]; was == nil || *was != *refused {
		s.log.Warn("load balancers cannot ask for a service", zap.Error(refused))
	}
	list[check] = refused
}

// listen opens a port on all addresses of the node.
func (s *Server) listen(ctx context.Context, port uint16) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, port) }),
		ReadHeaderTimeout: patience, WriteTimeout: patience, IdleTimeout: patience,
	}
	s.open[port] = server
	go func() { _ = server.Serve(l) }() // until it is closed
	return nil
}
