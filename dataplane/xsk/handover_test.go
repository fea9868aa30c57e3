// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

// duplicate is a descriptor as another process has it of the same file.
func duplicate(t testing.TB, fd uintptr) int {
	t.Helper()
	c, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	return c
}

// successor maps the memory as another process does.
func successor(t testing.TB, u *UMEM) *UMEM {
	t.Helper()
	if u.File() == nil {
		t.Fatal("the memory is of no file")
	}
	state := u.State()
	next, err := MapUMEM(os.NewFile(uintptr(duplicate(t, u.File().Fd())), "umem"), state.UMEMConfig, state.Huge)
	must(t, err)
	t.Cleanup(func() { _ = next.Close() })
	return next
}

// A socket is taken over with packets in every place: received and not taken, held, on their way out, and arriving in
// between. None is lost, each comes once and as it was, and every frame has exactly one owner; then the memory serves
// fresh sockets beside the one taken.
func TestTakeOver(t *testing.T) {
	for _, multiBuffer := range []bool{false, true} {
		veth.Namespace(t)
		w, other := veth.New(t, 1500), veth.New(t, 1500)
		u, p := newUMEM(t, 512, 2048)
		s := openOn(t, w, SocketConfig{UMEM: u, RxSize: 256, TxSize: 64, MultiBuffer: multiBuffer, TxChecksum: true})
		fillUp(t, s, p, 128)
		for n := range uint32(40) {
			w.Send(t, veth.Packet(n, 300))
		}
		held := append([]Desc(nil), poll(t, s, make([]Desc, 1))...)
		sent := poll(t, s, make([]Desc, 1))
		// The second packet is invalid.
		if s.Send(sent) != 1 || s.Flush() != nil || s.Send([]Desc{{Addr: mustGet(t, p) + 256}}) != 1 {
			t.Fatal("not sent")
		}
		if got := w.Receive(); !bytes.Equal(got, veth.Packet(1, 300)) {
			t.Fatal("the packet sent differs")
		}

		next := successor(t, u)
		pool := NewPool(next)
		must(t, next.Adopt(u.State().Owners))
		must(t, pool.Adopt([]uint64{held[0].Addr}))
		if pool.Free() != p.Free() {
			t.Errorf("the pool has %d frames, the predecessor's %d", pool.Free(), p.Free())
		}
		state, err := s.State()
		must(t, err)
		fd := duplicate(t, uintptr(s.FD()))
		must(t, s.Leave())
		for n := range uint32(40) { // nobody has the socket
			w.Send(t, veth.Packet(40+n, 300))
		}
		taken, err := AdoptSocket(next, fd, state)
		must(t, err)
		if got := contents(next, held); !bytes.Equal(got, veth.Packet(0, 300)) {
			t.Error("the packet held differs")
		}
		pool.Put(held[0].Addr)
		for n := uint32(2); n < 80; n++ {
			got := poll(t, taken, make([]Desc, 1))
			if !bytes.Equal(contents(next, got), veth.Packet(n, 300)) {
				t.Fatalf("packet %d differs", n)
			}
			pool.Put(got[0].Addr)
		}
		complete(t, taken, pool, 2) // that which was sent, and that which was not
		fillUp(t, taken, pool, 64)
		echo(t, w, taken, next, pool, 200)
		if info := taken.Info(); info != state.Info || taken.txInvalid != 1 {
			t.Errorf("info %+v, %d invalid", info, taken.txInvalid)
		}

		fresh := openOn(t, other, SocketConfig{UMEM: next, MultiBuffer: multiBuffer, TxChecksum: true})
		if fresh.slot == taken.slot {
			t.Fatal("one slot for two sockets")
		}
		fillUp(t, fresh, pool, 64)
		echo(t, other, fresh, next, pool, 200)
		closeInto(t, taken, pool)
		echo(t, other, fresh, next, pool, 200)
		closeInto(t, fresh, pool)
		if pool.Free() != next.Chunks() {
			t.Errorf("%d of %d frames came back", pool.Free(), next.Chunks())
		}
	}
}

func mustGet(t testing.TB, p *Pool) uint64 {
	t.Helper()
	frame, ok := p.Get()
	if !ok {
		t.Fatal("no frame")
	}
	return frame
}

// The predecessor goes on when the successor gives up, even after it has the rings mapped.
func TestTakeOverGivenUp(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p := newUMEM(t, 256, 2048)
	s := openOn(t, w, SocketConfig{UMEM: u})
	fillUp(t, s, p, 128)
	echo(t, w, s, u, p, 100)

	next := successor(t, u)
	must(t, next.Adopt(u.State().Owners))
	state, err := s.State()
	must(t, err)
	taken, err := AdoptSocket(next, duplicate(t, uintptr(s.FD())), state)
	must(t, err)
	w.Send(t, veth.Packet(7, 100))
	must(t, taken.Leave())
	must(t, next.Close())

	got := poll(t, s, make([]Desc, 1))
	if !bytes.Equal(contents(u, got), veth.Packet(7, 100)) {
		t.Error("the packet differs")
	}
	p.Put(got[0].Addr)
	echo(t, w, s, u, p, 100)
	closeInto(t, s, p)
	if p.Free() != u.Chunks() {
		t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
	}
}

// What does not fit is refused, and nothing is taken.
func TestTakeOverRefused(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p := newUMEM(t, 64, 2048)
	s := openOn(t, w, SocketConfig{UMEM: u})
	fillUp(t, s, p, 32)
	good, err := s.State()
	must(t, err)
	next := successor(t, u)
	owners := u.State().Owners
	if next.Adopt(owners[1:]) == nil {
		t.Error("too few owners are taken")
	}
	wrong := bytes.Clone(owners)
	wrong[3] = poolOwns
	if next.Adopt(wrong) == nil {
		t.Error("an owner that is none is taken")
	}
	pool := NewPool(next)
	must(t, next.Adopt(owners))
	for name, held := range map[string][]uint64{
		"a socket's": {uint64(bytes.IndexByte(owners, s.slot)) << next.shift},
		"beyond":     {1 << 40}, "twice": {63 << 11, 63 << 11},
	} {
		if pool.Adopt(held) == nil {
			t.Errorf("a frame that is %s is held", name)
		}
	}
	for name, change := range map[string]func(*SocketState){
		"slot":     func(s *SocketState) { s.Slot = 0 },
		"ring":     func(s *SocketState) { s.RxSize = 100 },
		"returned": func(s *SocketState) { s.Returned = []uint64{63 << 11} },
	} {
		state := good
		change(&state)
		fd := duplicate(t, uintptr(s.FD()))
		if _, err := AdoptSocket(next, fd, state); err == nil {
			t.Errorf("a wrong %s is taken", name)
		}
		must(t, unix.Close(fd)) // which is the caller's still
	}
	if _, err := AdoptSocket(next, 0, good); err == nil {
		t.Error("standard input is taken for a socket")
	}
	if m, err := MapUMEM(u.File(), UMEMConfig{Chunks: 1 << 14, ChunkSize: 4096}, false); err == nil {
		t.Error("more memory is mapped than there is", m)
	}
	closeInto(t, s, p)
}
