// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/ttrpc"
	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Codes of our own; the specification leaves those from 100 on to plugins.
const (
	errExhausted = 100 // no address or port number is free
	errTaken     = 101 // the address or host port that was asked for is another's
	errDiffers   = 102 // CHECK: something is not as ADD left it
	errForeign   = 103 // the host has a device of the name that is not ours
)

// fail is the specification's error for a step and its cause, each on one line.
func fail(code uint, step string, cause error) *types.Error {
	return types.NewError(code, line(step), line(cause.Error()))
}

func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// invalid is an error of the network configuration, and argument one of the environment.
func invalid(format string, args ...any) *types.Error {
	return types.NewError(types.ErrInvalidNetworkConfig, line(fmt.Sprintf(format, args...)), "")
}

func argument(format string, args ...any) *types.Error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, line(fmt.Sprintf(format, args...)), "")
}

// answered is the specification's error for what control said; the codes are those of attach.proto. Whatever kept
// control from answering can pass.
func answered(step string, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	cause := errors.New(s.Message())
	if isAway(err) {
		return fail(types.ErrTryAgainLater, step, cause)
	}
	number := types.ErrInternal
	switch s.Code() {
	case codes.ResourceExhausted:
		number = errExhausted
	case codes.InvalidArgument:
		number = types.ErrInvalidNetworkConfig
	case codes.AlreadyExists:
		number = errTaken
	case codes.NotFound, codes.FailedPrecondition:
		number = errDiffers
	}
	return fail(number, step, cause)
}

// code is that of an error of ours, 0 without one.
func code(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// isAway says whether control did not answer, or said that the dataplane does not.
func isAway(err error) bool {
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) {
		return true
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

// followed adds to an error what went wrong when its traces were removed, unless that is the same once more.
func followed(err, undo error) error {
	if undo == nil || undo.Error() == err.Error() {
		return err
	}
	var e *types.Error
	if !errors.As(err, &e) {
		e = fail(types.ErrInternal, "add the interface", err)
	}
	return fail(e.Code, e.Msg, fmt.Errorf("%s; then, undoing it: %w", e.Details, undo))
}

// first returns an only error as it is, with its code.
func first(errs []error) error {
	var some []error
	for _, err := range errs {
		if err != nil {
			some = append(some, err)
		}
	}
	if len(some) == 1 {
		return some[0]
	}
	return errors.Join(some...)
}
