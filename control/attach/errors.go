// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
)

// coded gives an error the code that control/api/attach/attach.proto has for it.
func coded(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codeOf(err), err.Error())
}

func codeOf(err error) codes.Code {
	var (
		request   *requestError
		exhausted *lease.ExhaustedError
		taken     *lease.TakenError
		port      *lease.PortTakenError
		outside   *lease.OutsideError
		away      *push.AwayError
		closed    *push.ClosedError
		refused   *push.RefusedError
		numbers   *push.NumbersError
		another   *anotherError
	)
	switch {
	case errors.As(err, &request), errors.As(err, &outside), errors.As(err, &refused), errors.Is(err, lease.ErrKey):
		return codes.InvalidArgument
	case errors.As(err, &exhausted), errors.As(err, &numbers):
		return codes.ResourceExhausted
	case errors.As(err, &taken), errors.As(err, &port):
		return codes.AlreadyExists
	case errors.As(err, &closed):
		return codes.FailedPrecondition
	case errors.As(err, &away), errors.As(err, &another), errors.Is(err, lease.ErrNoPools),
		errors.Is(err, lease.ErrClosed), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return codes.Unavailable
	}
	return codes.Internal
}

// anotherError is a refusal that is not the attachment's own fault: what is wrong may be put right.
type anotherError struct{ refused *push.RefusedError }

func (e *anotherError) Error() string { return "no snapshot is taken: " + e.refused.Error() }

// blame makes a refusal that names something else than the port's attachment another's.
func blame(port string, err error) error {
	var refused *push.RefusedError
	if errors.As(err, &refused) && refused.Object != compile.Origin(port) {
		return &anotherError{refused}
	}
	return err
}
