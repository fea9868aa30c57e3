// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/scenario"
)

func (p *program) policy() *cobra.Command {
	k := &scenario.Policy{Progress: p.stderr}
	c := p.wiring(&k.Programs, "policy", "What policies cost between two pods of one node",
		`Two pods of one node, of which one may be reached by the other on two ports alone, among much that is admitted for
others: with each number of policies in turns, and in each all subjects. Ratios are those of the first subject to the
others, and of the largest number of policies to the smallest.

  udp     packets per second of 64 bytes in flows that were answered before, as of pods
  rr      time of one byte there and one back, on one TCP connection
  crr     connect, request, response, close: how many a second
  change  time from writing one policy with another port until the dataplane's tables have it; of viaduct alone

Subjects:
  trunk      viaduct-cni, viaduct-control and viaduct-dataplane, one worker; a directory of NetworkPolicies and Pods.
             Every policy selects the receiving pod
  trunk-own  the same; each policy selects a deployment of its own, and one of them the receiving pod
  nft-set    two veth pairs and IP forwarding, with nftables: established first, then one line with a set of all
  nft        the same, a line for each
  iptables   the same by iptables-nft
The kernel's subjects have one rule for each policy, of an address and a port.`)
	f := c.Flags()
	f.StringSliceVar(&k.Subjects, "subjects", peer.FilteredNames(),
		"what to measure; ratios are of the first to the others")
	f.StringSliceVar(&k.Measures, "measures", scenario.PolicyMeasures(), "which of the above")
	f.IntSliceVar(&k.Counts, "policies", []int{10, 1000, 10_000}, "numbers of policies, the smallest first")
	f.IntVar(&k.Rules, "rules", 10, "rules of each policy of viaduct's")
	f.IntVar(&k.Pods, "pods", 1000, "pods of other nodes, ten to a deployment")
	f.IntVar(&k.Changes, "changes", 20, "changes of a policy to time")
	f.IntVar(&k.Flows, "flows", 1000, "flows of udp, by ports")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.DurationVar(&k.Duration, "duration", 2*time.Second, "of one measure of one run")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}
func (p *program) flood() *cobra.Command {
	k := &scenario.Flood{Progress: p.stderr}
	c := p.wiring(&k.Programs, "flood", "What a flood of new connections does to others",
		`A flood of TCP connection requests, made in the kernel, comes into one pod's listening port: from the world, with
random sources, or from another pod of the node, with its own address and random ports. Before and meanwhile, beside it:

  established  datagrams that are answered, at --probes a second, between two other pods, and between the world and a
               pod: what is lost, and the time there and back
  new          short connections one after another between the two other pods, and from the world to the flooded pod:
               how many succeed within three seconds, and the time of one

Subjects: trunk (viaduct-cni, viaduct-control and viaduct-dataplane, one worker, a shared uplink), and kernel (the
reference plugin ptp, IP forwarding, nftables with connection tracking). Both have their table's usual size. Where
floods come from: `+strings.Join(scenario.FloodOrigins(), ", ")+`.`)
	f := c.Flags()
	f.StringSliceVar(&k.Subjects, "subjects", scenario.FloodSubjects(),
		"what to measure; ratios are of the first to the others")
	f.StringSliceVar(&k.Origins, "from", scenario.FloodOrigins(), "where floods come from")
	f.Float64Var(&k.Rate, "rate", 0, "requests a second, 0: as many as possible")
	f.IntVar(&k.Probes, "probes", 1000, "datagrams a second of each established flow")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.DurationVar(&k.Duration, "duration", 5*time.Second, "of each part: before the flood, and meanwhile")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}
