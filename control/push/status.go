// SPDX-License-Identifier: Apache-2.0

package push

import (
	"cmp"
	"context"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// state is how the pusher is. It is immutable.
type state struct {
	node     string
	epoch    uint64
	acked    uint64 // by the last follower that acked anything
	failure  string
	objects  map[string]int
	errors   []*model.Error // of the compiler
	follower *api.Follower  // nil: none is connected
	lastNack *api.Nack

	attachments int
	inForce     *api.Snapshot     // with the follower; nil: nothing that it acked
	closed      map[uint32]string // ports of it that do not forward, and why
}

// Status implements api.ControlServer.
func (s *Server) Status(context.Context, *api.StatusRequest) (*api.StatusReply, error) {
	state, said := s.state.Load(), s.intake.saying()
	reply := &api.StatusReply{
		Version: s.cfg.Version, StartedUnixNanoseconds: s.started.UnixNano(),
		Source: &api.Source{Name: s.cfg.Source.String(), InStep: said.inStep, Trouble: said.trouble},
		Node:   state.node, Epoch: state.epoch, Failure: state.failure, Objects: map[string]uint32{},
		Dataplane: state.follower, LastNack: state.lastNack,
		Refused: refused(said.errors, state.errors, s.refusedElsewhere()),
	}
	if !said.heard.IsZero() {
		reply.Source.HeardUnixNanoseconds = said.heard.UnixNano()
	}
	reply.Attachments = uint32(state.attachments)
	if s.cfg.Pools != nil {
		reply.Pools = s.cfg.Pools()
	}
	for kind, n := range state.objects {
		reply.Objects[kind] = uint32(n)
	}
	return reply, nil
}

// refusedElsewhere is what neither the source nor the compiler refused.
func (s *Server) refusedElsewhere() []*model.Error {
	if s.cfg.Refused == nil {
		return nil
	}
	return s.cfg.Refused()
}

// refused lists refusals by place and object.
func refused(lists ...[]*model.Error) []*api.Refused {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b *model.Error) int {
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line), a.Key.Compare(b.Key))
	})
	var out []*api.Refused
	for _, e := range all {
		r := &api.Refused{Place: e.Place.String(), Field: e.Field, Reason: e.Reason}
		if e.Key != (model.Key{}) {
			r.Object = e.Key.String()
		}
		out = append(out, r)
	}
	return out
}

// Ready says why the server is not ready; empty when it is: the source is in step and, where a dataplane follows, that
// has acked something.
func (s *Server) Ready() string {
	state, said := s.state.Load(), s.intake.saying()
	switch {
	case !said.known:
		return "the source has not said its whole state yet"
	case said.trouble != "":
		return "the source is in trouble: " + said.trouble
	case state.failure != "":
		return state.failure
	case state.follower != nil && state.follower.Epoch == 0:
		return "the dataplane has not taken anything yet"
	}
	return ""
}
