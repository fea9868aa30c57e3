// SPDX-License-Identifier: Apache-2.0

// Package push follows a source, compiles what it says, and hands the snapshots on.
package push

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/source"
)

// Local pushes to a dataplane of the same process.
type Local struct {
	Source source.Source
	Node   string // which NodeConfig is this node's; empty: the only one there is
	Log    *zap.Logger

	numbers compile.Numbers
	epoch   uint64
}

// Run calls apply with a snapshot for every state that the source reports, until the context ends. It fails where the
// first snapshot cannot be made or is refused: there is nothing to fall back on. Later refusals are logged.
func (l *Local) Run(ctx context.Context, apply func(context.Context, *api.Snapshot) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err := l.Source.Run(ctx, func(e source.Event) {
		if err := l.push(ctx, e, apply); err != nil && l.epoch == 0 {
			stop(err)
		}
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func (l *Local) push(ctx context.Context, e source.Event, apply func(context.Context, *api.Snapshot) error) error {
	out, err := compile.Compile(compile.Input{
		State: e.State, Node: l.Node, Epoch: l.epoch + 1, Previous: l.numbers,
	})
	if err != nil && l.epoch == 0 { // the caller says it
		if len(e.Errors) > 0 {
			return e.Errors[0] // which explains it better
		}
		return err
	}
	for _, refused := range e.Errors {
		l.Log.Error("manifest refused", zap.Error(refused))
	}
	if err != nil {
		l.Log.Error("no snapshot can be made; what is in force stays", zap.Error(err))
		return err
	}
	for _, refused := range out.Errors {
		l.Log.Error("object left out", zap.Error(refused))
	}
	if err := apply(ctx, out.Snapshot); err != nil {
		return err
	}
	l.epoch, l.numbers = out.Snapshot.Epoch, out.Numbers
	return nil
}
