// SPDX-License-Identifier: Apache-2.0

// Command viaduct-dataplane forwards packets as viaduct-control says.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/dataplane/daemon"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/internal/process"
)

func main() {
	stops := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		stops = append(stops, syscall.SIGHUP) // the terminal is gone
	}
	process.Main(command(), stops...)
}

func command() *cobra.Command {
	var f process.Flags
	var o daemon.Options
	c := &cobra.Command{
		Use:     "viaduct-dataplane",
		Version: forwarder.Version(),
		Short:   "Forward packets as viaduct-control says, in userspace, through AF_XDP sockets",
		Long: `Forward packets as viaduct-control says, in userspace, through AF_XDP sockets.

What to forward comes from viaduct-control, by the socket control.sock in the --run directory. A change is in force a
moment after control sends it, and no packet is lost by it; one that is wrong is refused, and what was in force stays.
While control is away forwarding goes on, and control is waited for. The last good snapshot is kept in the --state
directory: a dataplane that starts while control is away starts from it.

"ready" on standard output says that tables are in force: ports forward whose devices are there; the others do when
theirs appear. SIGINT, SIGTERM and SIGHUP stop cleanly: pinned hooks stay, and carry the flows that they know; with
--cleanup they are detached, and the devices are the kernel's again.
Exit status: 0 stopped, 1 failed while running, 2 could not start.`,
		Example: `  viaduct-dataplane --metrics 127.0.0.1:9440
  viaduct-dataplane --run /tmp/lab --state /tmp/lab --sockets asavie --xdp generic --spin -1s`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), f, o) },
	}
	f.Add(c.Flags())
	o.Flags(c.Flags())
	c.Flags().StringVar(&o.Node, "node", "", "name of this node (default: whatever control works for)")
	_ = c.RegisterFlagCompletionFunc("sockets", cobra.FixedCompletions([]string{"viaduct", "asavie"}, 0))
	_ = c.RegisterFlagCompletionFunc("xdp", cobra.FixedCompletions([]string{"auto", "native", "generic"}, 0))
	return c
}

func run(ctx context.Context, f process.Flags, o daemon.Options) error {
	log, err := f.Logger()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	o.Run, o.State, o.Logger, o.Ready = f.Run, f.State, log, os.Stdout
	return process.Ran(daemon.Run(ctx, o))
}
