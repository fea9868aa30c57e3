// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/scenario"
)

// program holds what the commands share.
type program struct {
	stdout, stderr io.Writer
	output         string
}

func command(stdout, stderr io.Writer) *cobra.Command {
	p := &program{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "viaduct-perf",
		Short: "Measure forwarders beside each other",
		Long: `Measure forwarders beside each other.

Each run builds three network namespaces in a row, generator, device under test and sink, joined by veth pairs, and
starts one subject in the middle. Subjects take turns in rounds (A B C, A B C, ...). Results are medians over the
rounds with their 95 % confidence interval (at least 6 runs are needed for one), and ratios of the first subject to
each other one, taken round by round. Nothing is visible outside the namespaces and nothing is left behind.

Subjects: viaduct (viaduct-dataplane), viaduct-off (the same, every packet through userspace), asavie (over its second
socket backend), testpmd (DPDK's, af_xdp driver, io mode), devmap (an XDP program that redirects each frame as it came),
kernel (IP forwarding). The commands pods, cni, policy, services and flood have subjects of their
own, which wire pods. What the machine does not have is said and left out.

Exit codes: 0 measured, 1 a measurement failed or was interrupted, 2 flags or this machine do not allow one.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; see --help", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(p.forward(), p.tcp(), p.rr(), p.crr(), p.idle(), p.control(), p.pods(), p.cni(), p.policy(),
		p.services(), p.flood(), p.restart())
	return root
}

// measure is the common part of all commands: check, run, print.
func (p *program) measure(c *cobra.Command, validate func() error, run func(context.Context, *report.Document) error,
) error {
	if p.output != "text" && p.output != "json" {
		return usageError{fmt.Errorf("output %q: want text or json", p.output)}
	}
	if err := validate(); err != nil {
		return usageError{err}
	}
	if os.Geteuid() != 0 {
		return usageError{errors.New("needs root, for namespaces and eBPF: run it by sudo")}
	}
	doc := &report.Document{Machine: report.ThisMachine(), Settings: settings(c), Results: []report.Result{}}
	if err := run(c.Context(), doc); err != nil {
		if c.Context().Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	return doc.Write(p.stdout, p.output)
}

// settings are all flags of the command and their values.
func settings(c *cobra.Command) map[string]any {
	s := map[string]any{"command": c.Name()}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "output" {
			s[f.Name] = f.Value.String()
		}
	})
	return s
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// build makes a command with the flags that all have.
func (p *program) build(k *scenario.Comparison, use, short, long, subjects string, mtu int) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n\n" + long, SilenceUsage: true, SilenceErrors: true,
		Args: noArguments,
	}
	f := c.Flags()
	k.Progress = p.stderr
	f.StringVarP(&p.output, "output", "o", "text", "text or json, on standard output; progress goes to standard error")
	f.StringSliceVar(&k.Subjects, "subjects", strings.Split(subjects, ","),
		"what to measure, of "+strings.Join(peer.Names(), ", "))
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.IntVar(&k.Routes, "routes", 10_000, fmt.Sprintf("routes of each address family, up to %d", rig.MaxRoutes))
	f.IntVar(&k.Rig.Queues, "queues", 1, "queues of each device; forward: also the generator's CPUs")
	f.IntVar(&k.Rig.MTU, "mtu", mtu, "MTU of all devices, bytes")
	f.StringVar(&k.Dataplane, "dataplane", defaultDataplane(), "path of viaduct-dataplane; viaduct-control is beside it")
	f.StringArrayVar(&k.Flags, "dataplane-flag", nil,
		"one more flag for viaduct-dataplane, such as --xdp=generic; repeatable")
	return c
}

func (p *program) control() *cobra.Command {
	k := &scenario.Control{Progress: p.stderr}
	c := &cobra.Command{
		Use: "control", Short: "The way of desired state: first snapshot, single changes, storms, memory",
		Long: `The way of desired state, from a store through viaduct-control into the tables of viaduct-dataplane.

A cluster is made up and written to the store: a directory of manifests, or an etcd that this command starts. Measured
are the time from control's start until everything is in force, the time of one pod's change, a storm of changes, and
the memory of control. With --small a smaller cluster takes turns with the large one, for the ratio of the two.`,
		Args: noArguments, SilenceUsage: true, SilenceErrors: true,
	}
	f := c.Flags()
	f.StringVarP(&p.output, "output", "o", "text", "text or json, on standard output; progress goes to standard error")
	f.StringVar(&k.Source, "source", "etcd", "where the cluster is written: etcd or dir")
	f.IntVar(&k.Size.Pods, "pods", 10_000, "pods of the cluster")
	f.IntVar(&k.Size.Nodes, "nodes", 500, "nodes of the cluster")
	f.IntVar(&k.Size.Namespaces, "namespaces", 5000, "namespaces of the cluster, each with labels of its own")
	f.IntVar(&k.Size.Routes, "routes", 20_000, "Route objects")
	f.IntVar(&k.Size.Services.Count, "services", 0, "services of the cluster")
	f.IntVar(&k.Size.Services.Endpoints, "endpoints", 10, "endpoints of each service")
	f.IntVar(&k.Small, "small", 1000, "pods of the smaller cluster, 0: none")
	f.IntVar(&k.Changes, "changes", 300, "single changes to time")
	f.IntVar(&k.Storm, "storm", 1000, "changes a second in the storm, 0: none")
	f.DurationVar(&k.StormTime, "storm-time", 5*time.Second, "how long the storm lasts")
	f.IntVar(&k.Runs, "runs", 6, "rounds; the 95 % interval needs at least 6")
	f.StringVar(&k.Dataplane, "dataplane", defaultDataplane(), "path of viaduct-dataplane; viaduct-control is beside it")
	c.RunE = func(c *cobra.Command, _ []string) error { return p.measure(c, k.Validate, k.Run) }
	return c
}

func defaultDataplane() string { return beside("viaduct-dataplane") }

// beside is where another program lies: beside this one, or in bin of the working directory.
func beside(program string) string {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), program); exists(path) {
			return path
		}
	}
	return filepath.Join("bin", program)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (p *program) forward() *cobra.Command {
	f := &scenario.Forward{}
	c := p.build(&f.Comparison, "forward", "UDP packets per second, loss and CPU time per packet",
		`An XDP program fills in packets inside the kernel and redirects them into the device under test; another one
counts them where they leave. Without --rate the generator offers more than anything forwards: throughput is what
arrived, loss what was offered on top. With --rate, loss is that of the subject. CPU time per packet counts the
subject's processes and the softirqs that serve it (the notes of the output say how).`,
		"viaduct,testpmd,kernel", 1500)
	s := c.Flags()
	s.IntVar(&f.Size, "size", 64, fmt.Sprintf("bytes of a frame without FCS, %d to %d", gen.MinSize, gen.MaxSize))
	s.IntVar(&f.Flows, "flows", 10_000, "flows, by ports and destinations")
	s.BoolVar(&f.IPv6, "ipv6", false, "IPv6 packets")
	s.Float64Var(&f.Rate, "rate", 0, "packets per second to offer, 0: as many as possible")
	s.DurationVar(&f.Duration, "duration", 5*time.Second, "of one run")
	s.BoolVar(&f.Latency, "latency", false, "also measure the time from generator to sink; meaningful with --rate")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return p.measure(c, f.Validate, f.Run)
	}
	return c
}

// exchange makes a command of two programs that talk TCP.
func (p *program) exchange(use, short, long string, mtu int,
	run func(*scenario.TCP) func(context.Context, *report.Document) error) *cobra.Command {
	t := &scenario.TCP{}
	c := p.build(&t.Comparison, use, short, long, "viaduct,kernel", mtu)
	c.Flags().BoolVar(&t.IPv6, "ipv6", false, "over IPv6")
	c.Flags().DurationVar(&t.Duration, "duration", 5*time.Second, "of one run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return p.measure(c, t.Validate, run(t))
	}
	return c
}

func (p *program) tcp() *cobra.Command {
	return p.exchange("tcp", "Throughput of one TCP stream",
		"Bits of payload per second of one connection between programs at the two ends.", 60_000,
		func(t *scenario.TCP) func(context.Context, *report.Document) error { return t.Stream })
}

func (p *program) rr() *cobra.Command {
	return p.exchange("rr", "Time of a request and its response",
		"Median and 99th percentile of one byte there and one back, on one TCP connection.", 1500,
		func(t *scenario.TCP) func(context.Context, *report.Document) error { return t.RequestResponse })
}

func (p *program) crr() *cobra.Command {
	return p.exchange("crr", "Short connections per second",
		"Connect, request, response, close: one after the other, a byte each way.", 1500,
		func(t *scenario.TCP) func(context.Context, *report.Document) error { return t.ConnectRequestResponse })
}

func (p *program) idle() *cobra.Command {
	i := &scenario.Idle{}
	c := p.build(&i.Comparison, "idle", "CPU share of a subject while nothing passes",
		"Run time of all threads of the subject's processes, as a share of one core.", "viaduct", 1500)
	c.Flags().DurationVar(&i.Duration, "duration", 10*time.Second, "of one run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return p.measure(c, i.Validate, i.Run)
	}
	return c
}
