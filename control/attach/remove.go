// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/lease"
)

// Remove implements attach.AttachmentsService. The dataplane need not be there: what it has in force of the port leads
// to a device that goes, and it will hear of it.
func (s *Service) Remove(ctx context.Context, q *attach.RemoveRequest) (reply *attach.RemoveReply, err error) {
	defer s.metrics.observe("remove", time.Now(), &err)
	var r reader
	key := r.key(q.GetKey())
	if r.err != nil {
		return nil, coded(r.err)
	}
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return nil, coded(err)
	}
	defer unlock()
	removed, err := s.remove("removed", key)
	if err != nil {
		return nil, coded(err)
	}
	return &attach.RemoveReply{Found: len(removed) > 0}, nil
}

// Collect implements attach.AttachmentsService. An attachment that is being worked on is left to who does that.
func (s *Service) Collect(_ context.Context, q *attach.CollectRequest) (reply *attach.CollectReply, err error) {
	defer s.metrics.observe("collect", time.Now(), &err)
	valid, err := collected(q)
	if err != nil {
		return nil, coded(err)
	}
	var garbage []lease.Key
	for _, a := range s.store.All() {
		if a.Network != q.GetNetwork() || valid[a.Key] {
			continue
		}
		if unlock := s.keys.try(a.Key); unlock != nil {
			defer unlock()
			garbage = append(garbage, a.Key)
		}
	}
	removed, err := s.remove("removed: the runtime does not know it", garbage...)
	if err != nil {
		return nil, coded(err)
	}
	reply = &attach.CollectReply{}
	for _, a := range removed {
		reply.Devices = append(reply.Devices, a.Device)
	}
	return reply, nil
}

// collected reads which attachments of the network stay.
func collected(q *attach.CollectRequest) (map[lease.Key]bool, error) {
	var r reader
	r.check(identifier(q.GetNetwork()), "network", "%.64q is not a network's name", q.GetNetwork())
	valid := map[lease.Key]bool{}
	for _, k := range q.GetValid() {
		key := r.key(&attach.Key{Network: q.GetNetwork(), Container: k.GetContainer(), Interface: k.GetInterface()})
		valid[key] = true
	}
	return valid, r.err
}

// remove gives the addresses of the attachments back, and has their ports removed. The caller has the keys.
func (s *Service) remove(why string, keys ...lease.Key) ([]lease.Attachment, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var ports []string
	for _, key := range keys {
		if a, there := s.store.Get(key); there {
			ports = append(ports, a.Port)
		}
	}
	if len(ports) == 0 {
		return nil, nil
	}
	// Before the ports' names and addresses are free: whoever gets them next is attached after this.
	s.cfg.Control.Detach(ports)
	removed, err := s.store.Remove(keys...)
	if err != nil {
		return nil, err
	}
	for _, a := range removed {
		s.log.Info(why, zap.Stringer("attachment", a.Key), zap.String("port", a.Port), zap.String("device", a.Device),
			zap.Stringers("addresses", a.Addresses))
	}
	s.watch()
	return removed, nil
}
