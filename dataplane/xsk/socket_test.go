// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
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
func echo(t testing.TB, w *veth.Wire, q Queue, u *UMEM, p *Pool, size int) {
	t.Helper()
	for n := range uint32(100) {
		want := veth.Packet(n, size)
		w.Send(t, want)
		descs := poll(t, q, make([]Desc, 64))
		if got := contents(u, descs); !bytes.Equal(got, want) {
			t.Fatalf("packet %d: received %d bytes that differ from the %d sent", n, len(got), len(want))
		}
		if got := q.Send(descs); got != len(descs) {
			t.Fatalf("packet %d: sent %d frames of %d", n, got, len(descs))
		}
		must(t, q.Flush())
		if got := w.Receive(); !bytes.Equal(got, want) {
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
			veth.Namespace(t)
			w := veth.New(t, test.mtu)
			u, p := newUMEM(t, 256, test.chunkSize)
			s := openOn(t, w, SocketConfig{UMEM: u, MultiBuffer: test.multiBuffer})
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
	veth.Namespace(t)
	a, b := veth.New(t, 1500), veth.New(t, 1500)
	u, p := newUMEM(t, 512, 2048)
	sa := openOn(t, a, SocketConfig{UMEM: u})
	sb := openOn(t, b, SocketConfig{UMEM: u})
	fillUp(t, sa, p, 64)
	fillUp(t, sb, p, 64)
	for n := range uint32(200) {
		want := veth.Packet(n, 300)
		a.Send(t, want)
		descs := poll(t, sa, make([]Desc, 64))
		if got := sb.Send(descs); got != 1 {
			t.Fatal("not sent")
		}
		must(t, sb.Flush())
		if got := b.Receive(); !bytes.Equal(got, want) {
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
	veth.Namespace(t)
	u, p := newUMEM(t, 512, 2048)
	stays := veth.New(t, 1500)
	goes := veth.New(t, 1500)
	first := openOn(t, goes, SocketConfig{UMEM: u}) // registers the memory
	other := openOn(t, stays, SocketConfig{UMEM: u})
	fillUp(t, other, p, 64)

	fillUp(t, first, p, 64)
	for n := range uint32(10) {
		goes.Send(t, veth.Packet(n, 100))
	}
	taken := poll(t, first, make([]Desc, 1))
	if first.Send(put(t, u, p, veth.Packet(0, 100))) != 1 || first.Flush() != nil || first.Send(taken) != 1 {
		t.Fatal("not sent")
	}
	goes.Remove(t)
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

	back := veth.New(t, 1500)
	again := openOn(t, back, SocketConfig{UMEM: u})
	fillUp(t, again, p, 64)
	echo(t, back, again, u, p, 500)

	back.Remove(t)
	stays.Remove(t)
	last := veth.New(t, 1500) // nobody is bound any more to share with
	alone := openOn(t, last, SocketConfig{UMEM: u})
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
	veth.Namespace(t)
	u, p := newUMEM(t, 64, 2048)
	w := veth.New(t, 1500)
	s := openOn(t, w, SocketConfig{UMEM: u})
	fillUp(t, s, p, 16)
	w.Remove(t)
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
	veth.Namespace(t)
	u, p := newUMEM(t, 256, 2048)
	w := veth.New(t, 1500)
	for range 10 {
		s := openOn(t, w, SocketConfig{UMEM: u})
		fillUp(t, s, p, 64)
		if s.Send(put(t, u, p, veth.Packet(1, 100))) != 1 {
			t.Fatal("not sent")
		}
		must(t, s.Flush())
		if w.Receive() == nil {
			t.Fatal("not received")
		}
		if n := closeInto(t, s, p); n != 65 {
			t.Errorf("socket owned %d frames, not 65", n)
		}
	}
	start := time.Now()
	waitUnbound(w.Near.Attrs().Index, 0)
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("waited %v for a queue that nobody has", took)
	}
}

func TestOpenRefusals(t *testing.T) {
	veth.Namespace(t)
	u, _ := newUMEM(t, 64, 2048)
	w := veth.New(t, 1500)
	openOn(t, w, SocketConfig{UMEM: u})
	name := w.Near.Attrs().Name
	for _, test := range []struct {
		name string
		c    SocketConfig
		want error
	}{
		{"no such device", SocketConfig{UMEM: u, Device: "xs-none"}, unix.ENODEV},
		{"no such index", SocketConfig{UMEM: u, IfIndex: 9999}, unix.ENODEV},
		{"no such queue", SocketConfig{UMEM: u, Device: name, QueueID: 99}, unix.EINVAL},
		{"queue in use", SocketConfig{UMEM: u, Device: name, BindWait: time.Millisecond}, unix.EBUSY},
		{"no zero copy on veth", SocketConfig{UMEM: u, Device: w.Far.Attrs().Name, ZeroCopy: ZeroCopyOn}, unix.EOPNOTSUPP},
		{"ring size", SocketConfig{UMEM: u, Device: name, RxSize: 1000}, nil},
		{"no umem", SocketConfig{Device: name}, nil},
	} {
		if s, err := Open(test.c); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: socket %v, error %v, want %v", test.name, s, err, test.want)
		}
	}
}

// udpPacket is an Ethernet, IPv4 and UDP packet to the far end, its UDP checksum field holding the pseudo header's sum.
func udpPacket(w *veth.Wire, source, destination [4]byte, port uint16, payload []byte) []byte {
	p := make([]byte, 42, 42+len(payload))
	copy(p, w.Far.Attrs().HardwareAddr)
	copy(p[6:], w.Near.Attrs().HardwareAddr)
	p[12], p[13] = 8, 0
	ip := p[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(ip[:20]))
	udp := p[34:]
	binary.BigEndian.PutUint16(udp, 1000)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	pseudo := append(bytes.Clone(ip[12:20]), 0, unix.IPPROTO_UDP, udp[4], udp[5])
	binary.BigEndian.PutUint16(udp[6:], fold(pseudo))
	return append(p, payload...)
}

func fold(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(data); i += 2 {
		sum += uint32(data[i])<<8 + uint32(data[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// A UDP socket takes a packet whose sum is left to the device only when the metadata says so.
func TestTxChecksum(t *testing.T) {
	for _, size := range []int{100, 20000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			veth.Namespace(t)
			w := veth.New(t, 60000)
			near, far := [4]byte{192, 0, 2, 2}, [4]byte{192, 0, 2, 1}
			must(t, netlink.AddrAdd(w.Far, &netlink.Addr{IPNet: &net.IPNet{IP: far[:], Mask: net.CIDRMask(24, 32)}}))
			udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(udp)
			must(t, unix.Bind(udp, &unix.SockaddrInet4{Port: 4000, Addr: far}))
			must(t, unix.SetsockoptTimeval(udp, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))

			u, p := newUMEM(t, 64, 4096)
			s := openOn(t, w, SocketConfig{UMEM: u, MultiBuffer: true, TxChecksum: true})
			if !s.Info().TxChecksum {
				t.Fatal("no tx checksum in copy mode")
			}
			payload := bytes.Repeat([]byte("checksum"), size/8)
			data := make([]byte, 1<<16)
			for _, metadata := range []bool{false, true} {
				descs := put(t, u, p, udpPacket(w, near, far, 4000, payload))
				if metadata {
					PutTxChecksum(u.Frame(descs[0].Addr), u.Headroom(), 34, 6)
					descs[0].Options |= TxMetadata
				}
				if s.Send(descs) != len(descs) {
					t.Fatal("not sent")
				}
				must(t, s.Flush())
				n, _, err := unix.Recvfrom(udp, data, 0)
				if got := err == nil && bytes.Equal(data[:n], payload); got != metadata {
					t.Errorf("metadata %v: received %v (%d bytes, %v)", metadata, got, n, err)
				}
				complete(t, s, p, len(descs))
			}
		})
	}
}

// Sockets of different kinds register the memory each for itself, and a frame may go from one to the other.
func TestRegistrations(t *testing.T) {
	veth.Namespace(t)
	a, b := veth.New(t, 1500), veth.New(t, 1500)
	u, p := newUMEM(t, 512, 2048)
	sa := openOn(t, a, SocketConfig{UMEM: u, MultiBuffer: true, TxChecksum: true})
	sb := openOn(t, b, SocketConfig{UMEM: u})
	if len(u.groups) != 2 {
		t.Errorf("%d registrations", len(u.groups))
	}
	fillUp(t, sa, p, 64)
	fillUp(t, sb, p, 64)
	echo(t, a, sa, u, p, 1000)
	echo(t, b, sb, u, p, 1000)
	want := veth.Packet(1, 700)
	a.Send(t, want)
	if sb.Send(poll(t, sa, make([]Desc, 1))) != 1 || sb.Flush() != nil || !bytes.Equal(b.Receive(), want) {
		t.Error("the packet did not get from one to the other")
	}
}

// One Flush sends a whole tx ring, many times the kernel's batch of 32.
func TestFlushSendsAll(t *testing.T) {
	veth.Namespace(t)
	const total = 1024
	w := veth.New(t, 1500)
	u, p := newUMEM(t, total+64, 2048)
	s := openOn(t, w, SocketConfig{UMEM: u, TxSize: total, CompletionSize: total})
	for n := range uint32(total) {
		if s.Send(put(t, u, p, veth.Packet(n, 100))) != 1 {
			t.Fatal("not sent")
		}
	}
	// A veth's queue has 256 places, more is dropped while the far end does not keep up; none may stay on the ring.
	must(t, s.Flush())
	if s.tx.pending() {
		t.Error("flush left packets on the tx ring")
	}
	complete(t, s, p, total)
	st, err := s.Statistics()
	must(t, err)
	received := uint64(0)
	for w.Receive() != nil {
		received++
	}
	if received+st.TxDropped != total {
		t.Errorf("sent %d, received %d, dropped %d", total, received, st.TxDropped)
	}
}

func TestStatistics(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p := newUMEM(t, 64, 2048)
	s := openOn(t, w, SocketConfig{UMEM: u, RxSize: 4})
	w.Send(t, veth.Packet(0, 100)) // no frame to receive into
	fillUp(t, s, p, 16)
	for n := range uint32(6) { // two more than the ring holds
		w.Send(t, veth.Packet(n, 100))
	}
	var st Statistics
	for range 100 {
		var err error
		st, err = s.Statistics()
		must(t, err)
		if st.RxRingFull == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st.RxRingFull != 2 || st.RxDropped != 1 || st.FillRingEmpty != 1 {
		t.Errorf("statistics %+v", st)
	}
}

// A device that is down is not gone: what was queued goes out when it is up again.
func TestDeviceDown(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	u, p := newUMEM(t, 64, 2048)
	s := openOn(t, w, SocketConfig{UMEM: u})
	fillUp(t, s, p, 16)
	must(t, netlink.LinkSetDown(w.Near))
	want := veth.Packet(3, 100)
	if s.Send(put(t, u, p, want)) != 1 {
		t.Fatal("not sent")
	}
	must(t, s.Flush())
	st, err := s.Statistics()
	must(t, err)
	if st.Down == 0 {
		t.Errorf("statistics %+v", st)
	}
	must(t, netlink.LinkSetUp(w.Near))
	w.WaitUp(t)
	must(t, s.Flush())
	if got := w.Receive(); !bytes.Equal(got, want) {
		t.Errorf("received %x", got)
	}
	complete(t, s, p, 1)
	echo(t, w, s, u, p, 100)
}

// Opening and closing leaves no descriptor and no mapping behind.
func TestNoLeaks(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	count := func() (files, maps int) {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		text, err := os.ReadFile("/proc/self/maps")
		must(t, err)
		return len(names), bytes.Count(text, []byte("[AF_XDP]")) + bytes.Count(text, []byte("socket:["))
	}
	files, maps := count()
	for range 5 {
		u, p := newUMEM(t, 64, 2048)
		s, err := Open(SocketConfig{UMEM: u, Device: w.Near.Attrs().Name})
		must(t, err)
		if _, mapped := count(); mapped != maps+4 {
			t.Errorf("%d mappings of an open socket", mapped-maps)
		}
		_, err = Open(SocketConfig{UMEM: u, Device: w.Near.Attrs().Name, BindWait: time.Microsecond})
		if err == nil {
			t.Error("opened twice")
		}
		if err := u.Close(); err == nil {
			t.Error("closed a umem that is in use")
		}
		closeInto(t, s, p)
		must(t, u.Close())
	}
	if f, m := count(); f != files || m != maps {
		t.Errorf("%d files and %d mappings, before %d and %d", f, m, files, maps)
	}
}

// BenchmarkSocket sends batches over a veth pair to a far end that drops them: the cost of a packet in copy mode.
func BenchmarkSocket(b *testing.B) {
	for _, batch := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			veth.Namespace(b)
			w := veth.New(b, 1500)
			u, p := newUMEM(b, 4096, 2048)
			s := openOn(b, w, SocketConfig{UMEM: u})
			w.Mute()
			descs, frames := make([]Desc, batch), make([]uint64, 2048)
			for range (b.N + batch - 1) / batch {
				for i := range descs {
					frame, ok := p.Get()
					if !ok {
						b.Fatal("no frame")
					}
					copy(u.Frame(frame)[256:], "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5")
					descs[i] = Desc{Addr: frame + 256, Len: 60}
				}
				for sent := 0; sent < batch; {
					sent += s.Send(descs[sent:])
					must(b, s.Flush())
					p.PutN(frames[:s.Completed(frames)])
				}
			}
		})
	}
}

// BenchmarkKick compares ways to call sendto with nothing to send.
func BenchmarkKick(b *testing.B) {
	veth.Namespace(b)
	w := veth.New(b, 1500)
	u, _ := newUMEM(b, 64, 2048)
	s := openOn(b, w, SocketConfig{UMEM: u})
	for _, way := range []struct {
		name string
		call func()
	}{
		{"RawSyscall6", func() { kick(s.fd) }},
		{"Syscall6", func() {
			_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		}},
		{"Sendto", func() { _ = unix.Sendto(s.fd, nil, unix.MSG_DONTWAIT, nil) }},
		{"recvfrom", func() { wake(s.fd) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			for range b.N {
				way.call()
			}
		})
	}
}
