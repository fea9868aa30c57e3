// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// Bandwidth is bound in each direction, whatever the protocol. What counts is whole frames, as the receiver's kernel
// counts them: never more than the rate and a burst. Less is a busy machine's doing.
func TestBandwidth(t *testing.T) {
	const rate, burst, over = 20e6, 1e6, 4 * time.Second // bits
	p := newPodSite(t)
	var measured sync.WaitGroup
	for _, direction := range []string{"ingress", "egress"} {
		for f, network := range map[int]string{4: "tcp", 6: "udp"} {
			name := direction + "-" + network
			bound, free := p.pod(name), p.pod(name+"-free").add()
			bound.runtime.CapabilityArgs = map[string]any{"bandwidth": map[string]any{
				direction + "Rate": int64(rate), direction + "Burst": int64(burst)}}
			bound.add()
			from, to := bound, free
			if direction == "ingress" {
				from, to = free, bound
			}
			p.flood(from.Namespace, to.Namespace, network, netip.AddrPortFrom(to.address[f], 9000))
			measured.Go(func() {
				got, err := throughput(to.Namespace, over)
				t.Logf("%s: %.3f of the rate", name, got/rate)
				if err != nil || got > 1.05*rate || got < 0.8*rate {
					t.Errorf("%s: %.3f of the rate, %v", name, got/rate, err)
				}
			})
		}
	}
	measured.Wait()
}

// flood sends as much as goes from one namespace to another until the test ends.
func (s *site) flood(from, to *netlab.Namespace, network string, at netip.AddrPort) {
	s.t.Helper()
	sink, err := listen(to, network, at)
	s.must(err)
	s.t.Cleanup(func() { sink.Close() })
	var c net.Conn
	s.must(from.Do(func() (err error) { c, err = net.DialTimeout(network, at.String(), patient); return err }))
	var sending sync.WaitGroup
	sending.Go(func() {
		// Datagrams of 1,200 bytes at about three times the rate that is asked for; TCP finds its own.
		datagram := make([]byte, 1200)
		for i := 0; ; i++ {
			if _, err := c.Write(datagram); errors.Is(err, net.ErrClosed) {
				return
			}
			if network == "udp" && i%12 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
	})
	s.t.Cleanup(func() {
		c.Close()
		sending.Wait()
	})
}

// listen takes what comes by a protocol and drops it.
func listen(in *netlab.Namespace, network string, at netip.AddrPort) (c io.Closer, err error) {
	err = in.Do(func() error {
		if network == "udp" {
			c, err = net.ListenPacket("udp", at.String()) // whatever is not read, the kernel drops
			return err
		}
		s := &sink{}
		s.listener, err = net.Listen("tcp", at.String())
		if err == nil {
			s.done.Go(s.take)
		}
		c = s
		return err
	})
	return c, err
}

// sink drops what comes by one connection.
type sink struct {
	listener net.Listener
	done     sync.WaitGroup
	mu       sync.Mutex
	taken    net.Conn // nil: none yet
}

func (s *sink) take() {
	c, err := s.listener.Accept()
	if err != nil {
		return
	}
	s.mu.Lock()
	s.taken = c
	s.mu.Unlock()
	_, _ = io.Copy(io.Discard, c)
	c.Close()
}

// Close ends the connection too: the sender's end of it may be cut off by then.
func (s *sink) Close() error {
	err := s.listener.Close()
	s.mu.Lock()
	if s.taken != nil {
		s.taken.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return err
}

// throughput is how many bits a second eth0 receives, after a second in which what may come at once has come.
func throughput(in *netlab.Namespace, over time.Duration) (bitsPerSecond float64, err error) {
	time.Sleep(time.Second)
	first, begin, err := received(in)
	if err != nil {
		return 0, err
	}
	time.Sleep(over)
	last, end, err := received(in)
	if err == nil && last == first {
		err = fmt.Errorf("nothing came")
	}
	return float64(last-first) * 8 / end.Sub(begin).Seconds(), err
}

// received is how many bytes of frames eth0 has received. The kernel counts a packet that was redirected to a device
// without its Ethernet header (skb_do_redirect in net/core/filter.c).
func received(in *netlab.Namespace) (bytes uint64, at time.Time, err error) {
	link, err := in.Links().LinkByName("eth0")
	if err != nil {
		return 0, time.Time{}, err
	}
	s := link.Attrs().Statistics
	return s.RxBytes + 14*s.RxPackets, time.Now(), nil
}
