// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

func policies(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:     "policies [NAME]",
		Short:   "Show the policies in force, their rules, and whom they judge",
		Example: "  viaduct policies\n  viaduct policies shop/web\n  viaduct policies --address 10.244.1.7",
		Args:    cobra.MaximumNArgs(1),
	}
	var ask api.PoliciesRequest
	c.Flags().StringVar(&ask.Address, "address", "", "only those that judge what this address sends and receives")
	return command(f, c, func(_ *cobra.Command, args []string) view[*api.PoliciesReply] {
		ask.Name = optional(args)
		return view[*api.PoliciesReply]{
			ask: func(ctx context.Context, c *Client) (*api.PoliciesReply, error) {
				return c.Policies(ctx, &ask)
			},
			text: policiesText,
		}
	})
}

func flows(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "flows",
		Short: "Show the flows that are tracked: who opened them, their state, and the rule that let them in",
		Example: "  viaduct flows --port default/web\n  viaduct flows --address 10.244.1.7 --protocol tcp\n" +
			"  viaduct flows --limit 0",
		Args: cobra.NoArgs,
	}
	var ask api.FlowsRequest
	c.Flags().StringVar(&ask.Address, "address", "", "only those with this address at either end")
	c.Flags().StringVar(&ask.Protocol, "protocol", "", "only those of tcp, udp, sctp, icmp, icmpv6 or a number")
	c.Flags().Uint32Var(&ask.Limit, "limit", 1000, "at most so many; 0: all")
	portFlag(f, c, &ask.Port, "only those that come in or go out by this port")
	_ = c.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		[]string{"tcp", "udp", "sctp", "icmp", "icmpv6"}, cobra.ShellCompDirectiveNoFileComp))
	return command(f, c, func(*cobra.Command, []string) view[*api.FlowsReply] {
		return view[*api.FlowsReply]{
			ask: func(ctx context.Context, c *Client) (*api.FlowsReply, error) {
				return c.Flows(ctx, &ask)
			},
			text: flowsText,
		}
	})
}

func denials(f *Flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "denials",
		Short: "Show the flows that policy denied lately, and those that staged policies would have denied, with the rule",
		Long: `Show the flows that policy denied lately, the latest first, with the rule that decided, and flows that were
let in and that policies which are staged would have denied. Each worker remembers the latest thousand or so.`,
		Example: "  viaduct denials --port default/web\n  viaduct denials --address 10.244.1.7 --watch",
		Args:    cobra.NoArgs,
	}
	var ask api.DenialsRequest
	c.Flags().StringVar(&ask.Address, "address", "", "only of flows with this address at either end")
	portFlag(f, c, &ask.Port, "only of flows that come in or would go out by this port")
	return command(f, c, func(*cobra.Command, []string) view[*api.DenialsReply] {
		return view[*api.DenialsReply]{
			ask: func(ctx context.Context, c *Client) (*api.DenialsReply, error) {
				return c.Denials(ctx, &ask)
			},
			text: denialsText,
		}
	})
}

// Denials asks for the flows that policy denied lately.
func (c *Client) Denials(ctx context.Context, ask *api.DenialsRequest) (*api.DenialsReply, error) {
	return plain(c.rpc.Denials(ctx, ask))
}

// portFlag gives c the flag --port, completed from the running dataplane.
func portFlag(f *Flags, c *cobra.Command, port *string, usage string) {
	c.Flags().StringVar(port, "port", "", usage)
	_ = c.RegisterFlagCompletionFunc("port", func(c *cobra.Command, _ []string, _ string) (
		[]string, cobra.ShellCompDirective) {
		return portNames(c.Context(), f.Run), cobra.ShellCompDirectiveNoFileComp
	})
}

// Policies asks for the policies in force and gathers the stream into one reply.
func (c *Client) Policies(ctx context.Context, ask *api.PoliciesRequest) (*api.PoliciesReply, error) {
	all := &api.PoliciesReply{}
	stream, err := c.rpc.Policies(ctx, ask)
	return all, gather(stream, err, func(part *api.PoliciesReply) {
		all.Epoch = part.Epoch
		all.Policies = append(all.Policies, part.Policies...)
	})
}

// Flows asks for the flows that are tracked and gathers the stream into one reply.
func (c *Client) Flows(ctx context.Context, ask *api.FlowsRequest) (*api.FlowsReply, error) {
	all := &api.FlowsReply{}
	stream, err := c.rpc.Flows(ctx, ask)
	return all, gather(stream, err, func(part *api.FlowsReply) { all.Flows = append(all.Flows, part.Flows...) })
}

// Explain asks what the policies in force say of a flow.
func (c *Client) Explain(ctx context.Context, ask *api.ExplainRequest) (*api.ExplainReply, error) {
	return plain(c.rpc.Explain(ctx, ask))
}

func policiesText(w io.Writer, r *api.PoliciesReply) error {
	t := newTable("POLICY", "TIER", ">PRIORITY", "ISOLATES", ">JUDGES", "RULE", "ACTION", "PEERS", "PORTS")
	for _, p := range r.Policies {
		tier, priority := p.Tier, ""
		if p.Staged {
			tier += ", staged"
		}
		if p.Tier != "namespace" {
			priority = fmt.Sprint(p.Priority)
		}
		head := []any{p.Name, tier, priority, strings.Join(p.Isolates, " "), len(p.Subjects)}
		if len(p.Rules) == 0 {
			t.add(append(head, "", "", "", "")...)
		}
		for i, rule := range p.Rules {
			if i > 0 { // a further rule of the same policy
				head = []any{" ", " ", " ", " ", " "}
			}
			t.add(append(head[:5:5], rule.Name, rule.Action, anyOf(rule.Peers), anyOf(rule.Ports))...)
		}
	}
	return t.write(w)
}

// anyOf lists what matches, where an empty list is everything.
func anyOf(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return strings.Join(list, ", ")
}

func flowsText(w io.Writer, r *api.FlowsReply) error {
	t := newTable("PROTOCOL", "STATE", "SOURCE", "DESTINATION", "IN", "OUT", ">PACKETS", ">BYTES", ">BACK", ">BYTES",
		"CARRIED", ">BY KERNEL", ">IDLE", ">EXPIRES", "SERVICE", "RULE")
	for _, f := range r.Flows {
		source, destination := flowEnds(f)
		t.add(f.Protocol, f.State, source, destination, f.InPort, f.OutPort, f.Packets, f.Bytes, f.ReplyPackets,
			f.ReplyBytes, yesNo(f.Carried), f.CarriedPackets+f.ReplyCarriedPackets, short(f.IdleNanoseconds),
			short(f.ExpiresNanoseconds), f.Translation.GetService(), f.Rule)
	}
	return t.write(w)
}

// flowEnds are a flow's ends as its opener sends them, and behind "=>" what each becomes for the other end.
func flowEnds(f *api.Flow) (source, destination string) {
	source, destination = endText(f.Source, f.SourcePort), endText(f.Destination, f.DestinationPort)
	t := f.Translation
	if t == nil {
		return source, destination
	}
	for _, end := range []struct {
		text    *string
		becomes string
	}{
		{&source, endText(t.Source, t.SourcePort)}, {&destination, endText(t.Destination, t.DestinationPort)},
	} {
		if end.becomes != *end.text {
			*end.text += " => " + end.becomes
		}
	}
	return source, destination
}

func denialsText(w io.Writer, r *api.DenialsReply) error {
	t := newTable(">AGO", "PROTOCOL", "SOURCE", "DESTINATION", "FROM", "TO", ">PACKETS", "REASON", "RULE")
	for _, d := range r.Denials {
		reason := d.Reason
		if d.Staged {
			reason = "staged"
		}
		t.add(short(d.LastNanoseconds), d.Protocol, endText(d.Source, d.SourcePort),
			endText(d.Destination, d.DestinationPort), d.InPort, d.OutPort, d.Packets, reason, d.Rule)
	}
	return t.write(w)
}

func endText(address string, port uint32) string {
	switch {
	case port == 0:
		return address
	case strings.Contains(address, ":"):
		return fmt.Sprintf("[%s]:%d", address, port)
	}
	return fmt.Sprintf("%s:%d", address, port)
}

func short(nanoseconds uint64) string {
	return time.Duration(nanoseconds).Round(100 * time.Millisecond).String()
}
