// SPDX-License-Identifier: Apache-2.0

// Package daemon runs a forwarder as a process: it takes snapshots from wherever they come, answers the CLI on a unix
// socket, and stops cleanly.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// Snapshots is where desired state comes from: control, or what stands in for it. It calls apply with every snapshot,
// one at a time, until the context ends; apply's error says why a snapshot was refused.
type Snapshots interface {
	Run(ctx context.Context, apply func(context.Context, *api.Snapshot) error) error
}

// Options is how the daemon runs.
type Options struct {
	Run       string // directory of the socket and the pid file
	Forwarder forwarder.Config
	Snapshots Snapshots
	Metrics   string    // address to serve Prometheus metrics on; empty: none
	Ready     io.Writer // gets the line "ready" once ports forward
}

// SetUpError is what has to be put right before the daemon can run at all: mains exit with status 2 for it.
type SetUpError struct{ Err error }

// Error is the inner error's text.
func (e *SetUpError) Error() string { return e.Err.Error() }

// Unwrap returns the inner error.
func (e *SetUpError) Unwrap() error { return e.Err }

// Run forwards until the context ends. Nothing stays attached when it returns.
func Run(ctx context.Context, o Options) (err error) {
	log := o.Forwarder.Logger
	if missing := xdpprog.MissingCapabilities(); missing != "" {
		return &SetUpError{fmt.Errorf("missing %s: run as root, or grant these capabilities", missing)}
	}
	release, err := claim(o.Run)
	if err != nil {
		return &SetUpError{err}
	}
	defer release()
	releasePins, err := claimPins(o.Forwarder.Pins)
	if err != nil {
		return &SetUpError{err}
	}
	defer releasePins()

	f := forwarder.New(o.Forwarder)
	defer func() {
		if closeErr := f.Close(); closeErr != nil {
			log.Error("stopping", zap.Error(closeErr))
			err = errors.Join(err, closeErr)
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve(ctx, f, filepath.Join(o.Run, "dataplane.sock")) })
	if o.Metrics != "" {
		group.Go(func() error { return serveMetrics(ctx, f, o.Metrics) })
	}
	group.Go(func() error { return f.Follow(ctx) })
	group.Go(func() error { return o.Snapshots.Run(ctx, applier(f, log, o.Ready)) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// applier applies snapshots. The first one has to be right, or there is nothing to forward by; a later one that is
// refused leaves the tables before it in force.
func applier(f *forwarder.Forwarder, log *zap.Logger, ready io.Writer) func(context.Context, *api.Snapshot) error {
	return func(ctx context.Context, s *api.Snapshot) error {
		first := f.Epoch() == 0
		start := time.Now()
		if err := f.Apply(ctx, s); err != nil {
			if first {
				return &SetUpError{err}
			}
			log.Error("snapshot refused; the tables before it stay in force",
				zap.Uint64("epoch", s.Epoch), zap.Error(err))
			return err
		}
		log.Info("snapshot in force", zap.Uint64("epoch", s.Epoch), zap.Int("ports", len(s.Ports)),
			zap.Int("routes", len(s.Routes)), zap.Duration("took", time.Since(start)))
		if first && ready != nil {
			_, err := fmt.Fprintln(ready, "ready")
			return err
		}
		return nil
	}
}

// claim makes the run directory this process's own by a lock that ends with it.
func claim(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	path := filepath.Join(dir, "dataplane.pid")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open pid file: %w", err)
	}
	if err := lock(file); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(file, 32))
		_ = file.Close()
		return nil, fmt.Errorf("%s is in use by process %s; stop it or give another --run directory", dir, trim(owner))
	}
	if err = file.Truncate(0); err == nil {
		_, err = fmt.Fprintf(file, "%d\n", os.Getpid())
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	return func() {
		_ = file.Truncate(0) // removing it would let two later processes lock different files
		_ = file.Close()
	}, nil
}
