// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

func newMemory(t testing.TB, c MemoryConfig) *Memory {
	t.Helper()
	m, err := NewMemory(c)
	must(t, err)
	t.Cleanup(func() { _ = m.Close(nil) })
	return m
}

func TestMemoryEcho(t *testing.T) {
	for _, size := range []int{1, 60, 3840, 3841, 60014, 65535} {
		u, p := newUMEM(t, 256, 4096)
		m := newMemory(t, MemoryConfig{UMEM: u, RxSize: 32, TxSize: 32, FillSize: 64, CompletionSize: 32, MultiBuffer: true})
		fillUp(t, m, p, 64)
		for n := range uint32(100) {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(uint32(i) + n)
			}
			if !m.Inject(want) {
				t.Fatalf("packet %d of %d bytes not injected", n, size)
			}
			descs := poll(t, m, make([]Desc, 64))
			if got := contents(u, descs); !bytes.Equal(got, want) {
				t.Fatalf("packet %d of %d bytes: received %d bytes that differ", n, size, len(got))
			}
			if m.Send(descs) != len(descs) {
				t.Fatal("not sent")
			}
			packets := 0
			m.Drain(func(got []byte, metadata bool) {
				packets++
				if !bytes.Equal(got, want) || metadata {
					t.Fatalf("packet %d of %d bytes: drained %d bytes that differ", n, size, len(got))
				}
			})
			if packets != 1 {
				t.Fatalf("drained %d packets", packets)
			}
			complete(t, m, p, len(descs))
			fillUp(t, m, p, len(descs))
		}
		if n := closeInto(t, m, p); n != 64 || p.Free() != 256 {
			t.Errorf("queue owned %d frames, not 64; %d of 256 came back", n, p.Free())
		}
	}
}

func TestMemoryDrops(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, RxSize: 4, FillSize: 8})
	if m.Inject(veth.Packet(0, 60)) {
		t.Error("injected without a frame")
	}
	fillUp(t, m, p, 8)
	if m.Inject(make([]byte, 1793)) || m.Inject(nil) {
		t.Error("injected a packet that needs two frames, or none")
	}
	for n := range uint32(5) {
		if got := m.Inject(veth.Packet(n, 60)); got != (n < 4) {
			t.Errorf("packet %d: injected %v", n, got)
		}
	}
	st, err := m.Statistics()
	must(t, err)
	if st.RxDropped != 3 || st.FillRingEmpty != 1 || st.RxRingFull != 1 {
		t.Errorf("statistics %+v", st)
	}
}

func TestMemoryBreak(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u})
	fillUp(t, m, p, 10)
	m.Inject(veth.Packet(0, 60))
	m.Send(put(t, u, p, veth.Packet(0, 60)))
	m.Break()
	if m.Inject(veth.Packet(0, 60)) {
		t.Error("injected after the break")
	}
	m.Drain(func([]byte, bool) { t.Error("drained after the break") })
	if err := m.Flush(); !errors.Is(err, ErrGone) {
		t.Errorf("flush: %v", err)
	}
	if n := closeInto(t, m, p); n != 11 || p.Free() != 64 {
		t.Errorf("queue owned %d frames, not 11; %d of 64 came back", n, p.Free())
	}
}

// Only whole packets are received and sent, whatever the room.
func TestWholePackets(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, TxSize: 8, MultiBuffer: true})
	fillUp(t, m, p, 32)
	for range 3 {
		m.Inject(make([]byte, 3*1792)) // three frames
	}
	descs := make([]Desc, 8)
	if n := m.Receive(descs); n != 6 {
		t.Fatalf("received %d frames into 8, not 6", n)
	}
	if n := m.Send(descs[:5]); n != 3 {
		t.Errorf("sent %d frames of 5, not 3", n)
	}
	if n := m.Send(descs[3:6]); n != 3 {
		t.Errorf("sent %d frames of 3", n)
	}
	if n := m.Send([]Desc{descs[0], descs[1], descs[2]}); !debug && n != 0 {
		t.Errorf("sent %d frames into room for 2", n)
	}
	if n := m.Receive(descs[:2]); n != 0 { // a packet longer than descs does not block the ring
		t.Errorf("received %d frames of a packet of 3", n)
	}
	m.Inject(veth.Packet(0, 60))
	if n := m.Receive(descs[:2]); n != 1 {
		t.Errorf("received %d frames, not 1", n)
	}
	if st, _ := m.Statistics(); st.RefusedOnReturn != 1 {
		t.Errorf("statistics %+v", st)
	}
}

// A run of frames whose end the kernel has not published stays on the ring.
func TestIncompleteRunStays(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, MultiBuffer: true})
	fillUp(t, m, p, 8)
	m.wire.fill.available(4)
	m.deliver(make([]byte, 60), 0)
	m.deliver(make([]byte, 1792), Contd)
	m.deliver(make([]byte, 1792), Contd)
	m.wire.rx.publish()
	descs := make([]Desc, 2)
	for i, want := range []int{1, 0, 0} {
		if n := m.Receive(descs); n != want {
			t.Errorf("call %d received %d frames, not %d", i, n, want)
		}
	}
	m.deliver(make([]byte, 60), 0)
	m.wire.rx.publish()
	if n := m.Receive(make([]Desc, 8)); n != 3 {
		t.Errorf("received %d frames, not 3", n)
	}
}

// What the kernel would lose comes back at once.
func TestSendRefuses(t *testing.T) {
	u, p := newUMEM(t, 128, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, MultiBuffer: true, TxChecksum: true})
	good := func() []Desc { return put(t, u, p, veth.Packet(0, 100)) }
	edit := func(change func(*Desc)) []Desc {
		descs := good()
		change(&descs[0])
		return descs
	}
	long := []Desc{}
	for range maxFrames + 1 {
		d := good()[0]
		d.Options = Contd
		long = append(long, d)
	}
	long[maxFrames].Options = 0
	for _, test := range []struct {
		name  string
		descs []Desc
	}{
		{"empty", edit(func(d *Desc) { d.Len = 0 })},
		{"past its frame", edit(func(d *Desc) { d.Len = 1793 })},
		{"no room for metadata", edit(func(d *Desc) { d.Addr -= 256 })},
		{"unknown option", edit(func(d *Desc) { d.Options = 4 })},
		{"metadata that was not put", edit(func(d *Desc) { d.Options = TxMetadata })},
		{"checksum past its frame", edit(func(d *Desc) {
			d.Options = TxMetadata
			PutTxChecksum(u.Frame(d.Addr), 256, 98, 1)
		})},
		{"too many frames", long},
	} {
		before := p.Free()
		batch := append(append(good(), test.descs...), good()...)
		if n := m.Send(batch); n != len(batch) {
			t.Fatalf("%s: took %d of %d", test.name, n, len(batch))
		}
		frames := make([]uint64, 64)
		n := m.Completed(frames)
		if n != len(test.descs) {
			t.Errorf("%s: %d frames came back, not %d", test.name, n, len(test.descs))
		}
		p.PutN(frames[:n])
		drained := 0
		m.Drain(func([]byte, bool) { drained++ })
		if drained != 2 {
			t.Errorf("%s: %d good packets drained, not 2", test.name, drained)
		}
		complete(t, m, p, 2)
		if p.Free() != before+len(test.descs) {
			t.Errorf("%s: pool went from %d to %d frames", test.name, before, p.Free())
		}
	}
	if st, _ := m.Statistics(); st.RefusedOnSend != 7 {
		t.Errorf("statistics %+v", st)
	}
}

// A kernel gone wrong may not make us touch what is not ours.
func TestCorruptRings(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, RxSize: 8, TxSize: 8, FillSize: 8, CompletionSize: 8})
	fillUp(t, m, p, 4)
	mine, _ := p.Get()
	for _, d := range []Desc{
		{Addr: 1 << 40, Len: 60}, {Addr: ^uint64(0), Len: 60}, {Addr: mine, Len: 60},
		{Addr: 0, Len: 1 << 31}, {Addr: 1, Len: 2048},
	} {
		*m.wire.rx.at(m.wire.rx.next) = d
		m.wire.rx.next++
		m.wire.rx.publish()
		if n := m.Receive(make([]Desc, 8)); n != 0 {
			t.Errorf("received %+v", d)
		}
		*m.wire.completion.at(m.wire.completion.next) = d.Addr
		m.wire.completion.next++
		m.wire.completion.publish()
		frames := make([]uint64, 8)
		for _, frame := range frames[:m.Completed(frames)] {
			if frame == mine || frame > 4*2048 {
				t.Errorf("completed %#x", frame)
			}
		}
	}
	*m.rx.theirs += 1000
	*m.completion.theirs += 1000
	*m.tx.theirs += 1000
	*m.fill.theirs += 1000
	if m.Receive(make([]Desc, 8)) != 0 || m.Completed(make([]uint64, 8)) != 0 ||
		m.Fill(make([]uint64, 8)) != 0 || m.Send(make([]Desc, 9)) != 0 {
		t.Error("a corrupt cursor was believed")
	}
}

func TestTxChecksumInMemory(t *testing.T) {
	u, p := newUMEM(t, 64, 2048)
	m := newMemory(t, MemoryConfig{UMEM: u, TxChecksum: true})
	for _, size := range []int{42, 43, 1000, 1001} {
		packet := veth.Packet(7, size)
		packet[40], packet[41] = 0x12, 0x34 // the pseudo header's sum
		want := bytes.Clone(packet)
		sum := uint32(0)
		for i := 34; i < size; i++ { // byte by byte, against the implementation's words
			if i%2 == 0 {
				sum += uint32(packet[i]) * 256
			} else {
				sum += uint32(packet[i])
			}
		}
		for sum > 0xffff {
			sum = sum%0x10000 + sum/0x10000
		}
		want[40], want[41] = byte(^sum>>8), byte(^sum)
		descs := put(t, u, p, packet)
		descs[0].Options = TxMetadata
		PutTxChecksum(u.Frame(descs[0].Addr), u.Headroom(), 34, 6)
		if m.Send(descs) != 1 {
			t.Fatal("not sent")
		}
		m.Drain(func(got []byte, metadata bool) {
			if !metadata || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: metadata %v, sum %x, want %x", size, metadata, got[40:42], want[40:42])
			}
		})
	}
}

// Every frame has one owner, whatever is done: random steps, and a count of every owner after each.
func TestFrameAccounting(t *testing.T) {
	u, p := newUMEM(t, 128, 2048)
	queues := []*Memory{}
	for range 2 {
		queues = append(queues, newMemory(t, MemoryConfig{UMEM: u, RxSize: 16, TxSize: 16, FillSize: 32,
			CompletionSize: 16, MultiBuffer: true}))
	}
	held := []Desc{} // whole packets
	frames := make([]uint64, 16)
	for step := range 20000 {
		m := queues[rand.IntN(2)]
		switch rand.IntN(6) {
		case 0:
			n := p.GetN(frames[:rand.IntN(16)])
			taken := m.Fill(frames[:n])
			p.PutN(frames[taken:n])
		case 1:
			m.Inject(make([]byte, 1+rand.IntN(5000)))
		case 2:
			descs := make([]Desc, rand.IntN(16))
			held = append(held, descs[:m.Receive(descs)]...)
		case 3:
			held = held[m.Send(held[:min(len(held), rand.IntN(20))]):]
		case 4:
			m.Drain(func([]byte, bool) {})
		case 5:
			p.PutN(frames[:m.Completed(frames)])
		}
		callers := 0
		for _, owner := range u.owner {
			if owner == callerOwns || owner == poolOwns {
				callers++
			}
		}
		if callers != p.Free()+len(held) {
			t.Fatalf("step %d: %d frames are not with a queue, the pool has %d and the caller %d", step, callers,
				p.Free(), len(held))
		}
	}
	for _, m := range queues {
		closeInto(t, m, p)
	}
	for _, d := range held {
		p.Put(d.Addr)
	}
	seen := map[uint64]bool{}
	for range u.Chunks() {
		frame, ok := p.Get()
		if !ok || seen[frame] {
			t.Fatalf("frame %#x: there %v, twice %v", frame, ok, seen[frame])
		}
		seen[frame] = true
	}
}

func BenchmarkMemory(b *testing.B) {
	const batch = 64
	u, p := newUMEM(b, 4096, 2048)
	m := newMemory(b, MemoryConfig{UMEM: u})
	fillUp(b, m, p, 1024)
	packet := veth.Packet(0, 60)
	descs, frames := make([]Desc, batch), make([]uint64, batch)
	ignore := func([]byte, bool) {}
	b.ReportAllocs()
	for range b.N / batch {
		for range batch {
			m.Inject(packet)
		}
		m.Send(descs[:m.Receive(descs)])
		m.Drain(ignore)
		m.Fill(frames[:m.Completed(frames)])
	}
}

// BenchmarkQueue is the queue's own side alone: the wire moves entries and touches no bytes.
func BenchmarkQueue(b *testing.B) {
	const batch = 64
	u, p := newUMEM(b, 4096, 2048)
	m := newMemory(b, MemoryConfig{UMEM: u})
	fillUp(b, m, p, 1024)
	descs, frames := make([]Desc, batch), make([]uint64, batch)
	b.ReportAllocs()
	for range b.N / batch {
		for range m.wire.fill.available(batch) {
			*m.wire.rx.at(m.wire.rx.next) = Desc{Addr: *m.wire.fill.at(m.wire.fill.next) + 256, Len: 60}
			m.wire.fill.next++
			m.wire.rx.next++
		}
		m.wire.fill.publish()
		m.wire.rx.publish()
		m.Send(descs[:m.Receive(descs)])
		m.complete(m.wire.tx.available(batch))
		m.Fill(frames[:m.Completed(frames)])
	}
}
