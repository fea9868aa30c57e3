// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

const (
	// beat is how often etcd is asked for a sign of life, and silence how long it may be without one before the
	// connection is given up.
	beat    = 2 * time.Second
	silence = 5 * time.Second
	// ahead is the number of responses that are received while earlier ones are being worked on.
	ahead = 64
)

// stream is a watch of all spans.
type stream struct {
	pb.Watch_WatchClient
	responses chan *pb.WatchResponse // closed when the stream ends
	err       error                  // why it ended; read after responses is closed
}

// follow watches from where we are, until the stream ends, which is the error.
func (s *Source) follow(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	raw, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		cancel()
		return err
	}
	w := &stream{Watch_WatchClient: raw, responses: make(chan *pb.WatchResponse, ahead)}
	go w.receive(ctx)
	defer func() {
		cancel()
		for range w.responses { // until receive has ended
		}
	}()
	for i, span := range s.spans {
		if err := w.Send(watchRequest(i, span, s.at.next[i])); err != nil {
			return w.reason()
		}
	}
	return s.watch(w)
}

func (w *stream) receive(ctx context.Context) {
	defer close(w.responses)
	for {
		r, err := w.Recv()
		if err != nil {
			w.err = err
			return
		}
		select {
		case w.responses <- r:
		case <-ctx.Done():
			w.err = ctx.Err()
			return
		}
	}
}

// reason is why the stream ended, when sending has failed: receiving knows.
func (w *stream) reason() error {
	for range w.responses {
	}
	return w.err
}

// watchRequest makes the watch with the number of its span, from 1: 0 lets etcd choose.
func watchRequest(i int, s span, from int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(s.from), RangeEnd: []byte(s.to), StartRevision: from,
		ProgressNotify: true, Fragment: true, WatchId: int64(i + 1),
	}}}
}

var askProgress = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
	ProgressRequest: &pb.WatchProgressRequest{},
}}

// watch takes what the stream gives. It is in step when both watches are made; what arrives together is reported
// together.
func (s *Source) watch(w *stream) error {
	ticks := time.NewTicker(beat)
	defer ticks.Stop()
	heard, waiting := time.Now(), false // since heard, a sign of life is waited for
	made := 0
	for {
		select {
		case r, ok := <-w.responses:
			for ; ok && r != nil; r, ok = w.another() {
				if err := s.take(r); err != nil {
					return err
				}
				if r.Created {
					made++
				}
			}
			if !ok {
				return w.err
			}
			waiting = false
			if made == len(s.spans) {
				s.inStep()
			}
		case <-ticks.C:
			switch {
			case len(w.responses) > 0: // it lives; we were slow
			case !waiting:
				heard, waiting = time.Now(), true
			case time.Since(heard) > silence:
				return fmt.Errorf("%s does not answer", w.peer())
			}
			if err := w.Send(askProgress); err != nil {
				return w.reason()
			}
		}
	}
}

// another returns a response that is there already; nil when there is none.
func (w *stream) another() (r *pb.WatchResponse, ok bool) {
	select {
	case r, ok = <-w.responses:
		return r, ok
	default:
		return nil, true
	}
}

func (w *stream) peer() string {
	if p, ok := peer.FromContext(w.Context()); ok {
		return p.Addr.String()
	}
	return "etcd"
}

// take works in one response.
func (s *Source) take(r *pb.WatchResponse) error {
	switch {
	case r.CompactRevision != 0:
		return errCompacted
	case r.Canceled:
		return fmt.Errorf("watch: %s", r.CancelReason)
	case s.at.cluster != r.Header.GetClusterId():
		return errors.New("another cluster answers at the same address")
	}
	for _, e := range r.Events {
		if e.Type == mvccpb.Event_DELETE {
			s.held.remove(string(e.Kv.Key))
		} else {
			s.held.put(s.item(e.Kv))
		}
	}
	s.advance(r)
	return nil
}

// advance moves on to what comes after the response. The answer to askProgress, which is for no watch in particular,
// says nothing of it: up to etcd 3.4.24 and 3.5.7 it may overtake events (etcd issue 15220). The notices that etcd
// sends by itself do not.
func (s *Source) advance(r *pb.WatchResponse) {
	i := int(r.WatchId) - 1
	s.at.term = max(s.at.term, r.Header.GetRaftTerm())
	if i < 0 || i >= len(s.at.next) || r.Fragment || r.Created {
		return
	}
	next := r.Header.GetRevision() + 1
	if n := len(r.Events); n > 0 {
		next = r.Events[n-1].Kv.ModRevision + 1
	}
	s.at.next[i] = max(s.at.next[i], next)
}
