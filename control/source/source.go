// SPDX-License-Identifier: Apache-2.0

// Package source is where desired state comes from. Its subpackages are the sources; all of them give the same
// objects the same meaning.
package source

import (
	"context"

	"github.com/viaduct-net/viaduct/control/model"
)

// Event is the whole of desired state at one moment.
type Event struct {
	// State holds every object that is in force. Of an object whose latest form was refused it is the last good one.
	State model.State
	// Errors are the refusals that stand at this moment, ordered by place; empty when all is well.
	Errors []*model.Error
}

// Source is a place that desired state comes from.
type Source interface {
	// Run reports the state once it is first known, and after each change of it or of its errors, until ctx is done,
	// when it returns nil. It calls report from one goroutine, and not again before report has returned. It returns an
	// error only when the source cannot be used at all.
	Run(ctx context.Context, report func(Event)) error
}
