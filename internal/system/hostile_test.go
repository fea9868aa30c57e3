// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pod that floods the node with what is forged, tagged or malformed, in every size, gets nothing through: all of it
// is dropped for reasons that are told. Its neighbours go on. What they lose, when the worker gets no CPU for as long
// as the flood takes to fill its ring, is told too.
func TestHostilePod(t *testing.T) {
	const calm = 1500 * time.Millisecond
	p := newPodSite(t)
	a, b := p.pod("a").add(), p.pod("b").add()
	h := &hostile{attached: p.pod("hostile").add(), victim: a}
	all := p.podTraffic(a, b)
	p.flows(all)
	rr := p.pingPong(a, b)
	time.Sleep(calm)
	quiet := rr.take()
	busy := beside(func() { time.Sleep(calm) })
	spinning := rr.take()
	from := all.marks()
	stop := make(chan struct{})
	var flood sync.WaitGroup
	var sent int
	flood.Go(func() { sent = h.flood(stop) })
	time.Sleep(2 * calm)
	close(stop)
	flood.Wait()
	t.Logf("%d hostile frames; round trips of neighbours before: %s; beside a thread that spins (%d): %s; meanwhile: %s",
		sent, quiet, busy, spinning, rr.take())
	to := all.marks()
	p.lostOnlyWhatIsTold(all, from, to)
	p.lossless(all, "the flood was over", func() { p.flows(all) })
	p.balanced()
	h.dropped()
}

// beside runs do while another thread spins, as the one that floods does: what a CPU that is taken costs alone.
func beside(do func()) (turns uint64) {
	var done atomic.Bool
	var spinner sync.WaitGroup
	spinner.Go(func() {
		for !done.Load() {
			turns++
		}
	})
	do()
	done.Store(true)
	spinner.Wait()
	return turns
}

// lostOnlyWhatIsTold checks that what is missing of traffic was counted where it was lost: before the dataplane.
func (p *podSite) lostOnlyWhatIsTold(all traffic, from, to []int) {
	p.t.Helper()
	_ = all.whole(from, to)
	missing, sent := 0, 0
	for i, f := range all {
		n, _ := f.missing(from[i], to[i])
		missing += n
		sent += to[i] - from[i]
	}
	r, err := p.ledger("")
	p.must(err)
	told := uint64(0)
	for _, port := range r.Ports {
		told += port.Sockets.GetRxFillRingEmpty() + port.Sockets.GetRxRingFull() + port.TransmitFailures
	}
	p.t.Logf("of %d datagrams of neighbours %d were lost; the sockets count %d drops", sent, missing, told)
	if uint64(missing) > told {
		p.t.Errorf("%d datagrams are missing, of %d drops is told", missing, told)
	}
}

type hostile struct {
	*attached
	victim *attached
}

// dropped checks that every kind was counted for what it is, and that nothing went through.
func (h *hostile) dropped() {
	t := h.site.t
	t.Helper()
	r, err := h.site.ledger("default/hostile")
	h.site.must(err)
	if len(r.Ports) != 1 {
		t.Fatalf("ledger of %d ports", len(r.Ports))
	}
	l := r.Ports[0]
	var inside []string
	for _, reason := range l.Reasons {
		inside = append(inside, fmt.Sprintf("%s %s %d", reason.Verdict, reason.Reason, reason.Packets))
	}
	t.Logf("at the hook: %v; inside: %s", l.Hook, strings.Join(inside, ", "))
	for _, reason := range []string{"source_mac", "tagged", "ethertype", "ipv4_source", "ipv6_source", "arp_mac",
		"arp_address", "unreadable"} {
		if l.Hook[reason+"_dropped"] == 0 {
			t.Errorf("the hook counted nothing as %s", reason)
		}
	}
	if l.Dropped == 0 || l.Forwarded != 0 {
		t.Errorf("%d packets dropped inside, %d forwarded", l.Dropped, l.Forwarded)
	}
}

// flood sends one frame of each kind after another until it is told to stop.
func (h *hostile) flood(stop chan struct{}) (sent int) {
	fd := -1
	var index int
	err := h.Do(func() (err error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		index = eth0.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		return err
	})
	if err != nil {
		h.site.t.Error(err)
		return 0
	}
	defer unix.Close(fd)
	kinds := h.frames()
	to := &unix.SockaddrLinklayer{Ifindex: index}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return sent
		default:
		}
		frame := kinds[i%len(kinds)]
		if i/len(kinds)%8 == 0 && i%len(kinds) == 0 {
			frame = h.sized(14 + i/len(kinds)*97%65535)
		}
		err := unix.Sendto(fd, frame, 0, to)
		if err == nil {
			sent++
		} else if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) {
			h.site.t.Errorf("send %d bytes: %v", len(frame), err)
			return sent
		}
	}
}

// frames are one of each kind.
func (h *hostile) frames() [][]byte {
	other4, other6 := h.victim.address[4], h.victim.address[6]
	var all [][]byte
	for _, source := range []struct{ v4, v6 netip.Addr }{
		{other4, other6}, {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	} {
		all = append(all, h.ether(0x0800, udp4(source.v4, other4)), h.ether(0x86dd, udp6(source.v6, other6)),
			h.ether(0x0806, h.arp(source.v4, h.hardware())))
	}
	mine := udp4(h.address[4], other4)
	forged := h.ether(0x0800, mine)
	copy(forged[6:], []byte{2, 0, 0, 0, 0, 9})
	short := udp4(h.address[4], other4)
	short[0] = 0x43 // a header of 12 bytes
	version := udp4(h.address[4], other4)
	version[0] = 0x95
	long := udp4(h.address[4], other4)
	binary.BigEndian.PutUint16(long[2:], 9000) // more than there is
	sum := udp4(h.address[4], other4)
	sum[10] ^= 0x55
	return append(all, forged,
		h.ether(0x0806, h.arp(h.address[4], net.HardwareAddr{2, 0, 0, 0, 0, 9})),
		h.ether(0x8100, append([]byte{0, 5, 8, 0}, mine...)),
		h.ether(0x88cc, mine),
		h.ether(0x0800, short), h.ether(0x0800, version), h.ether(0x0800, long), h.ether(0x0800, sum),
		h.ether(0x0800, mine[:10]), h.ether(0x86dd, udp6(h.address[6], other6)[:30]), h.ether(0x0800, nil),
	)
}

// sized is a frame of the pod's own of a size, with a header that is wrong.
func (h *hostile) sized(bytes int) []byte {
	body := make([]byte, max(bytes-14, 20))
	copy(body, udp4(h.address[4], h.victim.address[4])[:20])
	binary.BigEndian.PutUint16(body[2:], uint16(min(len(body), 65535)))
	return h.ether(0x0800, body)[:bytes] // its checksum is not right any more
}

func (h *hostile) hardware() net.HardwareAddr {
	mac, err := net.ParseMAC(h.mac)
	if err != nil {
		panic(err)
	}
	return mac
}

func (h *hostile) ether(kind uint16, body []byte) []byte {
	frame := append([]byte{0x02, 0x76, 0x64, 0, 0, 0}, h.hardware()...)
	return append(binary.BigEndian.AppendUint16(frame, kind), body...)
}

func (h *hostile) arp(source netip.Addr, mac net.HardwareAddr) []byte {
	body := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac...)
	body = append(append(body, source.AsSlice()...), 0, 0, 0, 0, 0, 0)
	return append(body, 169, 254, 1, 1)
}

// udp4 is a UDP packet without data.
func udp4(source, destination netip.Addr) []byte {
	p := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
	p = append(append(p, source.AsSlice()...), destination.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return append(p, 0, 9, 0, 9, 0, 8, 0, 0)
}

// udp6 is the same.
func udp6(source, destination netip.Addr) []byte {
	p := append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, source.AsSlice()...)
	return append(append(p, destination.AsSlice()...), 0, 9, 0, 9, 0, 8, 0, 1)
}

// roundTrips is one question after another between two pods, and how long each took.
type roundTrips struct {
	mu   sync.Mutex
	took []time.Duration
	late int // without an answer in time
}

// pingPong asks until the test ends.
func (p *podSite) pingPong(a, b *attached) *roundTrips {
	p.t.Helper()
	var c net.Conn
	p.must(a.Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(b.address[4], peerPort).String())
		return err
	}))
	r := &roundTrips{}
	var asking sync.WaitGroup
	asking.Go(func() {
		answer := make([]byte, 64)
		for {
			begin := time.Now()
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(begin.Add(100 * time.Millisecond))
			_, err := c.Read(answer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			r.add(time.Since(begin), err != nil)
		}
	})
	p.t.Cleanup(func() {
		c.Close()
		asking.Wait()
	})
	return r
}

func (r *roundTrips) add(took time.Duration, late bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, took)
	if late {
		r.late++
	}
}

// take sums up what was measured since the last time.
func (r *roundTrips) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	took, late := r.took, r.late
	r.took, r.late = nil, 0
	slices.Sort(took)
	if len(took) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, p50 %v, p99 %v, %d late", len(took), took[len(took)/2], took[len(took)*99/100], late)
}
