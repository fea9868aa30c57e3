// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
)

// Check implements attach.AttachmentsService.
func (s *Service) Check(_ context.Context, q *attach.CheckRequest) (reply *attach.AddReply, err error) {
	defer s.metrics.observe("check", time.Now(), &err)
	var r reader
	key, ports := r.key(q.GetKey()), r.hostPorts(q.GetHostPorts())
	if r.err != nil {
		return nil, coded(r.err)
	}
	a, there := s.store.Get(key)
	if !there {
		return nil, status.Errorf(codes.NotFound, "there is no attachment %s", key)
	}
	if err := s.cfg.Control.InForce(a.Port); err != nil {
		code := codeOf(err)
		if code == codes.InvalidArgument { // it is the attachment that is not as it should be, and not the question
			code = codes.FailedPrecondition
		}
		return nil, status.Error(code, err.Error())
	}
	if err := s.hooked(a); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if !slices.Equal(a.HostPorts, ports) {
		return nil, status.Errorf(codes.FailedPrecondition, "the host ports are %s, not %s", said(a.HostPorts), said(ports))
	}
	return s.reply(a), nil
}

// said lists host ports and where they lead.
func said(ports []lease.HostPort) string {
	if len(ports) == 0 {
		return "none"
	}
	var list []string
	for _, p := range ports {
		list = append(list, fmt.Sprintf("%s to %d", p, p.ContainerPort))
	}
	return strings.Join(list, ", ")
}

// hooked says what is wrong with the hook at the attachment's device.
func (s *Service) hooked(a lease.Attachment) error {
	if a.Direct || s.cfg.Links == nil { // the dataplane says so itself when its XDP hook is not there
		return nil
	}
	is, err := s.cfg.Links.Hooked(a.Device)
	if err == nil && !is {
		err = fmt.Errorf("device %s has lost its hook: nothing that the pod sends arrives", a.Device)
	}
	return err
}

// Ready implements attach.AttachmentsService.
func (s *Service) Ready(_ context.Context, q *attach.ReadyRequest) (reply *attach.ReadyReply, err error) {
	defer s.metrics.observe("ready", time.Now(), &err)
	if err := s.ready(); err != nil {
		if away := (*push.AwayError)(nil); errors.As(err, &away) && away.Alone {
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		return nil, coded(err)
	}
	if err := exhausted(s.store.Usage()); err != nil && q.GetLeases() {
		return nil, coded(err)
	}
	return &attach.ReadyReply{Queues: queues(s.settings.Load())}, nil
}

// ready says why nothing can be attached, whatever is asked for.
func (s *Service) ready() error {
	if err := s.cfg.Control.Attachable(); err != nil {
		return err
	}
	if s.settings.Load() == nil {
		return &push.AwayError{Reason: "the node's settings are not known yet"}
	}
	return nil
}

// exhausted says of which family all addresses are leased, or that there are none to lease; nil where each that has a
// pool has one left.
func exhausted(pools []lease.Usage) error {
	if !slices.ContainsFunc(pools, func(p lease.Usage) bool { return !p.Retired }) {
		return lease.ErrNoPools
	}
	for _, version := range []int{4, 6} {
		left, none := uint64(0), &lease.ExhaustedError{Family: version}
		for _, p := range pools {
			if p.Prefix.Addr().Is4() != (version == 4) || p.Retired {
				continue
			}
			none.Pools = append(none.Pools, p.Prefix)
			left = max(left, p.Size-min(p.Leased, p.Size))
		}
		if len(none.Pools) > 0 && left == 0 {
			return none
		}
	}
	return nil
}

// share is how much of a pool is leased, from 0 to 1.
func share(u lease.Usage) float64 {
	if u.Size == 0 {
		return 0
	}
	if u.Size == math.MaxUint64 {
		return 0 // it saturates
	}
	return float64(u.Leased) / float64(u.Size)
}
