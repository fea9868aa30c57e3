// SPDX-License-Identifier: Apache-2.0

// Package etcd is the source that reads objects from etcd v3 (3.4 or later), each under its own key:
//
//	/viaduct/KIND/NAMESPACE/NAME    /viaduct/KIND/NAME
//
// with the object as JSON, or as YAML, for a value. What the node makes of them is written below /viaduct/status/,
// under a lease, so that it vanishes with the node.
//
// All keys are read once, at one revision, and watched from the next one on. The stream of the watch is ours rather
// than clientv3.Watcher's, which hides that a connection was lost, and why, and goes on after one whatever etcd has
// become meanwhile. After a loss the watch goes on where it was only when etcd still has the history that we saw;
// otherwise (another cluster, an older backup, a compaction) all is read again, and the differences are reported.
package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/source"
)

// The pauses between attempts: the first one, and the longest.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// Source reads and watches etcd. Use New.
type Source struct {
	options Options
	spans   [2]span
	log     *zap.Logger
	status  *statuses

	// What follows is Run's.
	report   func(source.Event)
	held     *held
	at       position
	reported bool
	trouble  string
	pause    time.Duration
}

var (
	_ source.Source    = (*Source)(nil)
	_ source.Publisher = (*Source)(nil)
)

// New returns the source for the etcd that the options name. It connects to nothing. Errors are options that
// contradict each other or do not parse.
func New(o Options) (*Source, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Source{
		options: o,
		spans:   spans(o.Prefix),
		log:     o.Logger,
		status:  newStatuses(&o),
		held:    newHeld(),
		pause:   firstPause,
	}, nil
}

// String returns the source as --source has it.
func (s *Source) String() string { return "etcd:" + strings.Join(s.options.Endpoints, ",") }

// Publish implements source.Publisher.
func (s *Source) Publish(r source.Report) { s.status.take(r) }

// Run implements source.Source. It may be called once.
func (s *Source) Run(ctx context.Context, report func(source.Event)) error {
	s.report = report
	for ctx.Err() == nil {
		if err := s.session(ctx); ctx.Err() == nil {
			s.complain(err)
		}
		sleep(ctx, s.pause/2+rand.N(s.pause/2+1)) // a cluster's nodes do not come back all at once
		s.pause = min(2*s.pause, mostPause)
	}
	return nil
}

// session is one connection, from dialing to its loss, which is the error.
func (s *Source) session(ctx context.Context) error {
	client, err := s.options.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	defer s.publish(ctx, client)()
	for {
		if err := s.catchUp(ctx, client); err != nil && !errors.Is(err, errCompacted) {
			return err
		} else if err == nil {
			err = s.follow(ctx, client)
			if !errors.Is(err, errCompacted) {
				return err
			}
		}
		s.log.Info("etcd has compacted what was missed: all is read again", zap.Stringer("source", s))
		s.at = position{}
	}
}

// publish writes statuses until the function that it returns is called. When that is because of ctx, they are taken
// back.
func (s *Source) publish(ctx context.Context, client *clientv3.Client) (stop func()) {
	writing, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.status.write(writing, client)
		if ctx.Err() != nil {
			s.status.revoke(client)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// complain reports what is wrong with the connection.
func (s *Source) complain(err error) {
	trouble := s.String() + ": " + explain(err)
	if trouble == s.trouble {
		return
	}
	s.trouble = trouble
	s.log.Warn("etcd is out of reach; what it said stays in force", zap.String("trouble", trouble))
	s.report(source.Event{Errors: s.held.refusals(), Trouble: trouble})
}

// inStep reports what changed, and that there is no trouble.
func (s *Source) inStep() {
	if s.trouble != "" {
		s.log.Info("etcd is back", zap.Stringer("source", s))
	}
	if s.reported && s.trouble == "" && !s.held.changed {
		return
	}
	event := s.held.event(!s.reported)
	s.reported, s.trouble, s.pause = true, "", firstPause
	for _, key := range event.Removed {
		s.status.forget(key)
	}
	s.status.unread(s.options.Prefix, s.held.errs)
	s.report(event)
}
