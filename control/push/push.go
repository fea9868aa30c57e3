// SPDX-License-Identifier: Apache-2.0

// Package push follows a source, compiles what it says, and keeps the dataplane in step.
//
// Files, in the order that a change takes: intake.go (what the source said merges here), attach.go (pods' interfaces
// come and go, and wait for the dataplane), birth.go (before that, for their pods to be known), pusher.go (the
// goroutine that owns the compiler: it compiles, and decides what is sent), settings.go (what a node's pods need to
// know of it), withhold.go (what the dataplane refuses is left out), resume.go (the numbers of an earlier process),
// stream.go (the Sync stream of a dataplane), statuses.go (what became of objects, back to the source); status.go,
// metrics.go and pod.go say how all of it is.
//
// One message is in flight at a time. What changes until it is acked merges, so that a dataplane that is slow gets
// fewer and larger messages, and never an old one.
package push

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// Config is how a server pushes.
type Config struct {
	Source  source.Source // a source.Publisher is told what became of its objects
	Node    compile.Node
	Version string // of the program, for Status
	Logger  *zap.Logger
	InStep  func() // is called once, when the source has said its whole state; may be nil

	Attachments []*compile.Attachment // that are there from the beginning
	Settings    func(Settings)        // is told of the node's settings, at first and when they changed; may be nil
	Pools       func() []*api.Pool    // says where pods' addresses come from, for Status; may be nil

	// HealthChecks is told, once the dataplane has it in force, what load balancers ask of services; may be nil.
	HealthChecks func([]compile.HealthCheck)
	Refused      func() []*model.Error // says what else is refused, for Status; may be nil

	// AwaitPods is for how long an attachment waits for its Pod object, so that policies know the pod by its labels
	// before its first packet. 0: not at all, for a source where there need be no such object.
	AwaitPods time.Duration
}

// Server implements api.ControlServer. Run is its life: streams that open before it wait for it.
type Server struct {
	api.UnimplementedControlServer
	cfg     Config
	log     *zap.Logger
	started time.Time
	intake  *intake
	metrics metrics

	requests requests
	state    atomic.Pointer[state]

	joins   chan *follower
	leaves  chan *follower
	answers chan answer
	asks    chan func(*compile.Compiler)
	stopped chan struct{} // closed when Run has returned
}

// New returns a server that does nothing until Run.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, log: cfg.Logger, started: time.Now(), intake: newIntake(), metrics: newMetrics(),
		joins: make(chan *follower), leaves: make(chan *follower), answers: make(chan answer),
		asks: make(chan func(*compile.Compiler)), stopped: make(chan struct{}),
	}
	s.state.Store(&state{})
	return s
}

// Run follows the source and serves streams until the context ends, once in a server's life. It returns an error when
// the source cannot be used at all.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := s.cfg.Source.Run(ctx, s.hear)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the source ended by itself")
		}
		return err
	})
	group.Go(func() error {
		newPusher(s).run(ctx)
		return nil
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// hear takes an event of the source, and logs what it says of the source itself.
func (s *Server) hear(e source.Event) {
	before := s.intake.put(e)
	name := zap.Stringer("source", s.cfg.Source)
	switch {
	case e.Trouble != "" && e.Trouble != before.trouble:
		s.log.Warn("the source is in trouble; what it said before stays in force", name, zap.String("trouble", e.Trouble))
	case e.Trouble == "" && before.trouble != "":
		s.log.Info("the source is well again", name)
	case e.Whole && !before.known:
		s.log.Info("the source is in step", name, zap.Int("objects", len(e.Set)))
	}
	if slices.Equal(before.errors, e.Errors) {
		return
	}
	known := map[model.Error]bool{}
	for _, refused := range before.errors {
		known[*refused] = true
	}
	for _, refused := range e.Errors {
		if !known[*refused] {
			s.log.Error("refused", zap.Error(refused))
		}
	}
}

// errStops ends streams when Run does.
var errStops = status.Error(codes.Unavailable, "control stops")
