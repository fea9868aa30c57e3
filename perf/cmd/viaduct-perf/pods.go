// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/scenario"
)

// reference is where Debian's containernetworking-plugins are.
const reference = "/usr/lib/cni"

// wiring makes a command with the flags of all that wire pods.
func (p *program) wiring(programs *peer.Programs, use, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n\n" + long, Args: noArguments, SilenceUsage: true, SilenceErrors: true,
	}
	f := c.Flags()
	f.StringVarP(&p.output, "output", "o", "text", "text or json, on standard output; progress goes to standard error")
	f.StringVar(&programs.Dataplane, "dataplane", defaultDataplane(),
		"path of viaduct-dataplane; viaduct-control is beside it")
	f.StringArrayVar(&programs.Flags, "dataplane-flag", nil, "one more flag for viaduct-dataplane; repeatable")
	f.StringVar(&programs.Plugin, "plugin", beside("viaduct-cni"), "path of viaduct-cni")
	f.StringVar(&programs.Reference, "reference", reference, "directory of the reference CNI plugins")
	return c
}

func (p *program) pods() *cobra.Command {
	k := &scenario.Pods{}
	c := p.wiring(&k.Programs, "pods", "What passes between two pods of one node",
		`Two pods are wired by the subject, and programs in them talk; each measure builds both anew for each subject and
round. Pods' links have an MTU of 65535; where it says 1500, routes in the pods bound packets to it.

  udp         packets per second of 64 bytes: frames made in the kernel, out of the sending pod's device, counted where
              the receiving pod's stack would take them; neither pod's own stack is part of it
  stream1500  bits of payload per second of one TCP connection, at an MTU of 1500
  stream      the same at 65535
  rr          time of one byte there and one back, on one TCP connection, at 1500
  crr         connect, request, response, close: how many a second, at 1500
  visit       time from device to device of UDP packets, 1,000 a second, of one flow and then each of a flow of its
              own, and the difference: what a flow's first packet waits for userspace
  table       udp with as many flows as --tables says, in an order that no cache foresees, first few and then many: CPU
              time a packet, and of it that of the eBPF programs on the way

Subjects: trunk and direct (viaduct-cni, with viaduct-control and viaduct-dataplane, one worker); trunk-ports (with a
policy that looks at ports), trunk-service (by the address of a service), trunk-off and direct-off (nothing is carried
by the kernel), trunk-polling (the worker never sleeps); veth (nothing but a veth pair); bridge and ptp (the reference
plugins with host-local), kernel (two veth pairs and IP forwarding), kernel-dnat (the same to an address that nftables
translates, with connection tracking).

With --apart the pods are on two nodes, joined by a veth pair with an MTU of 1500 (no stream then): trunk (uplink in
mode kernel), trunk-shared, trunk-owned, trunk-off, trunk-shared-off, and ptp, with which both nodes' kernels forward.`)
	f := c.Flags()
	k.Progress = p.stderr
	f.StringSliceVar(&k.Subjects, "subjects", []string{"trunk", "direct", "veth", "bridge", "ptp", "kernel"},
		"what to measure; ratios are of the first to the others")
	f.StringSliceVar(&k.Of, "of", nil, "subjects whose ratios to all others are wanted, beside the first")
	f.StringSliceVar(&k.Measures, "measures", scenario.PlainPodMeasures(), "which of the above")
	f.BoolVar(&k.Apart, "apart", false, "have the two pods on two nodes")
	f.IntSliceVar(&k.Tables, "tables", []int{1000, 1_000_000}, "numbers of flows of table, the smallest first")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.IntVar(&k.Flows, "flows", 1000, "flows of udp, by ports")
	f.DurationVar(&k.Duration, "duration", 3*time.Second, "of one run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if k.Apart && !c.Flags().Changed("measures") {
			k.Measures = slices.DeleteFunc(k.Measures, func(m string) bool { return m == "stream" })
		}
		return p.measure(c, k.Validate, k.Run)
	}
	return c
}

func (p *program) cni() *cobra.Command {
	k := &scenario.CNI{}
	c := p.wiring(&k.Programs, "cni", "Time of ADD and DEL, and memory of a pod",
		`Each subject stands on a node of its own, and they operate in turns. Plugins run as a container runtime runs them, a
process for each operation, in the node's network namespace; starting it is part of the time. Pods are fresh network
namespaces.

  cni/version     start of the plugin alone: VERSION
  cni/pods0       ADD and DEL, one pair after the other, --adds of them, on a node without pods
  cni/parallelN   --adds ADDs, N at a time, then as many DELs: all together, and the median of one
  cni/pods200     as cni/pods0, with --pods pods there
  cni/memory10-N  memory of a pod: what comes from the 10th to the Nth, shared out; and what is left of all when they
                  are gone. Other processes that start or end meanwhile spoil it

Subjects: `+strings.Join(peer.Networks(), ", ")+`. The first two are viaduct-cni with the attachment of that name, the
others the reference plugins with host-local.`)
	f := c.Flags()
	k.Progress = p.stderr
	f.StringSliceVar(&k.Subjects, "subjects", []string{"trunk", "bridge"},
		"what to measure; ratios and differences are of the first to the others")
	f.IntVar(&k.Adds, "adds", 50, "operations of each kind")
	f.IntVar(&k.Pods, "pods", 200, "pods that are there in the second half, 0: none")
	f.IntVar(&k.Parallel, "parallel", 10, "operations at a time in the concurrent part, 0: none")
	f.IntVar(&k.Memory, "memory", 250, "pods up to which memory is measured, 0: it is not")
	f.IntVar(&k.Runs, "runs", 6, "rounds of the concurrent part and of memory")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}
