// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/forwarder"
	"github.com/viaduct-net/viaduct/internal/process"
)

// Options is how the dataplane runs. Flags sets the defaults of all that it defines.
type Options struct {
	Run    string // directory of control.sock, dataplane.sock and the pid file
	State  string // directory of the last good snapshot
	Node   string // name of this node, for control; empty: control knows
	Logger *zap.Logger
	Ready  io.Writer // gets the line "ready" once ports forward; may be nil

	Bpf      string        // directory for pinned hooks; empty: not pinned
	Sockets  string        // "viaduct" or "asavie"
	XDP      string        // "auto", "native" or "generic"
	Copy     bool          // never zero copy
	BusyPoll bool          // preferred busy polling of NIC queues
	Spin     time.Duration // for how long an idle worker polls before it sleeps; negative: for ever
	CPUs     []int         // to bind the workers to; empty: not bound
	Ring     int           // descriptors in each ring: a power of two, 64 to 16384
	TakeOver bool          // from the dataplane that runs with the same directories, if one does
	Cleanup  bool          // take away at the end what pods need
	Release  bool          // give devices back at the end: for who runs in the foreground
	Cgroup   string        // directory of the cgroup of the node's own sockets; empty: found
	Metrics  string        // address to serve Prometheus metrics on; empty: none
}

// Flags defines the dataplane's own flags: those of process.Flags are not among them.
func (o *Options) Flags(s *pflag.FlagSet) {
	s.StringVar(&o.Bpf, "bpf", "/sys/fs/bpf/viaduct", "directory for pinned hooks, on a bpffs (mounted if it is not)")
	s.StringVar(&o.Sockets, "sockets", "viaduct", "socket backend: viaduct, or asavie (copies, one frame a packet)")
	s.StringVar(&o.XDP, "xdp", "auto", "how hooks attach: native, generic, or auto (native where the driver can)")
	s.BoolVar(&o.Copy, "copy", false, "never use zero copy, even where the driver has it")
	s.BoolVar(&o.BusyPoll, "busy-poll", false, "ask for preferred busy polling of NIC queues")
	s.DurationVar(&o.Spin, "spin", 20*time.Microsecond,
		"how long an idle worker polls before it sleeps; negative: for ever, for the lowest latency")
	s.IntSliceVar(&o.CPUs, "cpus", nil,
		"CPUs to bind the workers to, one each; everything else of the process keeps off them (default: not bound)")
	s.IntVar(&o.Ring, "ring", 2048, "descriptors in each ring, a power of two")
	s.BoolVar(
		&o.Cleanup,
		"cleanup",
		false,
		"when stopping, take away what stays otherwise: hooks at devices and pods, the trunk, "+
			"and the routes, addresses and masquerade in the host's stack",
	)
	s.BoolVar(&o.TakeOver, "take-over", false,
		"if a dataplane runs with this --run directory, take its sockets and flows over, so that nothing is lost; it ends")
	s.StringVar(&o.Cgroup, "cgroup", "",
		"directory of the cgroup (version 2) whose processes reach node ports at the node (default: the root of all)")
	s.StringVar(&o.Metrics, "metrics", "", "address to serve Prometheus metrics on, such as 127.0.0.1:9440")
}

// check refuses what could only fail later, and says what to do.
func (o *Options) check() error {
	var err error
	switch {
	case o.Sockets != "viaduct" && o.Sockets != "asavie":
		err = fmt.Errorf("--sockets %q: use viaduct or asavie", o.Sockets)
	case o.XDP != "auto" && o.XDP != "native" && o.XDP != "generic":
		err = fmt.Errorf("--xdp %q: use auto, native or generic", o.XDP)
	case o.Ring < 64 || o.Ring > 16384 || o.Ring&(o.Ring-1) != 0:
		err = fmt.Errorf("--ring %d: use a power of two from 64 to 16384", o.Ring)
	default:
		return nil
	}
	return &process.SetUpError{Err: err}
}

func (o *Options) forwarder() forwarder.Config {
	pins := o.Bpf
	if pins != "" {
		pins = filepath.Clean(pins)
	}
	return forwarder.Config{
		Logger: o.Logger, Sockets: o.Sockets, XDP: o.XDP, Copy: o.Copy, Busy: o.BusyPoll,
		Pins: pins, Spin: o.Spin, CPUs: o.CPUs, Ring: o.Ring, Cleanup: o.Cleanup, Release: o.Release, Cgroup: o.Cgroup,
	}
}
