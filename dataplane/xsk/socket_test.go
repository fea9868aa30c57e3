// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newUMEM(t testing.TB, chunks, size int) (*UMEM, *Pool) {
	t.Helper()
	u, err := NewUMEM(UMEMConfig{Chunks: chunks, ChunkSize: size})
	must(t, err)
	t.Cleanup(func() { _ = u.Close() })
	return u, NewPool(u)
}

// fillUp gives n frames of the pool to the fill ring.
func fillUp(t testing.TB, q Queue, p *Pool, n int) {
	t.Helper()
	frames := make([]uint64, n)
	if got := p.GetN(frames); got != n {
		t.Fatalf("pool had %d frames of %d", got, n)
	}
	if got := q.Fill(frames); got != n {
		t.Fatalf("fill ring took %d frames of %d", got, n)
	}
	must(t, q.Flush())
}

// complete takes n frames back, waiting at most two seconds.
func complete(t testing.TB, q Queue, p *Pool, n int) {
	t.Helper()
	frames := make([]uint64, 64)
	for deadline := time.Now().Add(2 * time.Second); n > 0; {
		got := q.Completed(frames[:min(n, len(frames))])
		p.PutN(frames[:got])
		n -= got
		if time.Now().After(deadline) {
			t.Fatalf("%d frames were never completed", n)
		}
		must(t, q.Flush())
	}
}

// closeInto closes the queue and puts its frames in the pool, each at most once.
func closeInto(t testing.TB, q Queue, p *Pool) int {
	t.Helper()
	seen := map[uint64]bool{}
	must(t, q.Close(func(frame uint64) {
		if seen[frame] {
			t.Errorf("frame %#x released twice", frame)
		}
		seen[frame] = true
		p.Put(frame)
	}))
	return len(seen)
}

// put writes a packet into frames of the pool and returns descriptors to send it.
func put(t testing.TB, u *UMEM, p *Pool, packet []byte) []Desc {
	t.Helper()
	var descs []Desc
	for room := u.ChunkSize() - u.Headroom(); ; packet = packet[room:] {
		frame, ok := p.Get()
		if !ok {
			t.Fatal("no frame")
		}
		n := copy(u.Frame(frame)[u.Headroom():], packet)
		descs = append(descs, Desc{Addr: frame + uint64(u.Headroom()), Len: uint32(n), Options: Contd})
		if len(packet) <= room {
			descs[len(descs)-1].Options = 0
			return descs
		}
	}
}

// echo moves packets both ways between the socket and the far end of its wire.
func echo(t testing.TB, w *wire, q Queue, u *UMEM, p *Pool, size int) {
	t.Helper()
	for n := range uint32(100) {
		want := testPacket(n, size)
		w.send(t, want)
		descs := poll(t, q, make([]Desc, 64))
		if got := contents(u, descs); !bytes.Equal(got, want) {
			t.Fatalf("packet %d: received %d bytes that differ from the %d sent", n, len(got), len(want))
		}
		if got := q.Send(descs); got != len(descs) {
			t.Fatalf("packet %d: sent %d frames of %d", n, got, len(descs))
		}
		must(t, q.Flush())
		if got := w.receive(); !bytes.Equal(got, want) {
			t.Fatalf("packet %d: %d bytes came back that differ from the %d sent", n, len(got), len(want))
		}
		complete(t, q, p, len(descs))
		fillUp(t, q, p, len(descs))
	}
}

func TestSocketEcho(t *testing.T) {
	for _, test := range []struct {
		name                   string
		chunkSize, mtu, packet int
		multiBuffer            bool
	}{
		{"smallest", 2048, 1500, 60, false},
		{"full", 2048, 1500, 1514, false},
		{"multi-buffer, one frame", 4096, 60000, 60, true},
		{"multi-buffer, two frames", 4096, 60000, 3841, true},
		{"multi-buffer, 60 KB", 4096, 60000, 60014, true},
		{"multi-buffer, small chunks", 2048, 9000, 9014, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace(t)
			w := newWire(t, test.mtu)
			u, p := newUMEM(t, 256, test.chunkSize)
			s := w.open(t, SocketConfig{UMEM: u, MultiBuffer: test.multiBuffer})
			fillUp(t, s, p, 128)
			echo(t, w, s, u, p, test.packet)
			info := s.Info()
			if info.ZeroCopy || info.MultiBuffer != test.multiBuffer || info.RxSize != 2048 || info.IfIndex == 0 {
				t.Errorf("info %+v", info)
			}
			closeInto(t, s, p)
			if p.Free() != u.Chunks() {
				t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
			}
		})
	}
}

func TestSocketsShareUMEM(t *testing.T) {
	namespace(t)
	a, b := newWire(t, 1500), newWire(t, 1500)
	u, p := newUMEM(t, 512, 2048)
	sa := a.open(t, SocketConfig{UMEM: u})
	sb := b.open(t, SocketConfig{UMEM: u})
	fillUp(t, sa, p, 64)
	fillUp(t, sb, p, 64)
	for n := range uint32(200) {
		want := testPacket(n, 300)
		a.send(t, want)
		descs := poll(t, sa, make([]Desc, 64))
		if got := sb.Send(descs); got != 1 {
			t.Fatal("not sent")
		}
		must(t, sb.Flush())
		if got := b.receive(); !bytes.Equal(got, want) {
			t.Fatalf("packet %d differs", n)
		}
		complete(t, sb, p, 1)
		fillUp(t, sa, p, 1)
	}
	if n := closeInto(t, sa, p); n != 64 {
		t.Errorf("first socket owned %d frames, not 64", n)
	}
	echo(t, b, sb, u, p, 200)
	closeInto(t, sb, p)
	if p.Free() != u.Chunks() {
		t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
	}
}

// A device vanishes with frames at every place. None may be lost, and the other port goes on; then both are replaced.
func TestDeviceVanishes(t *testing.T) {
	namespace(t)
	u, p := newUMEM(t, 512, 2048)
	stays := newWire(t, 1500)
	goes := newWire(t, 1500)
	first := goes.open(t, SocketConfig{UMEM: u}) // registers the memory
	other := stays.open(t, SocketConfig{UMEM: u})
	fillUp(t, other, p, 64)

	fillUp(t, first, p, 64)
	for n := range uint32(10) {
		goes.send(t, testPacket(n, 100))
	}
	taken := poll(t, first, make([]Desc, 1))
	if first.Send(put(t, u, p, testPacket(0, 100))) != 1 || first.Flush() != nil || first.Send(taken) != 1 {
		t.Fatal("not sent")
	}
	goes.remove(t)
	if err := first.Flush(); !errors.Is(err, ErrGone) {
		t.Fatalf("flush after the device vanished: %v", err)
	}
	if _, err := first.Statistics(); !errors.Is(err, ErrGone) {
		t.Fatalf("statistics after the device vanished: %v", err)
	}
	if n := closeInto(t, first, p); n != 65 {
		t.Errorf("socket owned %d frames, not 65", n)
	}
	echo(t, stays, other, u, p, 500)

	back := newWire(t, 1500)
	again := back.open(t, SocketConfig{UMEM: u})
	fillUp(t, again, p, 64)
	echo(t, back, again, u, p, 500)

	back.remove(t)
	stays.remove(t)
	last := newWire(t, 1500) // nobody is bound any more to share with
	alone := last.open(t, SocketConfig{UMEM: u})
	fillUp(t, alone, p, 64)
	echo(t, last, alone, u, p, 500)
	for _, s := range []*Socket{again, other, alone} {
		closeInto(t, s, p)
	}
	if p.Free() != u.Chunks() {
		t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
	}
	must(t, u.Close())
}

func TestIdleFlushFindsOut(t *testing.T) {
	namespace(t)
	u, p := newUMEM(t, 64, 2048)
	w := newWire(t, 1500)
	s := w.open(t, SocketConfig{UMEM: u})
	fillUp(t, s, p, 16)
	w.remove(t)
	for range 256 {
		if err := s.Flush(); err != nil {
			if !errors.Is(err, ErrGone) {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("an idle socket never notices that its device vanished")
}

// A queue can be bound again as soon as its socket is closed, though packets may be in flight.
func TestReopen(t *testing.T) {
	namespace(t)
	u, p := newUMEM(t, 256, 2048)
	w := newWire(t, 1500)
	for range 10 {
		s := w.open(t, SocketConfig{UMEM: u})
		fillUp(t, s, p, 64)
		if s.Send(put(t, u, p, testPacket(1, 100))) != 1 {
			t.Fatal("not sent")
		}
		must(t, s.Flush())
		if w.receive() == nil {
			t.Fatal("not received")
		}
		if n := closeInto(t, s, p); n != 65 {
			t.Errorf("socket owned %d frames, not 65", n)
		}
	}
	start := time.Now()
	waitUnbound(w.near.Attrs().Index, 0)
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("waited %v for a queue that nobody has", took)
	}
}

func TestOpenRefusals(t *testing.T) {
	namespace(t)
	u, _ := newUMEM(t, 64, 2048)
	w := newWire(t, 1500)
	w.open(t, SocketConfig{UMEM: u})
	name := w.near.Attrs().Name
	for _, test := range []struct {
		name string
		c    SocketConfig
		want error
	}{
		{"no such device", SocketConfig{UMEM: u, Device: "xs-none"}, unix.ENODEV},
		{"no such index", SocketConfig{UMEM: u, IfIndex: 9999}, unix.ENODEV},
		{"no such queue", SocketConfig{UMEM: u, Device: name, QueueID: 99}, unix.EINVAL},
		{"queue in use", SocketConfig{UMEM: u, Device: name, BindWait: time.Millisecond}, unix.EBUSY},
		{"no zero copy on veth", SocketConfig{UMEM: u, Device: w.far.Attrs().Name, ZeroCopy: ZeroCopyOn}, unix.EOPNOTSUPP},
		{"ring size", SocketConfig{UMEM: u, Device: name, RxSize: 1000}, nil},
		{"no umem", SocketConfig{Device: name}, nil},
	} {
		if s, err := Open(test.c); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: socket %v, error %v, want %v", test.name, s, err, test.want)
		}
	}
}
