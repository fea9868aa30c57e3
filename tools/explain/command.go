// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/tools/exit"
	"github.com/viaduct-net/viaduct/tools/manifests"
	"github.com/viaduct-net/viaduct/tools/show"
)

type flags struct {
	from, to, protocol, port string
	manifests, node          string
}

const long = `Explain what policy says of a flow that would begin: the verdict, the rule that decides, and what was
looked at on the way to it, in order. Both ends' policies are asked, also of pods of other nodes.

An end is NAMESPACE/POD, node/NAME or an address (a pod of a namespace named "node" can be said by its address alone).
Of an end with several addresses of a family the first is taken. A flow is explained in each family that both ends have;
it is denied if one of them is.

The running dataplane is asked, with what it learned from pods' DNS answers, and control where the pods are. With
--manifests neither has to run: the directory is judged by the same tables. Pods and nodes that have no address there
are given one that is set aside for tests (198.18.0.0/15 and 2001:2::/48), so that their labels can be judged; of
ipBlock and networks only prefixes that hold these match them. Addresses have no domain names then. A document that is
refused is left out, as by a control that starts with the directory, and named on standard error (a line "warning: left
out: FILE:LINE (document N): KIND NAME: FIELD: REASON"); the exit status is that of what the others say.

An address of a service is one end as well: the flow is explained to each backend that may be chosen, and may be where
one of them may be reached.

json: {"family", "source", "destination", "verdict": "allow"|"deny", "reason", "rule", "steps", "staged_verdict",
"staged_rule", "epoch", "service", "backends": [{"address", "port", "verdict", "reason", "rule"}, …], "from", "to",
"protocol", "port", "refused": […], "families": […]}. "refused" is what was left out; "families" has an object with
the fields up to "backends" for each family, IPv4 first; those at the top are of the first that is denied, or else of
the first.

Exit status: 0 the flow may be, 1 it is denied, 2 nobody could say.`

const examples = `  viaduct explain --from shop/client --to shop/web --port 80
  viaduct explain --from 192.0.2.7 --to shop/web --protocol udp --port 53
  viaduct explain --from node/n1 --to shop/web --protocol icmp
  viaduct explain --from shop/client --to shop/web --port http --manifests policies/`

// Command returns "viaduct explain".
func Command(f *show.Flags) *cobra.Command {
	var fl flags
	c := &cobra.Command{
		Use:   "explain --from END --to END [--protocol PROTOCOL] [--port PORT] [--manifests DIR [--node NAME]]",
		Short: "Explain what policy says of a flow, and which rule decides",
		Long:  long, Example: examples, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return fl.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), f)
		},
	}
	s := c.Flags()
	s.StringVar(&fl.from, "from", "", "who begins the flow (required)")
	s.StringVar(&fl.to, "to", "", "to whom (required)")
	s.StringVar(&fl.protocol, "protocol", "tcp", "tcp, udp, sctp, icmp, icmpv6 or a number")
	s.StringVar(&fl.port, "port", "", "of the destination, by number or by the name that its containers give it")
	s.StringVar(&fl.manifests, "manifests", "", "directory of manifests to judge by, in the place of what runs")
	s.StringVar(&fl.node, "node", "", "with --manifests: name of the NodeConfig (default: the only one there is)")
	for _, name := range []string{"from", "to"} {
		_ = c.MarkFlagRequired(name)
		_ = c.RegisterFlagCompletionFunc(name, func(c *cobra.Command, _ []string, _ string) (
			[]string, cobra.ShellCompDirective) {
			return fl.pods(c.Context(), f.Run), cobra.ShellCompDirectiveNoFileComp
		})
	}
	_ = c.MarkFlagDirname("manifests")
	_ = c.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		[]string{"tcp", "udp", "sctp", "icmp", "icmpv6"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// pods are those of the manifests, or this node's: their ports have their names.
func (fl *flags) pods(ctx context.Context, run string) (names []string) {
	if fl.manifests == "" {
		return portNames(ctx, run)
	}
	objects, _, _ := manifests.ReadAll(fl.manifests) // without them nothing is offered
	for _, o := range objects {
		if o.Key.Kind == "Pod" {
			names = append(names, o.Key.Namespace+"/"+o.Key.Name)
		}
	}
	return names
}

// portNames are those of stations in a running dataplane, the host's left out; none where none answers.
func portNames(ctx context.Context, run string) (names []string) {
	client, err := show.Connect(run)
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
	for _, p := range reply.Ports {
		if len(p.Station) > 0 && p.Name != model.HostPort {
			names = append(names, p.Name)
		}
	}
	return names
}

func (fl *flags) run(ctx context.Context, w, warn io.Writer, f *show.Flags) error {
	q, err := newQuestion(fl.from, fl.to, fl.protocol, fl.port)
	if err != nil {
		return err
	}
	if fl.node != "" && fl.manifests == "" {
		return errors.New("--node is for --manifests")
	}
	ctx, cancel := context.WithTimeout(ctx, show.Timeout)
	defer cancel()
	r, refused, err := fl.report(ctx, f.Run, q)
	for _, one := range refused {
		_, _ = fmt.Fprintf(warn, "warning: left out: %v\n", one)
	}
	if err != nil {
		return err
	}
	for _, one := range refused {
		r.Refused = append(r.Refused, one.Error())
	}
	write := r.writeText
	if f.Output == "json" {
		write = r.writeJSON
	}
	if err := write(w); err != nil {
		return err
	}
	if r.denies() {
		if r.Rule == "" {
			return exit.Fail(fmt.Errorf("the service does not lead the flow anywhere: %s", r.Reason))
		}
		return exit.Fail(fmt.Errorf("policy denies the flow: %s", r.Rule))
	}
	return nil
}

// report asks the manifests, or what runs. refused is what of the manifests does not count.
func (fl *flags) report(ctx context.Context, run string, q *question) (r *Report, refused []*model.Error, err error) {
	var judge judge
	if fl.manifests != "" {
		if judge, refused, err = offline(fl.manifests, fl.node, q); err != nil {
			return nil, refused, err
		}
		r, err = q.ask(ctx, judge)
		return r, refused, err
	}
	client, err := show.Connect(run)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = client.Close() }()
	if judge, err = online(ctx, client, q); err != nil {
		return nil, nil, err
	}
	r, err = q.ask(ctx, judge)
	return r, nil, err
}
