// SPDX-License-Identifier: Apache-2.0

// Package up is "viaduct up": control and dataplane in one process, for one machine. The two speak through the same
// sockets as when each has a process of its own.
package up

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/viaduct-net/viaduct/control/api"
	control "github.com/viaduct-net/viaduct/control/daemon"
	dataplane "github.com/viaduct-net/viaduct/dataplane/daemon"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/tools/exit"
)

// Command returns "viaduct up".
func Command() *cobra.Command {
	var flags process.Flags
	var c control.Options
	var d dataplane.Options
	var manifests string
	cmd := &cobra.Command{
		Use:   "up --manifests DIR",
		Short: "Run dataplane and control in the foreground: forward as a directory of manifests says",
		Long: `Run dataplane and control in the foreground, as one process.

The directory of manifests holds one NodeConfig (or one for each node: see --node), Route objects, and whatever
Kubernetes objects there are. It is watched: a change is in force a moment after the file is written, and no packet is
lost by it. A manifest that is wrong is refused, and said in the log and by "viaduct status"; what was in force stays.
With --source the objects come from etcd or from the Kubernetes API instead.

"ready" on standard output says that the tables are in force. SIGINT and SIGTERM stop cleanly: hooks are detached, and
the devices are the kernel's again. SIGHUP reads everything again. Exit status: 0 stopped, 1 failed while running,
2 could not start.`,
		Example: `  viaduct up --manifests /etc/viaduct/manifests
  viaduct up --manifests lab --sockets asavie --xdp generic --spin -1s
  viaduct up --source etcd:https://10.0.0.1:2379 --etcd-ca ca.pem --node node-a`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if manifests != "" {
				c.Source = "dir:" + manifests
			}
			if c.Source == "" {
				return errors.New("say where desired state comes from: --manifests DIR, or --source")
			}
			log, err := flags.Logger()
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			c.Run, c.State, c.Logger = flags.Run, flags.State, log.Named("control")
			d.Run, d.State, d.Logger = flags.Run, flags.State, log.Named("dataplane")
			d.Release = true
			d.Node = cmp.Or(c.Node, os.Getenv("NODE_NAME")) // else control finds out which it is
			return run(cmd.Context(), c, d, cmd.OutOrStdout())
		},
	}
	s := cmd.Flags()
	s.StringVar(&manifests, "manifests", "", "directory of YAML manifests; short for --source dir:DIR")
	flags.Add(s)
	c.Flags(s)
	d.Flags(s)
	s.StringVar(&c.Metrics, "control-metrics", "",
		"address to serve control's metrics, /healthz and /readyz on, such as 127.0.0.1:9441")
	cmd.MarkFlagsMutuallyExclusive("manifests", "source")
	_ = cmd.MarkFlagDirname("manifests")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml", "json")
	_ = cmd.RegisterFlagCompletionFunc("sockets", cobra.FixedCompletions([]string{"viaduct", "asavie"}, 0))
	_ = cmd.RegisterFlagCompletionFunc("xdp", cobra.FixedCompletions([]string{"auto", "native", "generic"}, 0))
	_ = cmd.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(
		[]string{"dir:", "etcd:https://", "kubernetes"}, cobra.ShellCompDirectiveNoSpace))
	return cmd
}

// run runs both until the context ends or one of them fails.
func run(ctx context.Context, c control.Options, d dataplane.Options, ready io.Writer) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return control.Run(ctx, c) })
	group.Go(func() error { return dataplane.Run(ctx, d) })
	group.Go(func() error { return announce(ctx, c.Run, ready) })
	err := group.Wait()
	var setUp *process.SetUpError
	if err == nil || errors.As(err, &setUp) {
		return err
	}
	return exit.Fail(err)
}

// announce prints "ready" once the dataplane has in force what control has last made.
func announce(ctx context.Context, run string, w io.Writer) error {
	conn, err := process.Dial(filepath.Join(run, "control.sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := api.NewControlClient(conn)
	for {
		s, err := client.Status(ctx, &api.StatusRequest{})
		if err == nil && s.Epoch != 0 && s.GetDataplane().GetEpoch() == s.Epoch {
			_, err := fmt.Fprintln(w, "ready")
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}
