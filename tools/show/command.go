// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/tools/exit"
)

// Flags are those that every command here has.
type Flags struct {
	Run    string // directory of the dataplane's socket
	Output string // "text" or "json"
}

// view is one command: what it asks for, and how a person sees it.
type view[T any] struct {
	ask   func(ctx context.Context, c *Client) (T, error)
	text  func(w io.Writer, reply T) error
	judge func(reply T) error // its error is the command's, after the reply was printed
	alone bool                // it has something to show where no dataplane runs
}

// Commands returns the commands that read a running dataplane.
func Commands(f *Flags) []*cobra.Command {
	return []*cobra.Command{
		status(f), ports(f), routes(f), neighbors(f), identities(f), policies(f), services(f), flows(f),
		denials(f), drops(f),
	}
}

func ports(f *Flags) *cobra.Command {
	return command(f, ofPort(f, "ports", "Show the ports in force and what their devices gave"),
		func(_ *cobra.Command, args []string) view[*api.PortsReply] {
			return view[*api.PortsReply]{
				ask: func(ctx context.Context, c *Client) (*api.PortsReply, error) {
					return c.Ports(ctx, optional(args))
				},
				text: portsText,
			}
		})
}

func routes(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:     "routes",
		Short:   "Show the routes in force",
		Example: "  viaduct routes --within 10.0.0.0/8\n  viaduct routes --to 10.2.0.7",
		Args:    cobra.NoArgs,
	}
	within := c.Flags().String("within", "", "only routes inside this prefix")
	to := c.Flags().String("to", "", "only the route that this address takes")
	c.MarkFlagsMutuallyExclusive("within", "to")
	return command(f, c, func(*cobra.Command, []string) view[*api.RoutesReply] {
		return view[*api.RoutesReply]{
			ask: func(ctx context.Context, c *Client) (*api.RoutesReply, error) {
				return c.Routes(ctx, &api.RoutesRequest{Prefix: *within, Address: *to})
			},
			text: routesText,
		}
	})
}

func neighbors(f *Flags) *cobra.Command {
	return command(f, ofPort(f, "neighbors", "Show the neighbour cache"),
		func(_ *cobra.Command, args []string) view[*api.NeighborsReply] {
			return view[*api.NeighborsReply]{
				ask: func(ctx context.Context, c *Client) (*api.NeighborsReply, error) {
					return c.Neighbors(ctx, optional(args))
				},
				text: neighborsText,
			}
		})
}

func identities(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:     "identities",
		Short:   "Show the identities in force: label sets, and the addresses that have them",
		Example: "  viaduct identities --namespace shop\n  viaduct identities --address 10.244.1.7",
		Args:    cobra.NoArgs,
	}
	var ask api.IdentitiesRequest
	c.Flags().StringVar(&ask.Address, "address", "", "only the identity of this address")
	c.Flags().StringVar(&ask.Namespace, "namespace", "", "only those of this namespace's pods")
	return command(f, c, func(*cobra.Command, []string) view[*api.IdentitiesReply] {
		return view[*api.IdentitiesReply]{
			ask: func(ctx context.Context, c *Client) (*api.IdentitiesReply, error) {
				return c.Identities(ctx, &ask)
			},
			text: identitiesText,
		}
	})
}

func drops(f *Flags) *cobra.Command {
	c := ofPort(f, "drops", "Show what became of every packet, by port and reason, and whether the ledger balances")
	c.Long = c.Short + ".\n\nExit status 1 when it does not balance."
	return command(f, c, func(_ *cobra.Command, args []string) view[*api.LedgerReply] {
		return view[*api.LedgerReply]{
			ask: func(ctx context.Context, c *Client) (*api.LedgerReply, error) {
				return c.Ledger(ctx, optional(args))
			},
			text: dropsText,
			judge: func(r *api.LedgerReply) error {
				if !r.Balanced {
					return exit.Fail(errors.New(balanceText(r)))
				}
				return nil
			},
		}
	})
}

// ofPort is a command that takes the name of a port, completed from the running dataplane.
func ofPort(f *Flags, name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " [PORT]", Short: short, Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return portNames(c.Context(), f.Run), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func portNames(ctx context.Context, run string) []string {
	client, err := Connect(run)
	if err != nil {
		return nil
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	reply, err := client.Ports(ctx, "")
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range reply.Ports {
		names = append(names, p.Name)
	}
	return names
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// command gives c the flags of watching and makes it print its view.
func command[T any](
	f *Flags, c *cobra.Command, viewOf func(*cobra.Command, []string) view[T],
) *cobra.Command {
	watch := c.Flags().Bool("watch", false, "print again and again, until interrupted; json: one line each time")
	interval := c.Flags().Duration("interval", time.Second, "time between two prints of --watch")
	c.RunE = func(c *cobra.Command, args []string) error {
		v := viewOf(c, args)
		client, err := Connect(f.Run)
		if err != nil && v.alone {
			client, err = withoutDataplane(f.Run, err), nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		if !*watch {
			return v.once(c.Context(), client, c.OutOrStdout(), f.Output, true)
		}
		if *interval <= 0 {
			return fmt.Errorf("--interval %v is not a positive time", *interval)
		}
		return v.watch(c.Context(), client, c.OutOrStdout(), f.Output, *interval)
	}
	return c
}

func (v view[T]) once(ctx context.Context, client *Client, w io.Writer, output string, indent bool) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	reply, err := v.ask(ctx, client)
	if err != nil {
		return err
	}
	if output == "json" {
		err = writeJSON(w, reply, indent)
	} else {
		err = v.text(w, reply)
	}
	if err == nil && v.judge != nil {
		err = v.judge(reply)
	}
	return err
}

// watch prints until the context ends, which is no error. On a terminal each print takes the place of the last.
func (v view[T]) watch(ctx context.Context, client *Client, w io.Writer, output string, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if output == "text" && isTerminal(w) {
			_, _ = io.WriteString(w, "\x1b[H\x1b[2J")
		}
		if err := v.once(ctx, client, w, output, false); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
