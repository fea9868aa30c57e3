// SPDX-License-Identifier: Apache-2.0

// Command viaduct-dataplane forwards packets between the ports of a NodeConfig.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/viaduct-net/viaduct/dataplane/daemon"
	"github.com/viaduct-net/viaduct/dataplane/forwarder"
)

// Exit statuses.
const (
	exitFailed = 1 // stopped by a fault while running
	exitSetUp  = 2 // could not start: flags, privileges, devices, manifests
)

type flags struct {
	manifests, node     string
	run, bpf            string
	sockets, xdp        string
	copy, busyPoll      bool
	spin                time.Duration
	cpus                []int
	ring                int
	metrics             string
	logLevel, logFormat string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "viaduct-dataplane:", err)
		var failed *runError
		if errors.As(err, &failed) {
			os.Exit(exitFailed)
		}
		os.Exit(exitSetUp)
	}
}

// runError is a fault of the running daemon.
type runError struct{ error }

func command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:     "viaduct-dataplane --manifests DIR",
		Version: forwarder.Version(),
		Short:   "Forward packets between the ports of a NodeConfig, in userspace, through AF_XDP sockets",
		Long: `Forward packets between the ports of a NodeConfig, in userspace, through AF_XDP sockets.

The directory of manifests holds one NodeConfig (or one for each node: see --node) and any number of Route objects.
It is watched: a change is in force a moment after the file is written, and no packet is lost by it. A manifest that
is wrong is refused and said in the log; what was in force stays.

"ready" on standard output says that the ports forward. SIGINT and SIGTERM stop cleanly: hooks are detached, and the
devices are the kernel's again. Exit status: 0 stopped, 1 failed while running, 2 could not start.`,
		Example: `  viaduct-dataplane --manifests /etc/viaduct/manifests
  viaduct-dataplane --manifests lab --sockets asavie --xdp generic --spin -1s`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), f) },
	}
	s := c.Flags()
	s.StringVar(&f.manifests, "manifests", "", "directory of YAML manifests (required)")
	s.StringVar(&f.node, "node", "", "name of the NodeConfig that is this node's (default: the only one there is)")
	s.StringVar(&f.run, "run", "/run/viaduct", "directory of dataplane.sock and the pid file")
	s.StringVar(&f.bpf, "bpf", "/sys/fs/bpf/viaduct", "directory for pinned hooks, on a bpffs (mounted if it is not)")
	s.StringVar(&f.sockets, "sockets", "viaduct", "socket backend: viaduct, or asavie (copies, one frame a packet)")
	s.StringVar(&f.xdp, "xdp", "auto", "how hooks attach: native, generic, or auto (native where the driver can)")
	s.BoolVar(&f.copy, "copy", false, "never use zero copy, even where the driver has it")
	s.BoolVar(&f.busyPoll, "busy-poll", false, "ask for preferred busy polling of NIC queues")
	s.DurationVar(&f.spin, "spin", 20*time.Microsecond,
		"how long an idle worker polls before it sleeps; negative: for ever, for the lowest latency")
	s.IntSliceVar(&f.cpus, "cpus", nil,
		"CPUs to bind the workers to, one each; everything else of the process keeps off them (default: not bound)")
	s.IntVar(&f.ring, "ring", 2048, "descriptors in each ring, a power of two")
	s.StringVar(&f.metrics, "metrics", "", "address to serve Prometheus metrics on, such as 127.0.0.1:9440")
	s.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	s.StringVar(&f.logFormat, "log-format", "text", "text or json")
	_ = c.MarkFlagDirname("manifests")
	_ = c.RegisterFlagCompletionFunc("sockets", cobra.FixedCompletions([]string{"viaduct", "asavie"}, 0))
	_ = c.RegisterFlagCompletionFunc("xdp", cobra.FixedCompletions([]string{"auto", "native", "generic"}, 0))
	return c
}

func run(ctx context.Context, f flags) error {
	log, err := logger(f)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	if err := f.check(); err != nil {
		return err
	}
	err = daemon.Run(ctx, daemon.Options{
		Run: f.run, Metrics: f.metrics, Ready: os.Stdout,
		Snapshots: &manifests{dir: f.manifests, node: f.node, log: log},
		Forwarder: forwarder.Config{
			Logger: log, Sockets: f.sockets, XDP: f.xdp, Copy: f.copy, Busy: f.busyPoll,
			Pins: filepath.Clean(f.bpf), Spin: f.spin, CPUs: f.cpus, Ring: f.ring,
		},
	})
	var setUp *daemon.SetUpError
	if err != nil && !errors.As(err, &setUp) {
		return &runError{err}
	}
	return err
}

// check refuses what could only fail later, and says what to do.
func (f flags) check() error {
	switch {
	case f.manifests == "":
		return errors.New("--manifests DIR is required: the directory with a NodeConfig and Route objects")
	case f.sockets != "viaduct" && f.sockets != "asavie":
		return fmt.Errorf("--sockets %q: use viaduct or asavie", f.sockets)
	case f.xdp != "auto" && f.xdp != "native" && f.xdp != "generic":
		return fmt.Errorf("--xdp %q: use auto, native or generic", f.xdp)
	case f.ring < 64 || f.ring > 16384 || f.ring&(f.ring-1) != 0:
		return fmt.Errorf("--ring %d: use a power of two from 64 to 16384", f.ring)
	}
	return nil
}

func logger(f flags) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.logLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", f.logLevel)
	}
	cfg := zap.NewProductionConfig()
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.DisableStacktrace = true
	switch f.logFormat {
	case "json":
	case "text":
		cfg.Encoding = "console"
		cfg.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	default:
		return nil, fmt.Errorf("--log-format %q: use text or json", f.logFormat)
	}
	return cfg.Build()
}
