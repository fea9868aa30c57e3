// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

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
