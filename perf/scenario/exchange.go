// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// exchange is a client in the generator's namespace and a server in the sink's. Both end with ctx.
type exchange struct {
	client func(ctx context.Context, to netip.Addr) error
	server func(ctx context.Context, listener int) error
}

// during runs an exchange while measure runs. An error of either end also ends measure.
func (t *TCP) during(ctx context.Context, r *rig.Rig, x exchange, measure func() error) error {
	to := r.Target()
	if t.IPv6 {
		to = r.Sunk.Addr6.Addr()
	}
	if err := uniform(r); err != nil {
		return err
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

// uniform has both ends control congestion in a way that every kernel has, and that does not depend, as BBR does, on
// how fast a connection's first packets were.
func uniform(r *rig.Rig) error {
	for _, in := range []*rig.Namespace{r.Generator, r.Sink} {
		if err := in.Sysctl("ipv4/tcp_congestion_control", "reno"); err != nil {
			return fmt.Errorf("set congestion control: %w", err)
		}
	}
	return nil
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
