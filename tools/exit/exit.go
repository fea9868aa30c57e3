// SPDX-License-Identifier: Apache-2.0

// Package exit ties errors to the exit status that a script sees.
package exit

import "errors"

// Exit statuses of every command.
const (
	OK     = 0
	Failed = 1 // it ran, and what it looked at is not as it should be
	SetUp  = 2 // it could not run: flags, privileges, files, no daemon
)

// Error is an error with an exit status.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Fail marks err as one of status Failed. A nil err stays nil.
func Fail(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Status: Failed, Err: err}
}

// Status returns the exit status that belongs to err: that of an Error in its tree, else SetUp.
func Status(err error) int {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return SetUp
}
