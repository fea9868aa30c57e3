// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// probes are numbered datagrams from one pod to another.
type probes struct {
	from     *rig.Namespace
	each     bool // of a flow of its own
	to       netip.AddrPort
	receiver *net.UDPConn
	end      chan struct{}
	running  sync.WaitGroup
	stopped  bool

	sent    []time.Time
	arrived []time.Time // by number, zero those that have not; the receiver's until stop
	order   []time.Time // as they came
	err     error
}

// listenUDP opens a socket at a pod's address.
func listenUDP(in *rig.Namespace) (c *net.UDPConn, at netip.AddrPort, err error) {
	d, err := in.Device(peer.Interface)
	if err != nil {
		return nil, at, err
	}
	err = in.Do(func() error {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.Addr4.Addr(), 0)))
		return err
	})
	if err != nil {
		return nil, at, fmt.Errorf("listen in pod: %w", err)
	}
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

func startProbes(from, to *rig.Namespace, each bool) (*probes, error) {
	p := &probes{from: from, each: each, end: make(chan struct{})}
	var err error
	if p.receiver, p.to, err = listenUDP(to); err != nil {
		return nil, err
	}
	sender, _, err := listenUDP(from)
	if err != nil {
		return nil, errors.Join(err, p.receiver.Close())
	}
	p.running.Go(func() { p.send(sender) })
	p.running.Go(p.receive)
	return p, nil
}

func (p *probes) send(c *net.UDPConn) {
	defer func() { _ = c.Close() }()
	again := time.NewTicker(probeEvery)
	defer again.Stop()
	for {
		select {
		case <-p.end:
			return
		case <-again.C:
		}
		if p.each {
			next, _, err := listenUDP(p.from)
			if err != nil {
				p.err = err
				return
			}
			_ = c.Close()
			c = next
		}
		number := binary.BigEndian.AppendUint64(nil, uint64(len(p.sent)))
		p.sent = append(p.sent, time.Now())
		if _, err := c.WriteToUDPAddrPort(number, p.to); err != nil {
			p.err = fmt.Errorf("send: %w", err)
			return
		}
	}
}

// receive notes what arrives, and answers, so that a flow has two directions.
func (p *probes) receive() {
	var b [64]byte
	for {
		n, from, err := p.receiver.ReadFromUDPAddrPort(b[:])
		if err != nil { // closed
			return
		}
		now := time.Now()
		if n != 8 {
			continue
		}
		number := binary.BigEndian.Uint64(b[:])
		for uint64(len(p.arrived)) <= number {
			p.arrived = append(p.arrived, time.Time{})
		}
		p.arrived[number] = now
		p.order = append(p.order, now)
		_, _ = p.receiver.WriteToUDPAddrPort(b[:n], from)
	}
}

// stop ends the probes, of which the last have time to arrive. What is known of them may be read afterwards.
func (p *probes) stop() error {
	if p.stopped {
		return nil
	}
	p.stopped = true
	close(p.end)
	time.Sleep(50 * time.Millisecond)
	err := p.receiver.Close()
	p.running.Wait()
	return errors.Join(err, p.err)
}

// firstSince is how long after a time the first datagram arrived that was sent after it.
func (p *probes) firstSince(start time.Time) (time.Duration, bool) {
	for i, at := range p.arrived {
		if !at.IsZero() && p.sent[i].After(start) {
			return at.Sub(start), true
		}
	}
	return 0, false
}

func (p *probes) longestGap() (gap time.Duration) {
	for i := 1; i < len(p.order); i++ {
		gap = max(gap, p.order[i].Sub(p.order[i-1]))
	}
	return gap
}

func (p *probes) lost() int {
	lost := len(p.sent) - len(p.arrived)
	for _, at := range p.arrived {
		if at.IsZero() {
			lost++
		}
	}
	return lost
}
