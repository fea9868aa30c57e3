// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// interval is the time between two datagrams of a flow.
const interval = 2 * time.Millisecond

// flow is numbered datagrams from one host to the other at a steady rate, and which of them came.
type flow struct {
	name     string
	from, to net.PacketConn
	address  net.Addr
	stop     chan struct{}
	done     sync.WaitGroup

	mu     sync.Mutex
	begin  time.Time
	sentAt []time.Duration // since begin, by number
	came   []bool
	twice  int
	err    error // of sending
}

// traffic is a flow of each family in each direction.
type traffic []*flow

// startTraffic lets traffic flow until the test ends.
func (s *site) startTraffic() traffic {
	s.t.Helper()
	var all traffic
	for _, of := range []struct {
		name     string
		from, to *netlab.Namespace
		address  string
	}{
		{"left to right, IPv4", s.left, s.right, "10.9.0.1"},
		{"left to right, IPv6", s.left, s.right, "fd09::1"},
		{"right to left, IPv4", s.right, s.left, "10.8.0.1"},
		{"right to left, IPv6", s.right, s.left, "fd08::1"},
	} {
		all = append(all, s.startFlow(of.name, of.from, of.to, netip.MustParseAddr(of.address)))
	}
	return all
}

// startFlow lets datagrams flow to an address until the test ends.
func (s *site) startFlow(name string, from, to *netlab.Namespace, address netip.Addr) *flow {
	s.t.Helper()
	const port = 7000
	return s.startFlowTo(name, from, to, netip.AddrPortFrom(address, port))
}

// startFlowTo is startFlow to a port of its own.
func (s *site) startFlowTo(name string, from, to *netlab.Namespace, at netip.AddrPort) *flow {
	s.t.Helper()
	f := &flow{name: name, stop: make(chan struct{}), begin: time.Now()}
	f.address = net.UDPAddrFromAddrPort(at)
	s.must(to.Do(func() (err error) { f.to, err = net.ListenPacket("udp", at.String()); return err }))
	// Not connected: an ICMP error must not keep the next datagram from being sent.
	s.must(from.Do(func() (err error) { f.from, err = net.ListenPacket("udp", ":0"); return err }))
	s.must(f.to.(*net.UDPConn).SetReadBuffer(4 << 20))
	f.done.Go(f.send)
	f.done.Go(f.receive)
	s.t.Cleanup(f.close)
	return f
}

func (f *flow) close() {
	close(f.stop)
	_, _ = f.from.Close(), f.to.Close()
	f.done.Wait()
}

func (f *flow) send() {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	datagram := make([]byte, 64)
	for {
		select {
		case <-f.stop:
			return
		case <-ticker.C:
		}
		binary.BigEndian.PutUint64(datagram, f.next())
		if _, err := f.from.WriteTo(datagram, f.address); err != nil && !errors.Is(err, net.ErrClosed) {
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
		}
	}
}

func (f *flow) next() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sentAt, f.came = append(f.sentAt, time.Since(f.begin)), append(f.came, false)
	return uint64(len(f.came) - 1)
}

func (f *flow) receive() {
	datagram := make([]byte, 128)
	for {
		n, _, err := f.to.ReadFrom(datagram)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 64 {
			continue
		}
		f.mu.Lock()
		if i := binary.BigEndian.Uint64(datagram); i < uint64(len(f.came)) {
			if f.came[i] {
				f.twice++
			}
			f.came[i] = true
		}
		f.mu.Unlock()
	}
}

// mark is the number of the next datagram.
func (f *flow) mark() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.came)
}

// missing lists the gaps among the datagrams from one number up to another.
func (f *flow) missing(from, to int) (count int, gaps string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := from; i < to; i++ {
		if f.came[i] {
			continue
		}
		first := i
		for i < to && !f.came[i] {
			i++
		}
		count += i - first
		gaps += fmt.Sprintf("%s: %d..%d, sent %v to %v\n", f.name, first, i-1, f.sentAt[first], f.sentAt[i-1])
	}
	return count, gaps
}

// marks are positions in all flows.
func (all traffic) marks() []int {
	list := make([]int, len(all))
	for i, f := range all {
		list[i] = f.mark()
	}
	return list
}

// whole waits until all datagrams between two positions have come, for as long as one may take, and says which have
// not.
func (all traffic) whole(from, to []int) error {
	const patience = 2 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(interval) {
		var errs []error
		for i, f := range all {
			if _, gaps := f.missing(from[i], to[i]); gaps != "" {
				errs = append(errs, errors.New(gaps))
			}
		}
		if len(errs) == 0 || time.Now().After(deadline) {
			return errors.Join(errs...)
		}
	}
}

// flows waits until a datagram of each flow has come that was sent from now on.
func (s *site) flows(all traffic) {
	s.t.Helper()
	from := all.marks()
	for i, f := range all {
		s.eventually("a datagram "+f.name, func() error {
			if n := f.mark(); n > from[i] {
				if lost, _ := f.missing(from[i], n); lost < n-from[i] {
					return nil
				}
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			return errors.Join(errors.New("none came"), f.err)
		})
	}
}

// lossless checks that every datagram came that was sent while do ran.
func (s *site) lossless(all traffic, what string, do func()) {
	s.t.Helper()
	from := all.marks()
	do()
	if err := all.whole(from, all.marks()); err != nil {
		s.t.Errorf("datagrams were lost while %s:\n%v", what, err)
	}
}
