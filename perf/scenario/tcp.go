// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// TCP is what two programs at the ends of the rig see through a subject.
type TCP struct {
	Comparison
	IPv6     bool
	Duration time.Duration
}

// exchange is a client in the generator's namespace and a server in the sink's. Both end with ctx.
type exchange struct {
	client func(ctx context.Context, to netip.Addr) error
	server func(ctx context.Context, listener int) error
}

// Stream measures one TCP connection that sends as fast as it can, in bits of payload per second.
func (t *TCP) Stream(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/stream", func(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
		var received atomic.Uint64
		x := exchange{client: send, server: func(ctx context.Context, l int) error { return receive(ctx, l, &received) }}
		var rate float64
		err := t.during(ctx, r, x, func() error {
			if err := waitFor(ctx, func() bool { return received.Load() > 1<<20 }); err != nil {
				return err
			}
			from, start := received.Load(), time.Now()
			if err := sleep(ctx, t.Duration); err != nil {
				return err
			}
			rate = float64(received.Load()-from) * 8 / time.Since(start).Seconds()
			return nil
		})
		return []Sample{{"throughput", "bit/s", rate}}, err
	})
}

// RequestResponse measures the time of one byte there and one back, on one connection.
func (t *TCP) RequestResponse(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/rr", func(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
		var times []time.Duration
		finished := make(chan struct{})
		client := func(ctx context.Context, to netip.Addr) (err error) {
			defer close(finished)
			times, err = pingPong(ctx, to, t.Duration)
			return err
		}
		if err := t.during(ctx, r, exchange{client, echo}, func() error { return wait(ctx, finished) }); err != nil {
			return nil, err
		}
		if len(times) == 0 {
			return nil, errors.New("no response came")
		}
		slices.Sort(times)
		samples := percentiles(func(q float64) time.Duration { return times[int(q*float64(len(times)-1))] })
		return append(samples, Sample{"transactions", "1/s", float64(len(times)) / t.Duration.Seconds()}), nil
	})
}

// ConnectRequestResponse measures how many times per second a client can connect, send a byte, get one and see the
// server close.
func (t *TCP) ConnectRequestResponse(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/crr", func(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
		// The server closes first and keeps the TIME_WAIT; the client's ports are soon used again.
		if err := r.Generator.Sysctl("ipv4/ip_local_port_range", "1024 65535"); err != nil {
			return nil, err
		}
		var done atomic.Uint64
		client := func(ctx context.Context, to netip.Addr) error { return visit(ctx, to, &done) }
		var rate float64
		err := t.during(ctx, r, exchange{client, serve}, func() error {
			if err := waitFor(ctx, func() bool { return done.Load() > 100 }); err != nil {
				return err
			}
			from, start := done.Load(), time.Now()
			if err := sleep(ctx, t.Duration); err != nil {
				return err
			}
			rate = float64(done.Load()-from) / time.Since(start).Seconds()
			return nil
		})
		return []Sample{{"transactions", "1/s", rate}}, err
	})
}

// Validate says what is wrong with the settings.
func (t *TCP) Validate() error {
	if t.Duration < 10*time.Millisecond {
		return fmt.Errorf("duration %s: want at least 10ms", t.Duration)
	}
	return t.Comparison.Validate()
}

func (t *TCP) run(ctx context.Context, doc *report.Document, name string, f trial) error {
	if err := t.Validate(); err != nil {
		return err
	}
	return t.compare(ctx, doc, t.name(name), f)
}

func (t *TCP) name(name string) string {
	if t.IPv6 {
		name += "6"
	}
	return fmt.Sprintf("%s/mtu%d", name, t.Rig.MTU)
}

// during runs an exchange while measure runs. An error of either end also ends measure.
func (t *TCP) during(ctx context.Context, r *rig.Rig, x exchange, measure func() error) error {
	to := r.Sunk.Addr4.Addr()
	if t.IPv6 {
		to = r.Sunk.Addr6.Addr()
	}
	listener := -1
	err := r.Sink.Do(func() (err error) {
		listener, err = listen()
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(listener)

	running, stop := context.WithCancel(ctx)
	defer stop()
	ends := make(chan error, 2)
	go func() { ends <- r.Sink.Do(func() error { return x.server(running, listener) }) }()
	go func() { ends <- r.Generator.Do(func() error { return x.client(running, to) }) }()
	measured := make(chan error, 1)
	go func() { measured <- measure() }()
	select {
	case err = <-measured:
		stop()
		return errors.Join(err, ended(<-ends), ended(<-ends))
	case err = <-ends:
		if err == nil { // the client has done what it had to
			err = <-measured
		}
		stop()
		return errors.Join(ended(err), ended(<-ends))
	}
}

// ended is the error of an end that was not told to stop.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// send writes until ctx is done.
func send(ctx context.Context, to netip.Addr) error {
	fd, err := dialPatiently(ctx, to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		if _, err := transfer(ctx, unix.Write, fd, buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// receive counts what one connection brings.
func receive(ctx context.Context, listener int, received *atomic.Uint64) error {
	fd, err := accept(ctx, listener)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<20)
	for {
		n, err := transfer(ctx, unix.Read, fd, buf)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if n == 0 {
			return nil
		}
		received.Add(uint64(n))
	}
}

// pingPong times round trips for a while, after a few that do not count.
func pingPong(ctx context.Context, to netip.Addr, d time.Duration) ([]time.Duration, error) {
	fd, err := dialPatiently(ctx, to)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	const unmeasured = 100
	times := make([]time.Duration, 0, 1<<20)
	b := []byte{0}
	var begin time.Time
	for i := 0; ; i++ {
		start := time.Now()
		if i == unmeasured {
			begin = start
		}
		if i > unmeasured && start.Sub(begin) >= d {
			return times, nil
		}
		for _, call := range []func(int, []byte) (int, error){unix.Write, unix.Read} {
			if n, err := transfer(ctx, call, fd, b); err != nil || n == 0 {
				return nil, fmt.Errorf("exchange a byte: %d, %w", n, err)
			}
		}
		if i >= unmeasured {
			times = append(times, time.Since(start))
		}
	}
}

// echo answers each byte of one connection.
func echo(ctx context.Context, listener int) error {
	fd, err := accept(ctx, listener)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := []byte{0}
	for {
		n, err := transfer(ctx, unix.Read, fd, b)
		if err != nil || n == 0 {
			return err
		}
		if _, err := transfer(ctx, unix.Write, fd, b); err != nil {
			return err
		}
	}
}

// visit makes one short connection after the other.
func visit(ctx context.Context, to netip.Addr, done *atomic.Uint64) error {
	fd, err := dialPatiently(ctx, to)
	for ; err == nil; fd, err = dial(to, passTimeout) {
		err = talk(ctx, fd)
		_ = unix.Close(fd)
		if err != nil || ctx.Err() != nil {
			break
		}
		done.Add(1)
	}
	return err
}

// talk is the client's part of one short connection.
func talk(ctx context.Context, fd int) error {
	b := []byte{0}
	if _, err := transfer(ctx, unix.Write, fd, b); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	for want := 1; want >= 0; want-- { // the response, then the end
		n, err := transfer(ctx, unix.Read, fd, b)
		if err != nil {
			return fmt.Errorf("receive response: %w", err)
		}
		if n != want {
			return fmt.Errorf("receive response: %d bytes, want %d", n, want)
		}
	}
	return nil
}

// serve answers one short connection after the other and closes first.
func serve(ctx context.Context, listener int) error {
	b := []byte{0}
	for {
		fd, err := accept(ctx, listener)
		if err != nil {
			return err
		}
		n, err := transfer(ctx, unix.Read, fd, b)
		if err == nil && n == 1 {
			_, err = transfer(ctx, unix.Write, fd, b)
		}
		_ = unix.Close(fd)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			return fmt.Errorf("serve: %w", err)
		}
	}
}

// waitFor polls a condition for as long as a first packet may take.
func waitFor(ctx context.Context, f func() bool) error {
	for deadline := time.Now().Add(passTimeout); !f(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing passed within %s", passTimeout)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c:
		return nil
	}
}
