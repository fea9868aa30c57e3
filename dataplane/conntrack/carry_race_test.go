// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// TestCarryingWorkers: two workers and hooks with both directions of the same flows, of which the kernel has room for
// few, while others go over what is carried, sweep and look. Nobody waits for another for ever, and in the end the
// kernel carries what entries say.
func TestCarryingWorkers(t *testing.T) {
	r := newCarryRig(t, false, Config{Flows: 4 * shardFlows, PerPort: 1 << 14, PerSource: 1 << 14}, 8)
	var clock atomic.Int64
	clock.Store(r.now)
	now := func() int64 { return clock.Load() }
	kernel, err := offload.New(offload.Config{Memory: r.mem, Clock: now, Kernel: now})
	if err != nil {
		t.Fatal(err)
	}
	r.kernel, r.tab.kernel, r.tab.left, r.hook.Kernel = kernel, kernel, nil, now
	var workers, others sync.WaitGroup
	var stop atomic.Bool
	for w := range 2 {
		workers.Go(func() {
			for i := range 10_000 {
				at := clock.Add(second / 500)
				a, b, in, out := r.a, r.b, portA, portB
				src, dst := uint16(1000+i/8%40), uint16(53)
				if (i+w)%2 != 0 {
					a, b, src, dst, in, out = b, a, dst, src, out, in
				}
				p := parse(t, ipPacket(a, b, packet.ProtoUDP, udpBytes(src, dst, 1)))
				if _, ok := r.hook.Carry(hooked(p, in)); ok {
					continue
				}
				s := r.tab.seen(p, in, at, 1)
				switch {
				case s.Status == NewFlow:
					r.tab.Open(&s, p, in, out, at, 1, 1)
				case s.Status == Stale:
					r.tab.Keep(&s, 1, 2)
				case s.Carry:
					r.tab.Carry(&s, &offload.Way{In: in, Out: out, MTU: someMTU})
				case i%97 == 0:
					r.tab.Drop(&s)
				}
				if i%50 == 0 {
					r.tab.Sweep(at, 0, 1)
				}
			}
		})
	}
	others.Go(func() {
		for n := 0; !stop.Load(); n++ {
			for f := range r.tab.Carried() {
				if f.Near != f.Far || f.Near.Src != f.Tuple.Src || f.Near.SrcPort != f.Tuple.SrcPort {
					t.Errorf("a torn flow: %+v", f)
				}
				switch n % 3 {
				case 0:
					r.tab.Uncarry(f.ID)
				case 1:
					r.tab.Judge(f.ID, verdict.None, now(), 1, 3)
				case 2:
					r.tab.Judge(f.ID, verdict.IngressDenied, now(), 1, 3)
					r.tab.Forget(map[packet.PortID]bool{f.In: true})
				}
			}
			for range r.tab.Export(now()) {
			}
			kernel.Beat()
		}
	})
	workers.Wait()
	stop.Store(true)
	others.Wait()
	r.tab.hearEvicted()
	r.now = now()
	r.soundCarried()
	if st := kernel.Stats(); st.Entered == 0 {
		t.Fatalf("%+v", st)
	}
}
