// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// pinned is a node whose hooks outlive its forwarder.
func pinned(t *testing.T) *podNode {
	t.Helper()
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprintf("viaduct-test-%d-%s", os.Getpid(), t.Name()))
	n := newPodNode(t, Config{Pins: pins})
	t.Cleanup(func() {
		n.f.cfg.Cleanup = true
		n.must(n.node.Do(n.f.Close))
		_ = os.RemoveAll(pins)
	})
	n.offload = true
	return n
}

// next is another forwarder of the node.
func (n *podNode) next() *Forwarder {
	f := New(n.cfg)
	return f
}

// TestRestart: what the kernel carries goes on while there is no forwarder; the one that comes knows it again, and goes
// on counting where it was.
func TestRestart(t *testing.T) {
	n := pinned(t)
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	v6 := n.begun(b, a, "fd00:244::5")
	for range 2 {
		n.must(n.node.Do(n.f.Close))
		c.mustSay(1 << 20)
		v6.mustSay(1 << 20)
		n.f = n.next()
		n.apply()
		is := n.flow(c)
		if is.State != "established" || !is.Carried || is.CarriedPackets == 0 {
			t.Errorf("the flow is %v", is)
		}
		saw := seen(is)
		c.mustSay(1 << 20)
		v6.mustSay(1 << 20)
		if n.eventually("the walk", func() bool { return n.f.Status().Offload.Walks > 0 }); seen(n.flow(c)) != saw {
			t.Errorf("userspace has seen %d packets of it", seen(n.flow(c))-saw)
		}
		n.carried(c)
	}
	_ = c.c.Close()
	n.eventually("the flow to end", func() bool { return n.flow(c).State == "time_wait" })
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<20)
	n.balanced()
}

// A flow that policy denies by the snapshot that a forwarder starts with is carried no longer.
func TestRestartJudgesAgain(t *testing.T) {
	n := pinned(t)
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	n.must(n.node.Do(n.f.Close))
	c.mustSay(1 << 10)
	n.policies = denyIngress(6)
	n.f = n.next()
	n.apply()
	n.uncarriedBy(c, "revoked")
}

// stream is numbered datagrams from one namespace to another, some of flows of their own, and what of them arrived.
type stream struct {
	t        *testing.T
	from     *netlab.Namespace
	to       netip.AddrPort
	l        *net.UDPConn
	end      chan struct{}
	running  sync.WaitGroup
	sent     int
	arrived  []int
	failures []error
}

func (n *podNode) stream(from, to *netlab.Namespace, address string) *stream {
	n.t.Helper()
	s := &stream{t: n.t, from: from, end: make(chan struct{})}
	n.must(to.Do(func() (err error) {
		s.l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
		return err
	}))
	s.to = s.l.LocalAddr().(*net.UDPAddr).AddrPort()
	s.running.Go(s.receive)
	s.running.Go(s.send)
	return s
}

// send sends a datagram every 200 µs, every eighth of a flow of its own.
func (s *stream) send() {
	var one, other net.Conn
	dial := func(c *net.Conn) {
		err := s.from.Do(func() (err error) {
			*c, err = net.Dial("udp", s.to.String())
			return err
		})
		if err != nil {
			s.failures = append(s.failures, err)
		}
	}
	dial(&one)
	defer one.Close()
	for {
		select {
		case <-s.end:
			return
		case <-time.After(200 * time.Microsecond):
		}
		c := one
		if s.sent%8 == 0 {
			dial(&other)
			c = other
		}
		if _, err := fmt.Fprint(c, s.sent); err != nil {
			s.failures = append(s.failures, err)
		}
		if c == other {
			_ = other.Close()
		}
		s.sent++
	}
}

func (s *stream) receive() {
	b := make([]byte, 64)
	for {
		n, err := s.l.Read(b)
		if err != nil {
			return
		}
		var number int
		if _, err := fmt.Sscan(string(b[:n]), &number); err == nil {
			for len(s.arrived) <= number {
				s.arrived = append(s.arrived, 0)
			}
			s.arrived[number]++
		}
	}
}

// whole stops the stream and says which datagrams have not come exactly once.
func (s *stream) whole() error {
	close(s.end)
	time.Sleep(300 * time.Millisecond)
	_ = s.l.Close()
	s.running.Wait()
	errs := s.failures
	for i := range s.sent {
		if i >= len(s.arrived) || s.arrived[i] != 1 {
			errs = append(errs, fmt.Errorf("datagram %d of %d did not come once", i, s.sent))
		}
	}
	if len(errs) > 4 {
		errs = append(errs[:4], fmt.Errorf("and %d more", len(errs)-4))
	}
	return errors.Join(errs...)
}

// handing is a predecessor in the same process, which fails where it is told to.
type handing struct {
	h                            *HandOver
	offer                        *handover.Offer
	files                        []*os.File
	failState, failCommit, spoil bool
	committed                    bool
}

func hand(t *testing.T, f *Forwarder, hello *handover.Hello) *handing {
	t.Helper()
	p := &handing{h: f.BeginHandOver()}
	var files []*os.File
	var err error
	if p.offer, files, err = p.h.Offer(hello); err != nil {
		t.Fatal(err)
	}
	p.files = files[:1]
	for _, file := range files[1:] {
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, os.NewFile(uintptr(fd), "memory"))
	}
	return p
}

var errTold = errors.New("told to fail")

func (p *handing) State() (*handover.State, []*os.File, error) {
	if p.failState {
		return nil, nil, errTold
	}
	s, files, err := p.h.Freeze(context.Background())
	if err == nil && p.spoil {
		s.Devices[0].Sockets[0].State.RxSize = 3
	}
	return s, files, err
}

func (p *handing) Commit() error {
	if p.failCommit {
		return errTold
	}
	p.committed = true
	return nil
}

func (p *handing) Gone() error { return p.h.Leave() }

func (n *podNode) hello() *handover.Hello {
	device, inode := PinsAt(n.cfg.Pins)
	return &handover.Hello{Layout: handover.Layout, Pins: n.cfg.Pins, PinsDevice: device, PinsInode: inode,
		Sockets: defaultSockets, Ring: n.f.cfg.Ring}
}

// frames says whether every frame of every worker has exactly one owner.
func (n *podNode) frames() error {
	var errs []error
	for i, th := range n.f.workers {
		done := make(chan struct{})
		th.worker.Do(func() {
			defer close(done)
			owned := 0
			for _, owner := range th.umem.State().Owners {
				if owner != 0 {
					owned++
				}
			}
			if free := th.pool.Free(); free+owned != th.umem.Chunks() {
				errs = append(errs, fmt.Errorf("worker %d: of %d frames %d are free, and %d queues'",
					i, th.umem.Chunks(), free, owned))
			}
		})
		<-done
	}
	return errors.Join(errs...)
}

// A successor takes over under load: nothing is lost or comes twice, not of flows that begin either, no frame is lost,
// and flows stay known. Where a step fails before the commit, the predecessor goes on, and nothing is lost either.
func TestHandOver(t *testing.T) {
	n := pinned(t)
	n.workers = 2
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	s := n.stream(a, b, "10.244.1.6")
	time.Sleep(100 * time.Millisecond)
	for name, fail := range map[string]func(*handing){
		"before state": func(p *handing) { p.failState = true },
		"at commit":    func(p *handing) { p.failCommit = true },
		"adopting":     func(p *handing) { p.spoil = true },
	} {
		p := hand(t, n.f, n.hello())
		fail(p)
		f := n.next()
		err := n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) })
		p.h.Abort()
		if err == nil || p.committed {
			t.Fatalf("failing %s: %v", name, err)
		}
		n.must(n.node.Do(f.Close))
		n.must(n.frames())
		time.Sleep(20 * time.Millisecond)
	}
	for range 3 {
		p := hand(t, n.f, n.hello())
		if p.offer.Fresh != "" {
			t.Fatalf("sockets are not handed over: %s", p.offer.Fresh)
		}
		f := n.next()
		n.must(n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) }))
		n.f = f
		n.open()
		n.must(n.frames())
		time.Sleep(50 * time.Millisecond)
	}
	n.must(s.whole())
	if is := n.flow(c); is.State != "established" || !is.Carried {
		t.Errorf("the flow is %v", is)
	}
	c.mustSay(1 << 20)
	n.update()
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<20)
	n.balanced()
	n.must(n.frames())
}

// However long a hand-over takes, hooks do not take userspace for absent.
func TestHandOverBeats(t *testing.T) {
	n := pinned(t)
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.apply()
	h := n.f.BeginHandOver()
	defer h.Abort()
	_, files, err := h.Offer(n.hello())
	n.must(err)
	_ = files[0].Close()
	_, files, err = h.Freeze(t.Context())
	n.must(err)
	handover.CloseFiles(files)
	heart := func() uint64 { return binary.NativeEndian.Uint64(n.f.carrier.kernel.Memory().Control[16:]) }
	for range 3 {
		was := heart()
		n.eventually("the heart to beat", func() bool { return heart() != was })
	}
}

// A worker that is stuck keeps nothing from going on: the successor is told, and the predecessor hands over to the next
// one once the worker has come to itself.
func TestHandOverWithoutAWorker(t *testing.T) {
	n := pinned(t)
	n.workers = 2
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	release, stuck := make(chan struct{}), make(chan struct{})
	n.f.workers[1].worker.Do(func() { close(stuck); <-release })
	<-stuck
	for range 20 { // more than commands that wait
		p := hand(t, n.f, n.hello())
		p.h.within = 10 * time.Millisecond
		f := n.next()
		err := n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) })
		p.h.Abort()
		if err == nil || !strings.Contains(err.Error(), "1 of 2 workers") || p.committed {
			t.Fatalf("with a worker that is stuck: %v", err)
		}
		n.must(n.node.Do(f.Close))
		c.mustSay(1 << 10)
	}
	close(release)
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<16)
	p := hand(t, n.f, n.hello())
	f := n.next()
	n.must(n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) }))
	n.f = f
	n.open()
	c.mustSay(1 << 20)
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<20)
	n.balanced()
	n.must(n.frames())
}

// Pairs go on being carried when a dataplane is killed, and when one hands over, and so do connections in them that
// opened in the kernel: nobody takes them up in mid-stream. The walk asks of pairs as of all else.
func TestPairsOutliveTheForwarder(t *testing.T) {
	n := pinned(t)
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	n.serve(b, 80)
	n.paired(a, "10.244.1.5", "10.244.1.6", 80)
	c, err := n.dial(a, "10.244.1.6:80", 0)
	n.must(err)
	defer c.Close()
	n.must(exchange(c, 5*time.Second))
	still := func(how string) {
		t.Helper()
		n.eventually("the walk", func() bool { return n.f.Status().Offload.Walks > 0 })
		if n.pairOf("10.244.1.5", "10.244.1.6") == nil {
			t.Errorf("when the forwarder %s, the pair has gone", how)
		}
		before := n.received()
		n.must(exchange(c, 5*time.Second))
		n.mustAsk(a, "10.244.1.6:80")
		if saw := n.received() - before; saw != 0 {
			t.Errorf("when the forwarder %s, userspace saw %d packets of what the pair carries", how, saw)
		}
	}
	n.must(n.node.Do(n.f.Close))
	n.must(exchange(c, 5*time.Second))
	n.mustAsk(a, "10.244.1.6:80") // by the kernel alone
	n.f = n.next()
	n.apply()
	still("came back")
	p := hand(t, n.f, n.hello())
	f := n.next()
	n.must(n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) }))
	n.f = f
	n.open()
	still("was taken over from")
	n.must(n.node.Do(n.f.Close))
	n.policies = onlyPort80
	n.f = n.next()
	n.apply()
	n.eventually("the pair to be withdrawn", func() bool { return n.pairOf("10.244.1.5", "10.244.1.6") == nil })
	n.must(exchange(c, 5*time.Second)) // which goes on as a flow
	if o := n.f.Status().Offload; o.ConnectionsResumed == 0 {
		t.Errorf("%v", o)
	}
	n.balanced()
}

// Who cannot have the sockets is told why, gets the flows, and opens sockets of its own.
func TestHandOverAfresh(t *testing.T) {
	n := pinned(t)
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	hello := n.hello()
	n.cfg.Ring = 256
	hello.Ring = 256
	p := hand(t, n.f, hello)
	if p.offer.Fresh == "" {
		t.Fatal("rings of another size are handed over")
	}
	f := n.next()
	n.must(n.node.Do(func() error { return f.TakeOver(t.Context(), p.offer, p.files, p) }))
	n.f = f
	n.open()
	if is := n.flow(c); is.State != "established" {
		t.Errorf("the flow is %v", is)
	}
	c.mustSay(1 << 20)
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<20)
	n.balanced()
	n.must(n.frames())
}
