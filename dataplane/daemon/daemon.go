// SPDX-License-Identifier: Apache-2.0

// Package daemon runs a forwarder as a process: it starts from the last good snapshot, follows control, answers the
// CLI on a unix socket, and stops cleanly.
//
// Files: options.go (flags), daemon.go (start and stop), serve.go (what the CLI and Prometheus read), pins.go.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/follow"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/dataplane/lastgood"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// daemon is the parts of the process.
type daemon struct {
	o      Options
	log    *zap.Logger
	f      *forwarder.Forwarder
	file   *lastgood.File
	client *follow.Client
	ready  sync.Once
	from   atomic.Value // string: where the tables in force came from

	releases []func()  // of what this process has claimed
	tookOver time.Time // zero: it did not
}

// heapGrowth is for KeepHeap: packets allocate nothing, and an endpoint's change some 100 KB. startGrowth is until
// packets pass, which the collector is not to delay.
const heapGrowth, startGrowth = 25, 200

// Run forwards until the context ends. What stays attached when it returns is pinned. Errors are *process.SetUpError
// where something has to be put right before it can run at all.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	if missing := xdpprog.MissingCapabilities(); missing != "" {
		return &process.SetUpError{Err: fmt.Errorf("missing %s: run as root, or grant these capabilities", missing)}
	}
	process.KeepHeap(startGrowth)
	d := &daemon{o: o, log: o.Logger}
	cfg := o.forwarder()
	cfg.Changed = func() { d.client.Retry() } // a device that was missing may be there
	var from *predecessor
	if o.TakeOver {
		if from, err = d.askPredecessor(); err != nil {
			return &process.SetUpError{Err: err}
		}
	}
	if from == nil {
		if err := d.claim(); err != nil {
			return err
		}
	}
	defer d.release()
	d.f = forwarder.New(cfg)
	defer func() {
		if closeErr := d.f.Close(); closeErr != nil {
			d.log.Error("stopping", zap.Error(closeErr))
			err = errors.Join(err, closeErr)
		}
	}()
	d.client = follow.New(follow.Config{
		Socket: filepath.Join(o.Run, "control.sock"), Node: o.Node, Version: forwarder.Version(),
		Forwarder: d.f, Applied: d.applied, Logger: d.log,
	})
	if from != nil {
		if err := d.takeOver(ctx, from); err != nil {
			return err
		}
	}
	return d.run(ctx)
}

func (d *daemon) run(ctx context.Context) error {
	d.from.Store("")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.serve(ctx) })
	if d.o.Metrics != "" {
		group.Go(func() error { return d.serveMetrics(ctx) })
	}
	group.Go(func() error { return d.f.Follow(ctx) })
	group.Go(func() error { return d.awaitSuccessor(ctx) })
	group.Go(func() error {
		if d.tookOver.IsZero() {
			d.restore(ctx)
		} else {
			d.file.Save(d.f.InForce())
			d.inForce("predecessor")
		}
		process.KeepHeap(heapGrowth)
		return d.client.Run(ctx)
	})
	err := d.keep(ctx, group.Wait)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errHandedOver) {
		return err
	}
	return nil
}

// keep writes the state file, and what was learned, until wait returns: what is put in force last is written, too.
func (d *daemon) keep(ctx context.Context, wait func() error) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writing sync.WaitGroup
	writing.Go(func() { _ = d.file.Run(ctx) }) // which says itself what fails
	writing.Go(func() { d.file.KeepLearned(ctx, d.f) })
	defer writing.Wait()
	defer stop()
	return wait()
}

// restore starts from the last good snapshot, if there is one.
func (d *daemon) restore(ctx context.Context) {
	s := d.file.Load()
	if s == nil {
		d.log.Info("waiting for control to say what to forward")
		return
	}
	if node := s.GetNode().GetName(); d.o.Node != "" && node != d.o.Node {
		d.log.Warn("the last good snapshot is another node's", zap.String("node", node))
		return
	}
	if b := d.file.LoadLearned(); b != nil {
		if err := d.f.RestoreLearned(b); err != nil {
			d.log.Warn("what was learned is learned anew", zap.Error(err))
		}
	}
	if err := d.f.Apply(ctx, s); err != nil {
		d.log.Error("the last good snapshot does not fit any more: waiting for control", zap.Error(err))
		return
	}
	d.log.Info("last good snapshot in force", zap.Uint64("epoch", s.Epoch), zap.Int("ports", len(s.Ports)),
		zap.Int("routes", len(s.Routes)))
	d.inForce("state file")
}

// applied is told of what control put in force.
func (d *daemon) applied(s *api.Snapshot) {
	d.file.Save(s)
	d.inForce("control")
}

func (d *daemon) inForce(from string) {
	d.from.Store(from)
	d.ready.Do(func() {
		if d.o.Ready != nil {
			if _, err := fmt.Fprintln(d.o.Ready, "ready"); err != nil {
				d.log.Warn("saying ready", zap.Error(err))
			}
		}
	})
}
