// SPDX-License-Identifier: Apache-2.0

package asavie

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/dataplane/xsk"
	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setup opens a queue over a fresh UMEM with 64 frames on its fill ring.
func setup(t testing.TB, w *veth.Wire) (*xsk.UMEM, *xsk.Pool, xsk.Queue) {
	t.Helper()
	u, err := xsk.NewUMEM(xsk.UMEMConfig{Chunks: 1024, ChunkSize: 2048})
	must(t, err)
	t.Cleanup(func() { _ = u.Close() })
	q, err := OpenAsavie(xsk.SocketConfig{UMEM: u, Device: w.Near.Attrs().Name, RxSize: 512, TxSize: 512, FillSize: 512})
	must(t, err)
	t.Cleanup(func() { _ = q.Close(nil) })
	must(t, w.XSKs.Put(uint32(0), uint32(q.FD())))
	p := xsk.NewPool(u)
	fill(t, q, p, 64)
	return u, p, q
}

func fill(t testing.TB, q xsk.Queue, p *xsk.Pool, n int) {
	t.Helper()
	frames := make([]uint64, n)
	if p.GetN(frames) != n || q.Fill(frames) != n {
		t.Fatalf("could not fill %d frames", n)
	}
}

func receive(t testing.TB, q xsk.Queue, descs []xsk.Desc) []xsk.Desc {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		if n := q.Receive(descs); n > 0 {
			return descs[:n]
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.Fatal("no packet")
	return nil
}

func echo(t testing.TB, w *veth.Wire, u *xsk.UMEM, p *xsk.Pool, q xsk.Queue) {
	t.Helper()
	frames := make([]uint64, 64)
	for n := range uint32(300) {
		want := veth.Packet(n, 60+int(n)*4)
		w.Send(t, want)
		descs := receive(t, q, make([]xsk.Desc, 64))
		d := descs[0]
		start := int(d.Addr) % u.ChunkSize()
		if got := u.Frame(d.Addr)[start : start+int(d.Len)]; len(descs) != 1 || !bytes.Equal(got, want) {
			t.Fatalf("packet %d: received %d frames, %d bytes that differ", n, len(descs), len(got))
		}
		if q.Send(descs) != 1 {
			t.Fatal("not sent")
		}
		must(t, q.Flush())
		if got := w.Receive(); !bytes.Equal(got, want) {
			t.Fatalf("packet %d: %d bytes came back that differ", n, len(got))
		}
		if q.Completed(frames) != 1 {
			t.Fatal("not completed")
		}
		p.Put(frames[0])
		fill(t, q, p, 1)
	}
}

func TestEchoAndReopen(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	before := mappings(t)
	for range 3 {
		u, p, q := setup(t, w)
		if mapped := mappings(t) - before; mapped != 4 {
			t.Errorf("%d ring mappings", mapped)
		}
		if info := q.Info(); info.Backend != "asavie" || info.TxChecksum || info.MultiBuffer || info.MaxFrames != 1 ||
			info.IfIndex != w.Near.Attrs().Index {
			t.Errorf("info %+v", info)
		}
		echo(t, w, u, p, q)
		released := 0
		must(t, q.Close(func(frame uint64) { p.Put(frame); released++ }))
		if released != 64 || p.Free() != u.Chunks() {
			t.Errorf("queue owned %d frames, not 64; %d of %d came back", released, p.Free(), u.Chunks())
		}
	}
}

// Far more packets than the kernel takes at once: each is transmitted once or counted as dropped, and nothing stalls.
func TestOverload(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p, q := setup(t, w)
	frames := make([]uint64, 512)
	seen := map[uint32]int{}
	next := uint32(0)
	for range 20 {
		for range 500 {
			frame, ok := p.Get()
			if !ok {
				t.Fatal("no frame: the completions stalled")
			}
			n := copy(u.Frame(frame)[256:], veth.Packet(next, 100))
			if q.Send([]xsk.Desc{{Addr: frame + 256, Len: uint32(n)}}) != 1 {
				t.Fatal("not sent")
			}
			next++
		}
		must(t, q.Flush())
		for packet := w.Receive(); packet != nil; packet = w.Receive() {
			number := uint32(packet[14])<<24 | uint32(packet[15])<<16 | uint32(packet[16])<<8 | uint32(packet[17])
			seen[number]++
			if !bytes.Equal(packet, veth.Packet(number, 100)) {
				t.Fatalf("packet %d differs", number)
			}
			if number == next-1 {
				break
			}
		}
		for n := q.Completed(frames); n > 0; n = q.Completed(frames) {
			p.PutN(frames[:n])
		}
	}
	for number, times := range seen {
		if times != 1 {
			t.Errorf("packet %d arrived %d times", number, times)
		}
	}
	if len(seen) < int(next)/4 {
		t.Errorf("%d packets of %d arrived", len(seen), next)
	}
	echo(t, w, u, p, q)
}

func TestDownAndGone(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p, q := setup(t, w)
	must(t, netlink.LinkSetDown(w.Near))
	frame, _ := p.Get()
	want := veth.Packet(9, 100)
	if q.Send([]xsk.Desc{{Addr: frame + 256, Len: uint32(copy(u.Frame(frame)[256:], want))}}) != 1 {
		t.Fatal("not sent")
	}
	must(t, q.Flush())
	if st, err := q.Statistics(); err != nil || st.Down == 0 {
		t.Errorf("statistics %+v, %v", st, err)
	}
	must(t, netlink.LinkSetUp(w.Near))
	w.WaitUp(t)
	must(t, q.Flush())
	if got := w.Receive(); !bytes.Equal(got, want) {
		t.Errorf("received %x", got)
	}
	w.Remove(t)
	for range 2 {
		if err := q.Flush(); !errors.Is(err, xsk.ErrGone) {
			t.Errorf("flush after the device vanished: %v", err)
		}
	}
	must(t, q.Close(p.Put))
	if p.Free() != u.Chunks() {
		t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
	}
	if q.Receive(make([]xsk.Desc, 1)) != 0 || !errors.Is(q.Flush(), xsk.ErrGone) || q.Close(nil) != nil {
		t.Error("a closed queue does something")
	}
}

func TestTooLarge(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 3000)
	u, err := xsk.NewUMEM(xsk.UMEMConfig{Chunks: 64, ChunkSize: 4096})
	must(t, err)
	defer u.Close()
	q, err := OpenAsavie(xsk.SocketConfig{UMEM: u, IfIndex: w.Near.Attrs().Index})
	must(t, err)
	p := xsk.NewPool(u)
	frame, _ := p.Get()
	if q.Send([]xsk.Desc{{Addr: frame + 256, Len: 2049}}) != 1 {
		t.Fatal("not taken")
	}
	must(t, q.Flush())
	if st, _ := q.Statistics(); st.RefusedOnSend != 1 {
		t.Errorf("statistics %+v", st)
	}
	if w.Receive() != nil {
		t.Error("sent")
	}
	must(t, q.Close(p.Put))
	if p.Free() != u.Chunks() {
		t.Errorf("%d of %d frames came back", p.Free(), u.Chunks())
	}
}

func TestRefusals(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, err := xsk.NewUMEM(xsk.UMEMConfig{Chunks: 64, ChunkSize: 2048})
	must(t, err)
	name := w.Near.Attrs().Name
	setup(t, w)
	mapped := mappings(t)
	for _, c := range []xsk.SocketConfig{
		{Device: name},
		{UMEM: u, Device: name, MultiBuffer: true},
		{UMEM: u, Device: name, TxChecksum: true},
		{UMEM: u, Device: name, ZeroCopy: xsk.ZeroCopyOn},
		{UMEM: u, Device: name, RxSize: 100},
		{UMEM: u, Device: name, QueueID: 50},
		{UMEM: u, Device: name, BindWait: 30 * time.Millisecond}, // in use
		{UMEM: u, Device: "xs-none"},
	} {
		if _, err := OpenAsavie(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	must(t, u.Close()) // no failed attempt keeps it
	if now := mappings(t); now != mapped {
		t.Errorf("%d socket mappings, before %d", now, mapped)
	}
}

// mappings counts the ring mappings of the process.
func mappings(t testing.TB) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return bytes.Count(maps, []byte("socket:["))
}
