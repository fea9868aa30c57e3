// SPDX-License-Identifier: Apache-2.0

// Command viaduct-control keeps a dataplane in step with desired state.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/control/daemon"
	"github.com/viaduct-net/viaduct/internal/process"
)

func main() { process.Main(command(), syscall.SIGINT, syscall.SIGTERM) }

func command() *cobra.Command {
	var f process.Flags
	var o daemon.Options
	version, revision, _ := process.Build()
	c := &cobra.Command{
		Use:     "viaduct-control --source SOURCE",
		Version: fmt.Sprintf("%s %.12s", version, revision),
		Short:   "Keep a dataplane in step with a directory, etcd or Kubernetes",
		Long: `Keep a dataplane in step with desired state.

Objects come from a directory of manifests, from etcd or from the Kubernetes API; they are the same kinds and mean the
same, wherever they come from. What follows from them for this node goes to viaduct-dataplane by the socket
control.sock in the --run directory: whole at first, then as changes. An object that is wrong is refused, and said in
the log, by "viaduct status" and in the object's status; its last good form stays in force.

"ready" on standard output says that the source has told all that it holds. SIGHUP reads the directory and the --config
file again; SIGINT and SIGTERM stop. The dataplane goes on forwarding without control. Exit status: 0 stopped, 1 failed
while running, 2 could not start.`,
		Example: `  viaduct-control --source dir:/etc/viaduct/manifests
  viaduct-control --source etcd:https://10.0.0.1:2379,https://10.0.0.2:2379 --etcd-ca ca.pem --node node-a
  viaduct-control --source kubernetes --node "$NODE_NAME"`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), f, o) },
	}
	f.Add(c.Flags())
	o.Flags(c.Flags())
	c.Flags().StringVar(&o.Metrics, "metrics", "",
		"address to serve Prometheus metrics, /healthz and /readyz on, such as 127.0.0.1:9441")
	_ = c.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(
		[]string{"dir:", "etcd:https://", "kubernetes"}, cobra.ShellCompDirectiveNoSpace))
	_ = c.MarkFlagFilename("config", "yaml", "yml", "json")
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
