// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func benchKernel(b testing.TB, records int) *offload.Table {
	begun := time.Now()
	clock := func() int64 { return start + int64(time.Since(begun)) }
	kernel, err := offload.New(offload.Config{Memory: offload.NewMemory(records), Clock: clock, Kernel: clock})
	if err != nil {
		b.Fatal(err)
	}
	for port := range packet.PortID(2) {
		if err := kernel.SetEgress(port+1, offload.Egress{Kind: offload.Pod, IfIndex: 1}); err != nil {
			b.Fatal(err)
		}
	}
	return kernel
}

// benchCarried has so many flows be carried in both directions.
func benchCarried(b *testing.B, flows int) *Table {
	t, p := benchTableBy(b, packet.ProtoTCP, false, flows, benchKernel(b, flows+flows/4))
	for i := range uint32(flows) {
		for turn := range uint32(2) {
			benchFlow(p, false, i, turn)
			in := 1 + packet.PortID(turn)
			s := t.seen(p, in, start, 1)
			if !s.Carry || !t.Carry(&s, &offload.Way{In: in, Out: 3 - in, MTU: 1500}) {
				b.Fatalf("%+v", s)
			}
		}
	}
	return t
}

// BenchmarkNotCarried is BenchmarkEstablished of flows that the kernel may carry, by a caller who has it carry none.
func BenchmarkNotCarried(b *testing.B) {
	for name, flows := range map[string]int{"1024": 1 << 10, "1048576": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			t, p := benchTableBy(b, packet.ProtoTCP, false, flows, benchKernel(b, 8))
			b.ReportAllocs()
			b.ResetTimer()
			benchBatch(b, t, p, false, uint32(flows))
		})
	}
}

// BenchmarkCarry enters a direction of a flow and takes it back.
func BenchmarkCarry(b *testing.B) {
	const flows = 1 << 14
	t, p := benchTableBy(b, packet.ProtoTCP, false, flows, benchKernel(b, flows))
	at := uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		at = order(at)
		benchFlow(p, false, at&(flows-1), 0)
		s := &sinkSeen
		t.Track(p, 1, start, 1, s)
		if !t.Carry(s, &offload.Way{In: 1, Out: 2, MTU: 1500}) {
			b.Fatal(s)
		}
		sh := t.shard(s.hash)
		sh.lock.Lock()
		sh.withdraw(s.at)
		sh.lock.Unlock()
	}
}

// BenchmarkWalk goes over 100,000 carried flows, and keeps them; or sweeps the table that they are in.
func BenchmarkWalk(b *testing.B) {
	t := benchCarried(b, 100_000)
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for range t.Carried() {
				n++
			}
			if n != 100_000 {
				b.Fatal(n)
			}
		}
	})
	b.Run("judge", func(b *testing.B) {
		generation := uint32(1)
		for b.Loop() {
			generation++
			for f := range t.Carried() {
				t.Judge(f.ID, verdict.None, start, generation, 7)
			}
		}
	})
	b.Run("sweep", func(b *testing.B) {
		for b.Loop() {
			for range sweepShare {
				t.Sweep(start, 0, 1)
			}
		}
	})
	b.Run("export", func(b *testing.B) {
		for b.Loop() {
			for range t.Export(start) {
			}
		}
	})
}

// BenchmarkRestore has another table know 100,000 flows of the kernel's records.
func BenchmarkRestore(b *testing.B) {
	kernel := benchCarried(b, 100_000).kernel
	for b.Loop() {
		t := New(Config{PerPort: 1 << 20, Offload: kernel})
		for ref := range kernel.All() {
			s, _ := t.Recorded(ref, start)
			if err := t.Restore(&s, start); err != nil {
				b.Fatal(err)
			}
		}
	}
}
