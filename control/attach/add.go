// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
)

// Add implements attach.AttachmentsService. It is a transaction: the lease is on disk before the dataplane hears of it,
// and is taken back where the dataplane does not have the port in force in time.
func (s *Service) Add(ctx context.Context, q *attach.AddRequest) (reply *attach.AddReply, err error) {
	defer s.metrics.observe("add", time.Now(), &err)
	var r reader
	a, asked := r.add(q)
	if r.err != nil {
		return nil, coded(r.err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	unlock, err := s.keys.lock(ctx, a.Key)
	if err != nil {
		return nil, coded(fmt.Errorf("another call for this attachment takes long: %w", err))
	}
	defer unlock()
	added, err := s.add(ctx, a, asked)
	if err != nil {
		s.log.Warn("not attached", zap.Stringer("attachment", a.Key), zap.String("pod", podName(a)), zap.Error(err))
		return nil, coded(err)
	}
	s.watch()
	return s.reply(added), nil
}

func (s *Service) add(ctx context.Context, a lease.Attachment, asked []netip.Addr) (lease.Attachment, error) {
	if err := s.ready(); err != nil { // before anything is written
		return a, err
	}
	if before, had := s.store.Get(a.Key); had && podName(before) != podName(a) { // its port has another name
		if _, err := s.remove("removed: its container is another pod's", a.Key); err != nil {
			return a, err
		}
	}
	added, created, err := s.store.Add(a, asked)
	if err != nil {
		return a, err
	}
	if !created { // what stands is left as it is, whatever is wrong with it
		err := s.cfg.Control.InForce(added.Port)
		var refused *push.RefusedError
		if errors.As(err, &refused) { // control has forgotten it
			err = s.cfg.Control.Attach(ctx, []*compile.Attachment{attachment(added)}, nil)
		}
		return added, err
	}
	// The commit point: from here on packets of the pod are judged.
	if err = s.cfg.Control.Attach(ctx, []*compile.Attachment{attachment(added)}, nil); err == nil {
		s.log.Info("attached", zap.Stringer("attachment", a.Key), zap.String("port", added.Port),
			zap.Stringers("addresses", added.Addresses))
		return added, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the dataplane does not answer within %v: %w", s.cfg.Within, err)
	}
	err = blame(added.Port, err)
	if _, undone := s.store.Remove(a.Key); undone != nil {
		err = errors.Join(err, fmt.Errorf("give the addresses back: %w", undone))
	}
	return a, err
}

func podName(a lease.Attachment) string {
	if a.PodName == "" {
		return ""
	}
	return a.PodNamespace + "/" + a.PodName
}
