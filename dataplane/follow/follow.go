// SPDX-License-Identifier: Apache-2.0

// Package follow is the dataplane's end of control's Sync stream: it puts in force what control sends, and says what
// became of it. While control is away it waits for it, for ever; what is in force stays.
package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/internal/process"
)

// Forwarder is what follows: each call puts all in force or nothing, and its error says why.
type Forwarder interface {
	Apply(ctx context.Context, snapshot *api.Snapshot) error
	ApplyDelta(ctx context.Context, delta *api.Delta) error
	InForce() *api.Snapshot // nil when nothing is
	// Closed are the ports in force that do not forward.
	Closed() []*api.ClosedPort
}

// Config is how a client follows.
type Config struct {
	Socket    string // path of control's socket
	Node      string // for Hello; may be empty
	Version   string // for Hello
	Forwarder Forwarder
	Applied   func(*api.Snapshot) // is told of every snapshot that control put in force; may be nil
	Logger    *zap.Logger
}

// Client follows control. Run is its life; Status may be called at any time.
type Client struct {
	cfg Config
	log *zap.Logger

	mu     sync.Mutex
	status dataplaneapi.ControlLink
	retry  func() // ends the stream, when control's whole snapshot was refused on it; else nil
}

// New returns a client that does nothing until Run.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, log: cfg.Logger}
	c.status.SinceUnixNanoseconds = time.Now().UnixNano()
	c.status.Error = "not connected yet"
	return c
}

// Status says how the connection is.
func (c *Client) Status() *dataplaneapi.ControlLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &dataplaneapi.ControlLink{
		Connected: c.status.Connected, SinceUnixNanoseconds: c.status.SinceUnixNanoseconds, Error: c.status.Error,
		Snapshots: c.status.Snapshots, Deltas: c.status.Deltas, Nacks: c.status.Nacks,
	}
}

// errAgain ends a stream for the sake of the next one.
var errAgain = errors.New("asking control again for what was refused")

// Retry has control send again what was refused, if something was: something that it may have asked for has come.
func (c *Client) Retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retry != nil {
		c.retry()
	}
}

func (c *Client) setRetry(retry func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retry = retry
}

// Run follows until the context ends.
func (c *Client) Run(ctx context.Context) error {
	pause := newPause(c.cfg.Socket, c.log)
	defer pause.close()
	for ctx.Err() == nil {
		took, err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.disconnected(err) || took {
			c.log.Warn("control is away: what is in force stays", zap.String("socket", c.cfg.Socket), zap.Error(err))
		}
		if took {
			pause.reset()
		}
		pause.wait(ctx)
	}
	return nil
}

// session is one stream, from Hello until it ends. It returns whether anything was put in force, and why it ended.
func (c *Client) session(ctx context.Context) (took bool, err error) {
	conn, err := process.Dial(c.cfg.Socket)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.setRetry(nil)
	stream, err := api.NewControlClient(conn).Sync(ctx)
	if err != nil {
		return false, plain(err)
	}
	hello := &api.Hello{Node: c.cfg.Node, Version: c.cfg.Version, InForce: c.cfg.Forwarder.InForce()}
	if err := stream.Send(&api.FromDataplane{Message: &api.FromDataplane_Hello{Hello: hello}}); err != nil {
		return false, errors.Join(plain(err), ended(stream))
	}
	c.connected()
	for {
		m, err := stream.Recv()
		if errors.Is(context.Cause(ctx), errAgain) {
			return took, errAgain
		}
		if err != nil {
			return took, plain(err)
		}
		c.setRetry(nil)
		answer, err := c.take(ctx, m)
		if err != nil {
			return took, err
		}
		took = took || answer.GetAck() != nil
		if err := stream.Send(answer); err != nil {
			return took, errors.Join(plain(err), ended(stream))
		}
		if answer.GetNack() != nil && m.GetSnapshot() != nil {
			c.setRetry(func() { cancel(errAgain) })
		}
	}
}

// ended is why a stream that takes no more messages ended.
func ended(stream api.Control_SyncClient) error {
	_, err := stream.Recv()
	return plain(err)
}

// plain leaves out gRPC's words around an error.
func plain(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	if _, why, dialing := strings.Cut(s.Message(), "Error while dialing: "); dialing {
		return errors.New(strings.TrimRight(why, `"`))
	}
	return fmt.Errorf("%s: %s", s.Code(), s.Message())
}

// take puts a message in force and returns what to answer.
func (c *Client) take(ctx context.Context, m *api.FromControl) (*api.FromDataplane, error) {
	var epoch uint64
	var err error
	begin := time.Now()
	delta := m.GetDelta()
	switch {
	case delta != nil:
		epoch = delta.GetSet().GetEpoch()
		err = c.cfg.Forwarder.ApplyDelta(ctx, delta)
	case m.GetSnapshot() != nil:
		epoch = m.GetSnapshot().GetEpoch()
		err = c.cfg.Forwarder.Apply(ctx, m.GetSnapshot())
	default:
		return nil, errors.New("control sent a message of no kind that is known here")
	}
	took := time.Since(begin)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.count(delta != nil, err)
	if err != nil {
		c.log.Error("snapshot refused; what was in force stays", zap.Uint64("epoch", epoch), zap.Error(err))
		return &api.FromDataplane{Message: &api.FromDataplane_Nack{Nack: nack(epoch, err)}}, nil
	}
	c.inForce(epoch, delta, took)
	ack := &api.Ack{Epoch: epoch, ApplyNanoseconds: uint64(took), Closed: c.cfg.Forwarder.Closed()}
	return &api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: ack}}, nil
}

// inForce says what was taken.
func (c *Client) inForce(epoch uint64, delta *api.Delta, took time.Duration) {
	s := c.cfg.Forwarder.InForce()
	if delta != nil {
		c.log.Debug("delta in force", zap.Uint64("epoch", epoch), zap.Duration("took", took))
	} else {
		c.log.Info("snapshot in force", zap.Uint64("epoch", epoch), zap.Int("ports", len(s.GetPorts())),
			zap.Int("routes", len(s.GetRoutes())), zap.Int("identities", len(s.GetIdentities())),
			zap.Duration("took", took))
	}
	if c.cfg.Applied != nil {
		c.cfg.Applied(s)
	}
}

func nack(epoch uint64, err error) *api.Nack {
	n := &api.Nack{Epoch: epoch, Reason: err.Error()}
	var invalid *tables.InvalidError
	if errors.As(err, &invalid) {
		n.Object, n.Field, n.Reason = invalid.Object, invalid.Field, invalid.Reason
	}
	return n
}

func (c *Client) count(delta bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.status.Nacks++
	case delta:
		c.status.Deltas++
	default:
		c.status.Snapshots++
	}
}

func (c *Client) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Connected, c.status.SinceUnixNanoseconds = true, time.Now().UnixNano()
	c.log.Debug("following control", zap.String("socket", c.cfg.Socket))
}

// disconnected notes why control is away and returns whether that is another reason than the last one.
func (c *Client) disconnected(err error) (said bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	said = c.status.Error != err.Error()
	if c.status.Connected {
		c.status.Connected, c.status.SinceUnixNanoseconds = false, time.Now().UnixNano()
	}
	c.status.Error = err.Error()
	return said
}
