// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

// A ring behaves as a bounded queue, also where its cursors wrap around uint32.
func TestRingAgainstSlice(t *testing.T) {
	for _, start := range []uint32{0, 1<<31 - 5, ^uint32(0) - 7} {
		in := newRing[uint64](8)
		*in.ours, *in.theirs, in.next, in.seen = start, start, start, start
		out := in.peer()
		queue := []uint64{}
		value := uint64(0)
		for range 1000 {
			n := in.free(rand.IntN(12))
			if n > 8-len(queue) {
				t.Fatalf("room for %d with %d of 8 taken", n, len(queue))
			}
			for range n {
				value++
				*in.at(in.next) = value
				in.next++
				queue = append(queue, value)
			}
			in.publish()
			for range out.available(rand.IntN(12)) {
				if got := *out.at(out.next); got != queue[0] {
					t.Fatalf("got %d, want %d", got, queue[0])
				}
				queue = queue[1:]
				out.next++
			}
			out.publish()
			if in.pending() != (len(queue) > 0) {
				t.Fatalf("pending %v with %d entries", in.pending(), len(queue))
			}
		}
	}
}

// Two goroutines, one at each side: what goes in comes out in order. The race detector watches.
func TestRingBetweenGoroutines(t *testing.T) {
	const total = 100000
	in := newRing[uint64](64)
	out := in.peer()
	done := make(chan bool)
	go func() {
		defer close(done)
		for want := uint64(0); want < total; {
			for range out.available(64) {
				if got := *out.at(out.next); got != want {
					t.Errorf("got %d, want %d", got, want)
					return
				}
				out.next++
				want++
			}
			out.publish()
		}
	}()
	for value := uint64(0); value < total; {
		select {
		case <-done:
			t.Fatal("the consumer gave up")
		default:
		}
		for range in.free(int(min(64, total-value))) {
			*in.at(in.next) = value
			in.next++
			value++
		}
		in.publish()
	}
	<-done
}

func TestClosedRing(t *testing.T) {
	r := newRing[uint64](8)
	r.close()
	if r.free(8) != 0 || r.available(8) != 0 {
		t.Error("a closed ring has room or entries")
	}
}

func TestPool(t *testing.T) {
	u, p := newUMEM(t, 8, 4096)
	first, _ := p.Get()
	second, _ := p.Get()
	p.Put(first + 300) // any address in the frame
	if again, ok := p.Get(); !ok || again != first {
		t.Errorf("got %#x, not the last put %#x", again, first)
	}
	p.PutN([]uint64{first, second})
	frames := make([]uint64, 10)
	if n := p.GetN(frames); n != u.Chunks() || p.Free() != 0 {
		t.Errorf("got %d frames of %d, %d left", n, u.Chunks(), p.Free())
	}
	if _, ok := p.Get(); ok {
		t.Error("got a frame of an empty pool")
	}
}

func TestUMEMConfig(t *testing.T) {
	for _, c := range []UMEMConfig{
		{Chunks: 1, ChunkSize: 1024}, {Chunks: 1, ChunkSize: 3000}, {Chunks: 0, ChunkSize: 2048},
		{Chunks: 1, ChunkSize: 2048, Headroom: 7}, {Chunks: 1, ChunkSize: 2048, Headroom: 2000},
	} {
		if u, err := NewUMEM(c); err == nil {
			t.Errorf("%+v was accepted", c)
			_ = u.Close()
		}
	}
	u, _ := newUMEM(t, 4, 2048)
	if f := u.Frame(2048 + 5); len(f) != 2048 || cap(f) != 2048 || &f[0] != &u.data[2048] {
		t.Errorf("frame of %d bytes, capacity %d", len(f), cap(f))
	}
	if u.ChunkOf(4095) != 2048 || u.ChunkSize() != 2048 || u.Chunks() != 4 || u.Headroom() != 256 {
		t.Error("sizes differ")
	}
}

func TestNoAllocations(t *testing.T) {
	u, p := newUMEM(t, 256, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u})
	packet := veth.Packet(0, 60)
	descs, frames := make([]Desc, 64), make([]uint64, 64)
	ignore := func([]byte, bool) {}
	if n := testing.AllocsPerRun(1000, func() {
		m.Fill(frames[:p.GetN(frames[:16])])
		for range 16 {
			m.Inject(packet)
		}
		m.Send(descs[:m.Receive(descs)])
		_ = m.Flush()
		m.Drain(ignore)
		p.PutN(frames[:m.Completed(frames)])
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}
