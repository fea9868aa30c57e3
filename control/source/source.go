// SPDX-License-Identifier: Apache-2.0

// Package source is where desired state comes from. Its subpackages are the sources; all of them give the same
// objects the same meaning.
package source

import (
	"context"
	"fmt"

	"github.com/viaduct-net/viaduct/control/model"
)

// Event is a step of desired state. Whoever takes events may put several into one: of an object the newest form wins.
type Event struct {
	// Whole says that Set is all there is: what was said earlier, and is not in it, is gone.
	Whole bool
	// Set are the objects that were added or replaced. Of an object whose latest form was refused the last good one
	// stays in force, and is not said again.
	Set []*model.Object
	// Removed are the keys of objects that are gone; none of them is in Set.
	Removed []model.Key
	// Errors are all refusals that stand at this moment, ordered by place and key; empty when all is well.
	Errors []*model.Error
	// Trouble is what is wrong with the source itself, in one line; empty when it is in step. What it said before
	// stays in force.
	Trouble string
}

// Source is a place that desired state comes from.
type Source interface {
	fmt.Stringer // as --source has it: "dir:/etc/viaduct"

	// Run reports the whole state once it is first known, then each change of it, of its errors or of its trouble,
	// until ctx is done, when it returns nil. Trouble may be reported before the first state. It calls report from one
	// goroutine, and not again before report has returned. It returns an error only when the source cannot be used at
	// all: a directory that is not there, an address that does not parse.
	Run(ctx context.Context, report func(Event)) error
}

// Publisher is a source that objects' statuses can be written to.
type Publisher interface {
	// Publish takes note of what became of objects on this node, and returns at once. It is written in the background,
	// at a bounded rate, while Run runs; of an object the newest status wins.
	Publish(Report)
}

// Report says what became of objects on one node.
type Report struct {
	Node     string
	Epoch    uint64 // in force on the node
	Statuses []Status
}

// Status is what became of one object. An object that does not concern the node has none, or one that is Gone when
// it did before.
type Status struct {
	Object  *model.Object
	Applied bool
	// Gone: the object does not concern the node any more, or is no more. Whatever was said of it for this node is to
	// be taken back; Applied, Field and Message say nothing.
	Gone    bool
	Field   string // at fault; empty when applied, or when the whole is meant
	Message string // lower case, one line; empty when applied
}
