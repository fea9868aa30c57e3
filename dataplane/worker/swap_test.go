// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"flag"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

var swapCPU = flag.Int("swap-cpu", AnyCPU, "CPU to bind BenchmarkSwap's worker to")

// BenchmarkSwap builds and swaps tables of a million routes again and again beside a worker that forwards without a
// pause. It fails when a packet is lost, and reports the longest pass and the longest time between two passes: what
// the swap, and the collector that frees the tables before, cost the loop.
func BenchmarkSwap(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	routes, _, _ := randomRoutes(random, 1_000_000, 0)
	change := func(s *api.Snapshot) {
		s.Routes = append(s.Routes, routes...)
		sortRoutes(s.Routes)
	}
	r := newRig(b, change).know()
	data := udp(b, 0, "10.1.0.2", "10.20.1.1", 18, nil)

	if *swapCPU != AnyCPU {
		if err := KeepOff([]int{*swapCPU}); err != nil {
			b.Fatal(err)
		}
	}
	var done atomic.Bool
	var sent, left int
	var worst, between time.Duration
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread()
		prefer(*swapCPU)
		end := time.Now()
		for !done.Load() {
			for range 32 {
				if r.rings[0].Inject(data) {
					sent++
				}
			}
			begin := time.Now()
			between = max(between, begin.Sub(end))
			r.worker.Poll(r.now)
			end = time.Now()
			worst = max(worst, end.Sub(begin))
			r.rings[1].Drain(func([]byte, bool) { left++ })
		}
	}()
	for b.Loop() {
		s := snapshot()
		s.Epoch = r.tables.Load().Epoch + 1
		change(s)
		s.Routes[len(s.Routes)-1].Group = toUnreachable
		next, err := tables.Build(r.tables.Load(), s, r.links, r.neighbors)
		if err != nil {
			b.Fatal(err)
		}
		next.Enter(r.tables.Load())
		r.tables.Store(next)
	}
	done.Store(true)
	<-finished
	if sent != left {
		b.Errorf("%d packets went in, %d came out", sent, left)
	}
	b.ReportMetric(float64(worst.Microseconds()), "longest-pass-µs")
	b.ReportMetric(float64(between.Microseconds()), "longest-gap-µs")
	b.ReportMetric(float64(sent)/float64(b.N), "packets/swap")
}
