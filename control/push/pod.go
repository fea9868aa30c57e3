// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
)

// Pod implements api.ControlServer.
func (s *Server) Pod(ctx context.Context, r *api.PodRequest) (*api.PodReply, error) {
	reply, found := &api.PodReply{}, false
	err := s.ask(ctx, func(c *compile.Compiler) {
		addresses, node, known := c.Pod(r.Namespace, r.Name)
		found, reply.Node = known, node
		reply.Ports = c.PodPorts(r.Namespace, r.Name)
		for _, a := range addresses {
			reply.Addresses = append(reply.Addresses, a.AsSlice())
		}
	})
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, status.Errorf(codes.NotFound, "no pod %s/%s is known", r.Namespace, r.Name)
	}
	return reply, nil
}

// ask has the goroutine that owns the compiler call f, and waits for it.
func (s *Server) ask(ctx context.Context, f func(*compile.Compiler)) error {
	done := make(chan struct{})
	select {
	case s.asks <- func(c *compile.Compiler) { f(c); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-s.stopped:
		return errStops
	}
}
