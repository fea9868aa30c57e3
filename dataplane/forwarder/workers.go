// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// wantedWorkers is how many workers a snapshot asks for.
func wantedWorkers(snapshot *api.Snapshot) int {
	if n := int(snapshot.GetNode().GetWorkers()); n > 0 {
		return n
	}
	return max(1, runtime.NumCPU()/2)
}

// provideWorkers sees to it that there are workers, and no more than the devices have queues for: a packet leaves by
// the device's queue of the worker that has it. Workers start with the first snapshot whose devices are there; undo
// stops those that it started.
func (f *Forwarder) provideWorkers(
	ctx context.Context, snapshot *api.Snapshot, next *tables.Tables, links links,
) (undo func() error, err error) {
	undo = func() error { return nil }
	fewest := links.fewestQueues(snapshot)
	switch {
	case fewest == noQueues: // nothing to serve
		return undo, nil
	case len(f.workers) == 0:
		f.provideFlows(next.Node)
		return f.stopWorkers, f.startWorkers(
			min(wantedWorkers(snapshot), fewest),
			len(withSockets(snapshot)),
			frameSize(next),
		)
	case fewest < len(f.workers):
		return undo, f.reduceWorkers(ctx, min(fewest, links.fewestQueues(f.snapshot)), links)
	}
	return undo, nil
}

// reportWorkers says what is amiss with the number of workers for the snapshot in force.
func (f *Forwarder) reportWorkers(links links) {
	wanted, fewest, run := wantedWorkers(f.snapshot), links.fewestQueues(f.snapshot), len(f.workers)
	switch {
	case run == 0 || run == wanted:
		delete(f.degraded, "workers")
	case run == fewest && run < wanted:
		f.degrade("workers", fmt.Sprintf("%d workers wanted, but a port has only %d queues", wanted, fewest))
	default:
		f.degrade("workers", fmt.Sprintf("%d workers run, %d are wanted: restart to change that", run, wanted))
	}
}

// startWorkers starts n workers, or none.
func (f *Forwarder) startWorkers(n, ports, frame int) error {
	if cpus := f.cfg.CPUs; len(cpus) > 0 {
		if len(cpus) < n {
			return fmt.Errorf("%d CPUs are given for %d workers", len(cpus), n)
		}
		if n > f.apart { // those before are not this process's any more
			if err := worker.KeepOff(cpus[f.apart:n]); err != nil {
				return err
			}
			f.apart = n
		}
	}
	// A thread for each worker beside those that the scheduler has for everything else: no goroutine waits for a
	// worker, and no worker gives way to the collector.
	runtime.GOMAXPROCS(runtime.NumCPU() + n)
	for i := range n {
		if err := f.startWorker(i, ports, frame); err != nil {
			return errors.Join(fmt.Errorf("start worker %d: %w", i, err), f.stopWorkers())
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
		Flows: f.flows.Load(), Names: f.dns,
	})
	if err := w.Open(); err != nil {
		return errors.Join(err, umem.Close())
	}
	f.workers = append(f.workers, &thread{worker: w, umem: umem, pool: pool})
	f.publishWorkers()
	t := worker.Thread{Spin: f.cfg.Spin, CPU: f.cpuOf(i)}
	f.running.Go(func() { w.Run(t) })
	return nil
}

// stopWorkers stops all workers, whose devices are closed, and keeps their books.
func (f *Forwarder) stopWorkers() error {
	for _, t := range f.workers {
		t.worker.Stop()
	}
	f.running.Wait()
	var errs []error
	for _, t := range f.workers {
		errs = append(errs, t.worker.Close(), t.umem.Close())
		f.ended = append(f.ended, t.worker.Book())
	}
	f.workers = nil
	f.publishWorkers()
	return errors.Join(errs...)
}

// reduceWorkers starts anew with n workers: sockets are bound to the memory of their worker. What is in force stays,
// but nothing is forwarded meanwhile.
func (f *Forwarder) reduceWorkers(ctx context.Context, n int, links links) error {
	ctx = context.WithoutCancel(ctx)
	f.log.Warn("workers start anew, since a device has fewer queues; forwarding is interrupted",
		zap.Int("workers", len(f.workers)), zap.Int("queues", n))
	var errs []error
	for name := range f.devices {
		errs = append(errs, f.closeDevice(ctx, name))
	}
	errs = append(errs, f.stopWorkers())
	if err := errors.Join(errs...); err != nil { // of what is closed all the same
		f.log.Error("closing devices for workers to start anew", zap.Error(err))
	}
	if err := f.startWorkers(n, len(withSockets(f.snapshot)), frameSize(f.tables.Load())); err != nil {
		f.look()
		return err
	}
	if err := f.reopen(ctx, links, true); err != nil {
		f.log.Error("opening devices after workers started anew", zap.Error(err))
		f.look()
	}
	f.reportWorkers(links)
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
	f.look()
}

// look has the devices compared with what is open.
func (f *Forwarder) look() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}
