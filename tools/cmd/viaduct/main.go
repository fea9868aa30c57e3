// SPDX-License-Identifier: Apache-2.0

// Command viaduct runs a dataplane on one machine, looks at a running one, replays captures through one, and shows what
// one does.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/tools/demo"
	"github.com/viaduct-net/viaduct/tools/exit"
	"github.com/viaduct-net/viaduct/tools/explain"
	"github.com/viaduct-net/viaduct/tools/install"
	"github.com/viaduct-net/viaduct/tools/replay"
	"github.com/viaduct-net/viaduct/tools/show"
	"github.com/viaduct-net/viaduct/tools/up"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "viaduct:", err)
	}
	os.Exit(exit.Status(err))
}

func root() *cobra.Command {
	flags := &show.Flags{}
	v, revision, _ := process.Build()
	c := &cobra.Command{
		Use:     "viaduct",
		Version: fmt.Sprintf("%s %.12s", v, revision),
		Short:   "Run a userspace packet dataplane, look at it, replay captures through it",
		Long: `Run a userspace packet dataplane on one machine, look at a running one, replay captures through
it, see it work.

Exit status: 0 all is well; 1 the command ran, and what it looked at is not as it should be; 2 it could not run.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if flags.Output != "text" && flags.Output != "json" {
				return fmt.Errorf("--output %q is neither text nor json", flags.Output)
			}
			return nil
		},
	}
	c.PersistentFlags().StringVar(&flags.Run, "run", "/run/viaduct", "run directory of the dataplane, with its socket")
	c.PersistentFlags().StringVarP(&flags.Output, "output", "o", "text", "text, for people, or json, stable for scripts")
	_ = c.MarkPersistentFlagDirname("run")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"},
		cobra.ShellCompDirectiveNoFileComp))
	c.AddCommand(show.Commands(flags)...)
	c.AddCommand(explain.Command(flags))
	c.AddCommand(up.Command(), replay.Command(&flags.Output), demo.Command(&flags.Output), version(&flags.Output))
	c.AddCommand(install.Command(&flags.Run, &flags.Output))
	return c
}

func version(output *string) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, revision, toolchain := process.Build()
			format := "viaduct %s, revision %s, built with %s\n"
			if *output == "json" {
				format = "{\"version\":%q,\"revision\":%q,\"go\":%q}\n"
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), format, v, revision, toolchain)
			return err
		},
	}
}
