// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/process"
)

const (
	helloWithin = 10 * time.Second
	longest     = 16 << 10           // bytes of a text of the other end
	maxEpoch    = math.MaxUint64 / 2 // of a snapshot in force: there is always a greater one
)

// follower is a dataplane on its stream.
type follower struct {
	hello *api.Hello
	out   chan *api.FromControl
	once  sync.Once
	end   chan struct{} // closed when the stream is to end
	cause error         // why; to be read after end is closed

	// The pusher's own.
	inFlight uint64    // epoch that was sent and is not answered yet; 0: none
	whole    bool      // that was a whole snapshot
	sent     time.Time // and when
	onto     uint64    // epoch that deltas may build on; 0: a whole snapshot is called for
	refused  uint64    // epoch that was refused as a whole snapshot
	view     api.Follower
}

// close ends the stream; the first reason counts.
func (f *follower) close(cause error) {
	f.once.Do(func() {
		f.cause = cause
		close(f.end)
	})
}

// answer is what a follower says after its hello.
type answer struct {
	follower *follower
	message  *api.FromDataplane
}

// Sync implements api.ControlServer.
func (s *Server) Sync(stream grpc.BidiStreamingServer[api.FromDataplane, api.FromControl]) error {
	f := &follower{out: make(chan *api.FromControl, 1), end: make(chan struct{})}
	received := make(chan *api.FromDataplane)
	go receive(stream, f, received) // ends with the stream, which ends when Sync returns
	if err := s.greet(stream.Context(), f, received); err != nil || f.hello == nil {
		return err
	}
	select {
	case s.joins <- f:
	case <-f.end:
		return f.cause
	case <-s.stopped:
		return errStops
	}
	go s.send(stream, f)
	defer func() {
		select {
		case s.leaves <- f:
		case <-s.stopped:
		}
	}()
	return s.answer(f, received)
}

// greet waits for the hello.
func (s *Server) greet(ctx context.Context, f *follower, received <-chan *api.FromDataplane) error {
	late := time.NewTimer(helloWithin)
	defer late.Stop()
	select {
	case m := <-received:
		if err := s.check(m.GetHello()); err != nil {
			return err
		}
		f.hello = m.GetHello()
	case <-late.C:
		return status.Errorf(codes.DeadlineExceeded, "no hello within %s", helloWithin)
	case <-f.end:
		return f.cause
	case <-s.stopped:
		return errStops
	}
	f.view.Version = f.hello.GetVersion()
	if p, ok := peer.FromContext(ctx); ok {
		if unix, ok := p.AuthInfo.(process.Peer); ok {
			f.view.Pid = unix.PID
		}
	}
	return nil
}

// check refuses a hello that cannot be gone on from.
func (s *Server) check(hello *api.Hello) error {
	node := s.cfg.Node
	switch {
	case hello == nil:
		return status.Error(codes.InvalidArgument, "the first message is no hello")
	case len(hello.Node) > longest || len(hello.Version) > longest:
		return status.Errorf(codes.InvalidArgument, "the hello has a text of more than %d bytes", longest)
	case hello.GetInForce() != nil && (hello.InForce.Epoch == 0 || hello.InForce.Epoch > maxEpoch):
		return status.Errorf(codes.InvalidArgument, "no snapshot has the epoch %d", hello.InForce.Epoch)
	case hello.Node != "" && hello.Node != node.Name && !node.Sole:
		return status.Errorf(codes.FailedPrecondition, "the dataplane is of node %q, and this control works for %q",
			hello.Node, node.Name)
	}
	return nil
}

// answer hands on what the follower says until the stream ends.
func (s *Server) answer(f *follower, received <-chan *api.FromDataplane) error {
	for {
		select {
		case m := <-received:
			if err := checkAnswer(m); err != nil {
				return err
			}
			select {
			case s.answers <- answer{f, m}:
			case <-f.end:
				return f.cause
			case <-s.stopped:
				return errStops
			}
		case <-f.end:
			return f.cause
		case <-s.stopped:
			return errStops
		}
	}
}

func checkAnswer(m *api.FromDataplane) error {
	nack := m.GetNack()
	for _, c := range m.GetAck().GetClosed() {
		if len(c.GetReason()) > longest {
			return status.Errorf(codes.InvalidArgument, "the ack has a text of more than %d bytes", longest)
		}
	}
	switch {
	case m.GetHello() != nil:
		return status.Error(codes.InvalidArgument, "a second hello")
	case m.GetAck() == nil && nack == nil:
		return status.Error(codes.InvalidArgument, "a message that is neither ack nor nack")
	case len(nack.GetObject()) > longest || len(nack.GetField()) > longest || len(nack.GetReason()) > longest:
		return status.Errorf(codes.InvalidArgument, "the nack has a text of more than %d bytes", longest)
	}
	return nil
}

func receive(stream grpc.BidiStreamingServer[api.FromDataplane, api.FromControl], f *follower,
	received chan<- *api.FromDataplane,
) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			f.close(nil) // it is done
			return
		}
		if err != nil {
			f.close(err)
			return
		}
		select {
		case received <- m:
		case <-stream.Context().Done():
			f.close(stream.Context().Err())
			return
		}
	}
}

// send sends what is put out. What cannot be sent, being too large for one, is a fault that ends the stream.
func (s *Server) send(stream grpc.BidiStreamingServer[api.FromDataplane, api.FromControl], f *follower) {
	for {
		select {
		case m := <-f.out:
			if err := stream.Send(m); err != nil {
				if stream.Context().Err() == nil {
					s.log.Error("an epoch cannot be sent", zap.Error(err))
				}
				f.close(err)
				return
			}
		case <-stream.Context().Done():
			return
		}
	}
}
