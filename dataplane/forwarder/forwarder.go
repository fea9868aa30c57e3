// SPDX-License-Identifier: Apache-2.0

// Package forwarder assembles the dataplane: it applies snapshots, owns the workers and the devices they serve, and
// follows what happens to those devices.
//
// A snapshot is applied in a transaction: tables are built and devices opened aside; one marked point commits them;
// whatever fails before it is undone. Files: forwarder.go (start and stop), apply.go (snapshots and deltas),
// workers.go (their threads), device.go (one device's hook and sockets), pins.go and slots.go (where hooks are pinned,
// and the numbers of devices), trunk.go (ports without sockets of their own), bare.go (hooks that somebody takes off),
// leave.go (hooks that stay), learned.go (what was learned of the network), host.go (what is kept in the host's stack),
// addresses.go (of its devices), servicehooks.go, frontends.go, uplinks.go and cgroup.go (what the kernel takes for
// services), servicenotes.go (what keeps it from that), carry.go (the kernel's table of flows), wires.go (what XDP
// hooks carry by it), carryreport.go (what is told of it), heart.go (that userspace is alive) and walk.go (whether what
// is carried still should be), links.go (the kernel's word on devices), flows.go (the table of flows), services.go
// (what is known of them), report.go, identities.go, policies.go, denials.go and metrics.go (what the CLI and
// Prometheus read).
package forwarder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// Config is how a forwarder is set up. The zero value of every field but Logger is a sensible default.
type Config struct {
	Logger  *zap.Logger
	Sockets string        // backend of the sockets: "viaduct" (default) or "asavie"
	XDP     string        // "auto" (default: native, else generic), "native" or "generic"
	Copy    bool          // never zero copy, even where the driver has it
	Busy    bool          // preferred busy poll on the sockets
	Pins    string        // directory on a bpffs where hooks are pinned; empty: not pinned
	CPUs    []int         // one for each worker, which nothing else of the process uses; empty: not bound
	Spin    time.Duration // for how long an idle worker polls before it sleeps; negative: for ever
	Ring    int           // descriptors of each ring, a power of two; 0: 2048
	Cleanup bool          // Close takes away all hooks, the trunk and what is kept in the host's stack
	Release bool          // Close gives devices back to the kernel, though their hooks could go on carrying
	Changed func()        // is called when devices of a refused snapshot changed, came or went; may be nil
	Cgroup  string        // directory of the cgroup whose sockets are the node's own; empty: the root, where it is mounted
	Chunks  int           // UMEM chunks of a worker; 0: as the rings need, at most 16384
}

const (
	defaultRing = 2048
	maxChunks   = 16384 // of a worker's UMEM: a pool costs kernel memory for each chunk and device
)

// frameSize is how large the workers' frames are: as small as whole packets of the ports fit, since more of them then
// share a page. Larger packets take several frames.
func frameSize(t *tables.Tables) int {
	const room = 2048 - 256 - 22 - 320 // less the headroom, the link header, and the kernel's tail room
	for i := range t.Ports {
		if t.Ports[i].MTU > room {
			return 4096
		}
	}
	return 2048
}

// Forwarder is a running dataplane.
type Forwarder struct {
	cfg       Config
	log       *zap.Logger
	started   time.Time
	clock     func() int64
	neighbors *neighbor.Table
	tables    atomic.Pointer[tables.Tables]
	flows     atomic.Pointer[conntrack.Table] // nil until the first worker

	mu        sync.Mutex     // guards what follows; never held by a worker
	hooked    *tables.Tables // by which the hooks were last told what is ours
	snapshot  *api.Snapshot
	devices   map[string]*device
	slots     []string // device names by their index in the tables; empty: free
	workers   []*thread
	ended     []*ledger.Book    // of workers that ended
	apart     int               // how many of the CPUs everything else keeps off
	degraded  map[string]string // what is less than asked for, by subject
	uncarried map[string]string // what keeps flows of devices in userspace, by subject
	pins      *os.File          // the directory of pins, locked; nil until the first hook
	names     map[packet.PortID]string
	base      map[packet.PortID]*ledger.Totals // what ports that had a number before counted
	refusal   *dataplaneapi.Refusal            // why the last snapshot was refused, nil when it was not
	// refused is the last snapshot, when it was refused, and refusedOn what its devices were then.
	refused    *api.Snapshot
	refusedOn  map[string]linkFacts
	trunk      trunk
	carrier    carrier
	services   serviceHooks
	flowsOf    flowSettings            // that flows is or will be made for
	making     <-chan *conntrack.Table // gives what flows will be; nil: it is there, or nobody makes it
	handed     *takeover               // whose flows are to be restored; nil: none
	restored   bool                    // what was before this process is
	unrestored unrestored
	learned    []handover.LearnedPort // by ports of another process, which are not there yet
	left       bool                   // everything is a successor's
	awaits     bool                   // a predecessor has still claimed the directory of the pins
	dns        *names.Store           // which addresses names have, as stations were answered; nil until the first worker
	applied    time.Duration          // how long the last change took
	metrics    changeMetrics

	refusedAny atomic.Bool  // refused is not nil
	hostInUse  atomic.Bool  // the host's stack is kept
	hostHook   atomic.Int64 // the ifindex of the device with the host port's hook

	lostMu sync.Mutex   // held for a moment only: workers take it
	lost   map[int]bool // devices, by index, that a worker let go of since the last look
	bare   map[int]bool // devices, by ifindex, that may have lost a pod's hook since

	working atomic.Pointer[[]*worker.Worker] // the workers, for heart and walker
	hung    atomic.Pointer[[]int]            // those that hang, as far as the heart knows

	changed chan struct{} // the devices are to be looked at
	running sync.WaitGroup
	beating sync.WaitGroup // heart and walker
}

// thread is a worker with its memory.
type thread struct {
	worker *worker.Worker
	memory
}

// memory is a worker's frames, and those of them that nobody uses.
type memory struct {
	umem *xsk.UMEM
	pool *xsk.Pool
}

// New returns a forwarder without tables. Close releases it.
func New(cfg Config) *Forwarder {
	if cfg.Ring == 0 {
		cfg.Ring = defaultRing
	}
	start := time.Now()
	f := &Forwarder{
		cfg: cfg, log: cfg.Logger, started: start,
		// Far from zero, which means never to the neighbour table and the limits.
		clock:     func() int64 { return int64(time.Since(start)) + int64(time.Hour) },
		neighbors: neighbor.NewTable(neighbor.Config{}),
		devices:   make(map[string]*device),
		degraded:  make(map[string]string),
		uncarried: make(map[string]string),
		names:     make(map[packet.PortID]string),
		base:      make(map[packet.PortID]*ledger.Totals),
		changed:   make(chan struct{}, 1),
		lost:      make(map[int]bool),
		bare:      make(map[int]bool),
		trunk:     newTrunk(),
		services:  serviceHooks{frontends: newFrontends()},
		metrics:   newChangeMetrics(),
	}
	empty, err := tables.Build(nil, &api.Snapshot{Epoch: 0}, noLinks, f.neighbors)
	if err != nil {
		panic(fmt.Sprintf("empty tables do not build: %v", err)) // cannot be: nothing in them
	}
	f.tables.Store(empty)
	return f
}

// Epoch is the epoch of the tables in force, 0 for none.
func (f *Forwarder) Epoch() uint64 { return f.tables.Load().Epoch }

// Close stops the workers. Pinned hooks by which flows are carried stay where they are, and carry them on (leave.go);
// with Cleanup, and without pins, everything is given back to the kernel.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopCarrier()
	var errs []error
	stays := len(f.trunk.ports) > 0
	for name, d := range f.devices {
		if f.stays(d) {
			stays = true
			errs = append(errs, f.leaveDevice(name))
			continue
		}
		errs = append(errs, f.closeDevice(context.Background(), name))
	}
	errs = append(errs, f.stopWorkers(), f.closeServices(), f.closeTrunk(), f.closeCarrier(f.cfg.Cleanup || !stays))
	if f.cfg.Cleanup {
		errs = append(errs, f.dropPinned(nil))
	}
	f.removePins()
	return errors.Join(errs...)
}

// Ledger reads the books of all workers.
func (f *Forwarder) Ledger() map[packet.PortID]*ledger.Totals {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.books()
}

func (f *Forwarder) books() map[packet.PortID]*ledger.Totals {
	books := slices.Clone(f.ended)
	for _, t := range f.workers {
		books = append(books, t.worker.Book())
	}
	return ledger.Read(books)
}

func (f *Forwarder) degrade(subject, why string) {
	if f.degraded[subject] != why {
		f.log.Warn("degraded", zap.String("subject", subject), zap.String("why", why))
	}
	f.degraded[subject] = why
}
