// SPDX-License-Identifier: Apache-2.0

// Command viaduct-perf measures forwarders beside each other, in network namespaces of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes.
const (
	exitFailed = 1 // a measurement failed or was interrupted
	exitUsage  = 2 // flags or the machine do not allow one
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is what no measurement can change.
type usageError struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := command(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "viaduct-perf:", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}
