// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/perf/scenario"
)

func (p *program) restart() *cobra.Command {
	k := &scenario.Restart{Progress: p.stderr}
	c := p.wiring(&k.Programs, "restart", "What a restart of the dataplane costs",
		`The dataplane of a node with many pods and flows is replaced while packets of open and of opening flows pass.

  kill       SIGKILL, and another one is started at once
  stop       SIGTERM, and another one is started at once
  hand-over  another one is started beside it, to which it hands over

Measured are the time from exec to the first packet that was sent after it, and what was lost.`)
	f := c.Flags()
	f.StringSliceVar(&k.Ways, "ways", scenario.RestartWays(), "which of the above")
	f.IntVar(&k.Pods, "pods", 250, "pods of the node")
	f.IntVar(&k.Flows, "flows", 100_000, "flows that are open")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}
