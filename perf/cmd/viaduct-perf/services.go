// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/scenario"
)

func (p *program) services() *cobra.Command {
	k := &scenario.Services{Progress: p.stderr}
	c := p.wiring(&k.Programs, "services", "What services cost between two pods of one node",
		`Two pods of one node, of which one reaches the other by the cluster address of a service, among many: with each
number of services in turns, and in each all subjects. Ratios are those of the first subject to the others, and of the
largest number of services to the smallest.

  crr     connect, request, response, close: how many a second, and the time that connect takes, which is that of a
          connection's first packet and its answer
  change  time of one endpoint's change: of viaduct from writing the EndpointSlice until the dataplane's tables have it,
          of nft-map that of nft -f with the chain of its service
  memory  of viaduct-control and viaduct-dataplane, with all services in force

Subjects:
  trunk    viaduct-cni, viaduct-control and viaduct-dataplane, one worker; a directory of Services and EndpointSlices
  nft-map  two veth pairs and IP forwarding, and nftables before it: a map from address, protocol and port to a chain
           for each service, as kube-proxy in its mode nftables
  nft      the same with a rule for each service, as kube-proxy in its mode iptables has
The service that is measured has one endpoint and stands in the middle.`)
	f := c.Flags()
	f.StringSliceVar(&k.Subjects, "subjects", peer.BalancedNames(),
		"what to measure; ratios are of the first to the others")
	f.StringSliceVar(&k.Measures, "measures", scenario.ServiceMeasures(), "which of the above")
	f.IntSliceVar(&k.Counts, "services", []int{10, 1000, 10_000}, "numbers of services, the smallest first")
	f.IntVar(&k.Endpoints, "endpoints", 10, "endpoints of each service but the measured one")
	f.IntVar(&k.Changes, "changes", 20, "changes of an endpoint to time")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.DurationVar(&k.Duration, "duration", 2*time.Second, "of one measure of one run")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}
