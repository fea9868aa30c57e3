// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// phase is a part of a run; what begins outside of both counts in neither.
type phase int32

const (
	outside phase = iota
	before
	meanwhile
	phases
)

var phaseNames = [phases]string{before: "before", meanwhile: "meanwhile"}

// maxProbes a second are sent by a thread that sleeps in between.
const maxProbes = 20_000

// connectTime is how long a new connection may take, all in all: a request that is lost is repeated after a second
// (RFC 6298 section 2).
const connectTime = 3 * time.Second

// traffic is what goes on beside a flood.
type traffic struct {
	phase  atomic.Int32
	cancel context.CancelFunc
	group  sync.WaitGroup
	mu     sync.Mutex
	errs   []error
	probes []*probe
}

// probe is one kind of traffic between two ends: what was tried and what came of it.
type probe struct {
	name  string
	mu    sync.Mutex
	tried [phases]int
	times [phases][]time.Duration // of what succeeded
	lossy bool                    // what did not is a loss, and otherwise a failure
}

func (p *probe) try(in phase) {
	p.mu.Lock()
	p.tried[in]++
	p.mu.Unlock()
}

func (p *probe) succeed(in phase, took time.Duration) {
	p.mu.Lock()
	p.times[in] = append(p.times[in], took)
	p.mu.Unlock()
}

// startTraffic begins all probes, and returns once each has succeeded.
func (s *flooded) startTraffic(ctx context.Context) (*traffic, error) {
	running, cancel := context.WithCancel(ctx)
	t := &traffic{cancel: cancel}
	err := errors.Join(
		t.echo(running, s.right), t.serve(running, s.right), t.serve(running, s.server),
		t.datagrams(running, "established, pods", s.left, s.right, s.Probes),
		t.datagrams(running, "established, world", s.world(), s.right, s.Probes),
		t.connections(running, "new, pods", s.left, s.right),
		t.connections(running, "new, world", s.world(), s.server))
	if err == nil {
		err = waitFor(ctx, t.begun)
	}
	if err != nil {
		return nil, errors.Join(err, t.stop())
	}
	return t, nil
}

// begun says whether every probe has succeeded once.
func (t *traffic) begun() bool {
	for _, p := range t.probes {
		p.mu.Lock()
		n := len(p.times[outside])
		p.mu.Unlock()
		if n == 0 {
			return false
		}
	}
	return true
}

// during has what begins count for a phase, for a while.
func (t *traffic) during(ctx context.Context, in phase, d time.Duration) error {
	t.phase.Store(int32(in))
	defer t.phase.Store(int32(outside))
	return sleep(ctx, d)
}

// stop ends all probes, and is what went wrong.
func (t *traffic) stop() error {
	t.cancel()
	t.group.Wait()
	return errors.Join(t.errs...)
}

// run runs f inside an end's namespace until the traffic stops.
func (t *traffic) run(e end, f func() error) {
	t.group.Go(func() {
		if err := ended(e.in.Do(f)); err != nil {
			t.mu.Lock()
			t.errs = append(t.errs, err)
			t.mu.Unlock()
		}
	})
}

// echo sends datagrams back.
func (t *traffic) echo(ctx context.Context, at end) error {
	fd, err := socketAt(at, establishPort)
	if err != nil {
		return err
	}
	t.run(at, func() error {
		defer unix.Close(fd)
		return answer(ctx, fd)
	})
	return nil
}

func socketAt(at end, port uint16) (fd int, err error) {
	err = at.in.Do(func() (err error) {
		fd, err = datagrams(netip.AddrPortFrom(at.address(), port))
		return err
	})
	return fd, err
}

// serve answers short connections. One that its client gave up is none that failed here.
func (t *traffic) serve(ctx context.Context, at end) error {
	listener := -1
	err := at.in.Do(func() (err error) {
		listener, err = listen()
		return err
	})
	if err != nil {
		return err
	}
	t.run(at, func() error {
		defer unix.Close(listener)
		for ctx.Err() == nil {
			_ = serve(ctx, listener)
		}
		return nil
	})
	return nil
}

// datagrams are sent at a rate and expected back. Each says when it was sent, and in which phase.
func (t *traffic) datagrams(ctx context.Context, name string, from, to end, rate int) error {
	p := &probe{name: name, lossy: true}
	t.probes = append(t.probes, p)
	fd, err := socketAt(from, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.address().As4(), Port: establishPort}); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", to.address(), err)
	}
	begin := time.Now()
	t.run(from, func() error {
		return t.sendAt(ctx, fd, rate, begin, p)
	})
	t.run(from, func() error {
		defer unix.Close(fd)
		return receiveBack(ctx, fd, begin, p)
	})
	return nil
}

// stampSize is the payload of a datagram: it makes a frame of 64 bytes.
const stampSize = 64 - 42

func (t *traffic) sendAt(ctx context.Context, fd, rate int, begin time.Time, p *probe) error {
	b := make([]byte, stampSize)
	for sent := 0; ctx.Err() == nil; {
		for due := int(time.Since(begin).Seconds() * float64(rate)); sent < due; sent++ {
			in := phase(t.phase.Load())
			binary.NativeEndian.PutUint64(b, uint64(time.Since(begin)))
			b[8] = byte(in)
			p.try(in)
			// What the node's own queue does not take is lost like what is lost later.
			if _, err := unix.Write(fd, b); err != nil && !again(err) && !errors.Is(err, unix.ENOBUFS) &&
				!errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("send: %w", err)
			}
		}
		time.Sleep(time.Second / time.Duration(2*rate))
	}
	return nil
}

// receiveBack goes on for patience after the end, for what is on its way.
func receiveBack(ctx context.Context, fd int, begin time.Time, p *probe) error {
	b := make([]byte, stampSize)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == nil && n == stampSize && b[8] < byte(phases):
			p.succeed(phase(b[8]), time.Since(begin)-time.Duration(binary.NativeEndian.Uint64(b)))
		case err == nil || errors.Is(err, unix.ECONNREFUSED):
		case !again(err):
			return fmt.Errorf("receive: %w", err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// connections are short ones, one after the other.
func (t *traffic) connections(ctx context.Context, name string, from, to end) error {
	p := &probe{name: name}
	t.probes = append(t.probes, p)
	t.run(from, func() error {
		for ctx.Err() == nil {
			in, start := phase(t.phase.Load()), time.Now()
			p.try(in)
			if connectOnce(ctx, to.address()) == nil && time.Since(start) <= connectTime {
				p.succeed(in, time.Since(start))
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	return nil
}

func connectOnce(ctx context.Context, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	fd, err := dial(to, connectTime)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return talk(ctx, fd)
}

// samples are what came of the probes in both phases.
func (t *traffic) samples() (samples []Sample, err error) {
	for _, p := range t.probes {
		for in := before; in < phases; in++ {
			if p.tried[in] == 0 {
				return nil, fmt.Errorf("%s: nothing was tried %s the flood", p.name, phaseNames[in])
			}
			samples = append(samples, p.samples(in)...)
		}
	}
	return samples, nil
}

func (p *probe) samples(in phase) []Sample {
	metric := func(what string) string { return fmt.Sprintf("%s: %s %s", p.name, what, phaseNames[in]) }
	times := slices.Sorted(slices.Values(p.times[in]))
	share := 100 * float64(len(times)) / float64(p.tried[in])
	samples := []Sample{{metric("succeeded"), "%", share}}
	if p.lossy {
		samples = []Sample{{metric(metricLoss), "%", 100 - share}}
	}
	if len(times) == 0 {
		return samples
	}
	at := func(q float64) float64 { return float64(times[int(q*float64(len(times)-1))]) / 1e3 }
	return append(samples, Sample{metric("p50"), "us", at(0.5)}, Sample{metric("p99"), "us", at(0.99)})
}
