// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
)

// Main runs a daemon's command until it ends, or until one of the signals comes, and ends the process: with status
// ExitFailed after a RunError, with ExitSetUp after any other error, which it prints.
func Main(c *cobra.Command, stops ...os.Signal) {
	ctx, stop := signal.NotifyContext(context.Background(), stops...)
	err := c.ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name(), err)
	var failed *RunError
	if errors.As(err, &failed) {
		os.Exit(ExitFailed)
	}
	os.Exit(ExitSetUp)
}

// RunError is a fault of a running daemon: neither of its flags nor of its set-up.
type RunError struct{ Err error }

// Error is the inner error's text.
func (e *RunError) Error() string { return e.Err.Error() }

// Unwrap returns the inner error.
func (e *RunError) Unwrap() error { return e.Err }

// Ran makes a RunError of what a daemon returned, unless that is nil or a SetUpError.
func Ran(err error) error {
	var setUp *SetUpError
	if err == nil || errors.As(err, &setUp) {
		return err
	}
	return &RunError{err}
}
