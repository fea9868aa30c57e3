// SPDX-License-Identifier: Apache-2.0

// Package forwarder assembles the dataplane: it applies snapshots, owns the workers and the devices they serve, and
// follows what happens to those devices.
//
// A snapshot is applied in a transaction: tables are built and devices opened aside; one marked point commits them;
// whatever fails before it is undone. Files: forwarder.go (apply and stop), device.go (one device's hook and sockets),
// links.go (the kernel's word on devices), report.go (what the CLI reads).
package forwarder

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
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

	mu       sync.Mutex // guards what follows; never held by a worker
	snapshot *api.Snapshot
	devices  map[string]*device
	slots    []string // device names by their index in the tables
	workers  []*thread
	degraded map[string]string // what is less than asked for, by subject
	names    map[packet.PortID]string
	refusal  *dataplaneapi.Refusal // why the last snapshot was refused, nil when it was not
	applied  time.Duration         // how long the last change took
	metrics  changeMetrics

	lostMu sync.Mutex   // held for a moment only: workers take it
	lost   map[int]bool // devices, by index, that a worker let go of since the last look

	changed chan struct{} // a device vanished under a worker
	running sync.WaitGroup
}

// thread is a worker with its memory.
type thread struct {
	worker *worker.Worker
	umem   *xsk.UMEM
	pool   *xsk.Pool
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
		names:     make(map[packet.PortID]string),
		changed:   make(chan struct{}, 1),
		lost:      make(map[int]bool),
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

// InForce is the snapshot in force, not to be changed; nil before the first.
func (f *Forwarder) InForce() *api.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot
}

// Apply puts a snapshot in force, all of it or nothing. An error is a *tables.InvalidError where an object of the
// snapshot is at fault. Packets are judged by the old tables until the new ones are whole; none is lost. The snapshot
// must not change afterwards.
func (f *Forwarder) Apply(ctx context.Context, snapshot *api.Snapshot) error {
	return f.transact(snapshot.GetEpoch(), wholes, func() error { return f.apply(ctx, snapshot, false) })
}

// Restore is Apply for a snapshot that was in force before this process: a device that is not there is one that
// vanished meanwhile, and its ports open when it returns.
func (f *Forwarder) Restore(ctx context.Context, snapshot *api.Snapshot) error {
	return f.transact(snapshot.GetEpoch(), wholes, func() error { return f.apply(ctx, snapshot, true) })
}

// ApplyDelta is Apply for the difference from the snapshot in force. It fails with an *api.GapError when the delta
// builds on another epoch than is in force.
func (f *Forwarder) ApplyDelta(ctx context.Context, d *api.Delta) error {
	return f.transact(d.GetSet().GetEpoch(), deltas, func() error { return f.applyDelta(ctx, d) })
}

func (f *Forwarder) applyDelta(ctx context.Context, d *api.Delta) error {
	if f.snapshot == nil {
		return &api.GapError{Base: d.GetBase()}
	}
	next, err := d.Apply(f.snapshot)
	switch {
	case err != nil:
		return err
	case next.Epoch <= f.snapshot.Epoch:
		return &tables.InvalidError{Field: "epoch", Reason: fmt.Sprintf("%d does not follow %d", next.Epoch, f.snapshot.Epoch)}
	case !tables.Updatable(f.tables.Load(), d):
		return f.apply(ctx, next, false)
	}
	t, err := tables.Update(f.tables.Load(), next, d)
	if err != nil {
		return err
	}
	f.snapshot = next
	f.tables.Store(t)
	return nil
}

// kind is in what form a change came.
type kind int

const (
	wholes kind = iota
	deltas
)

// transact runs a change and keeps the books on it.
func (f *Forwarder) transact(epoch uint64, k kind, change func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	begin := time.Now()
	if err := change(); err != nil {
		f.refusal = refusal(epoch, err)
		f.metrics.nacks.Inc()
		return err
	}
	f.refusal, f.applied = nil, time.Since(begin)
	f.metrics.apply.Observe(f.applied.Seconds())
	f.metrics.snapshots[k].Inc()
	return nil
}

func refusal(epoch uint64, err error) *dataplaneapi.Refusal {
	r := &dataplaneapi.Refusal{Epoch: epoch, Reason: err.Error(), UnixNanoseconds: time.Now().UnixNano()}
	var invalid *tables.InvalidError
	if errors.As(err, &invalid) {
		r.Object, r.Field, r.Reason = invalid.Object, invalid.Field, invalid.Reason
	}
	return r
}

// apply is the transaction of a whole snapshot. A device that is not there is at fault, unless absent is true.
func (f *Forwarder) apply(ctx context.Context, snapshot *api.Snapshot, absent bool) error {
	if snapshot.GetEpoch() == 0 {
		return &tables.InvalidError{Field: "epoch", Reason: "is 0"}
	}
	links, err := readLinks()
	if err != nil {
		return err
	}
	if err := f.checkDevices(snapshot, links, absent); err != nil {
		return err
	}
	next, err := tables.Build(f.tables.Load(), snapshot, f.lookup(links), f.neighbors)
	if err != nil {
		return err
	}
	if err := f.startWorkers(snapshot, next, links); err != nil {
		return errors.Join(err, f.restoreNeighbors(links))
	}
	opened, err := f.openMissing(snapshot, links)
	if err != nil {
		return errors.Join(err, f.restoreNeighbors(links))
	}
	// The commit point: from here on nothing is undone, nor left half done.
	ctx = context.WithoutCancel(ctx)
	f.snapshot = snapshot
	f.tables.Store(next)
	for _, p := range snapshot.GetPorts() {
		f.names[packet.PortID(p.Id)] = p.Name
	}
	if err := f.serve(ctx, opened); err != nil {
		return err
	}
	return f.closeUnused(ctx)
}

// restoreNeighbors makes the static neighbours those of the snapshot in force, after a Build that came to nothing.
func (f *Forwarder) restoreNeighbors(links links) error {
	_, err := tables.Build(f.tables.Load(), f.snapshot, f.lookup(links), f.neighbors)
	return err
}

// checkDevices refuses a snapshot with a port, unknown until then, whose device does not exist. A device may vanish
// later, and return: then its ports close and open.
func (f *Forwarder) checkDevices(snapshot *api.Snapshot, links links, absent bool) error {
	known := make(map[string]bool)
	for _, p := range f.snapshot.GetPorts() {
		known[p.Device] = true
	}
	for _, p := range snapshot.GetPorts() {
		_, there := links[p.Device]
		if !there && absent {
			f.degrade("device "+p.Device, "the device is not there; its ports open when it appears")
		} else if !there && !known[p.Device] && p.Device != "" {
			return &tables.InvalidError{Object: tables.Origin(snapshot, p.Origin), Field: "spec.ports[" + p.Name + "].device",
				Reason: fmt.Sprintf("device %q does not exist in this network namespace; create it or correct the name",
					p.Device)}
		}
		if d := f.devices[p.Device]; d != nil && !d.fits(snapshot, p) {
			return &tables.InvalidError{Object: tables.Origin(snapshot, p.Origin), Field: "spec.ports[" + p.Name + "]",
				Reason: "queues and uplink mode cannot change while the device is open; remove its ports, then add them again"}
		}
	}
	return nil
}

// startWorkers starts the workers when the first snapshot with ports says how many there are to be.
func (f *Forwarder) startWorkers(snapshot *api.Snapshot, next *tables.Tables, links links) error {
	if links.fewestQueues(snapshot) == noQueues { // nothing to serve
		return nil
	}
	delete(f.degraded, "workers")
	n := int(snapshot.GetNode().GetWorkers())
	if n == 0 {
		n = max(1, runtime.NumCPU()/2)
	}
	if fewest := links.fewestQueues(snapshot); n > fewest {
		f.degrade("workers", fmt.Sprintf("%d workers wanted, but a port has only %d queues", n, fewest))
		n = fewest
	}
	if len(f.workers) > 0 {
		if fewest := links.fewestQueues(snapshot); fewest < len(f.workers) {
			return &tables.InvalidError{Field: "spec.ports", Reason: fmt.Sprintf(
				"a device has queues for %d workers, and %d run: give it more queues, or restart with fewer workers",
				fewest, len(f.workers))}
		}
		if n != len(f.workers) {
			f.degrade("workers", fmt.Sprintf("%d workers run, %d are wanted: restart to change that", len(f.workers), n))
		}
		return nil
	}
	if len(f.cfg.CPUs) > 0 {
		if len(f.cfg.CPUs) < n {
			return fmt.Errorf("%d CPUs are given for %d workers", len(f.cfg.CPUs), n)
		}
		if err := worker.KeepOff(f.cfg.CPUs[:n]); err != nil {
			return err
		}
	}
	// A thread for each worker beside those that the scheduler has for everything else: no goroutine waits for a
	// worker, and no worker gives way to the collector.
	runtime.GOMAXPROCS(runtime.NumCPU() + n)
	for i := range n {
		if err := f.startWorker(i, len(snapshot.Ports), frameSize(next)); err != nil {
			return fmt.Errorf("start worker %d: %w", i, err)
		}
	}
	return nil
}

func (f *Forwarder) startWorker(i, ports, frame int) error {
	chunks := f.cfg.Chunks
	if chunks == 0 {
		chunks = min(maxChunks, max(2, ports)*4*f.cfg.Ring)
	}
	umem, err := xsk.NewUMEM(xsk.UMEMConfig{Chunks: chunks, ChunkSize: frame})
	if err != nil {
		return err
	}
	pool := xsk.NewPool(umem)
	w := worker.New(worker.Config{
		UMEM: umem, Pool: pool, Tables: &f.tables, Clock: f.clock, Timers: i == 0, Gone: f.vanished,
	})
	if err := w.Open(); err != nil {
		return errors.Join(err, umem.Close())
	}
	f.workers = append(f.workers, &thread{worker: w, umem: umem, pool: pool})
	t := worker.Thread{Spin: f.cfg.Spin, CPU: f.cpuOf(i)}
	f.running.Go(func() { w.Run(t) })
	return nil
}

// cpuOf is the CPU that worker i is bound to.
func (f *Forwarder) cpuOf(i int) int {
	if i < len(f.cfg.CPUs) {
		return f.cfg.CPUs[i]
	}
	return worker.AnyCPU
}

// vanished is called by a worker that lost a device.
func (f *Forwarder) vanished(device int) {
	f.lostMu.Lock()
	f.lost[device] = true
	f.lostMu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Close stops the workers, detaches the hooks and gives everything back to the kernel.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for name := range f.devices {
		errs = append(errs, f.closeDevice(context.Background(), name))
	}
	for _, t := range f.workers {
		t.worker.Stop()
	}
	f.running.Wait()
	for _, t := range f.workers {
		errs = append(errs, t.worker.Close(), t.umem.Close())
	}
	f.workers = nil
	f.removePins()
	return errors.Join(errs...)
}

// Ledger reads the books of all workers.
func (f *Forwarder) Ledger() map[packet.PortID]*ledger.Totals {
	f.mu.Lock()
	defer f.mu.Unlock()
	books := make([]*ledger.Book, 0, len(f.workers))
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
