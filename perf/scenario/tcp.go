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

// Stream measures one TCP connection that sends as fast as it can, in bits of payload per second.
func (t *TCP) Stream(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/stream", t.stream)
}

func (t *TCP) stream(ctx context.Context, r *rig.Rig, _ peer.Subject) ([]Sample, error) {
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
}

// RequestResponse measures the time of one byte there and one back, on one connection.
func (t *TCP) RequestResponse(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/rr", t.requestResponse)
}

func (t *TCP) requestResponse(ctx context.Context, r *rig.Rig, _ peer.Subject) ([]Sample, error) {
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
}

// ConnectRequestResponse measures how many times per second a client can connect, send a byte, get one and see the
// server close.
func (t *TCP) ConnectRequestResponse(ctx context.Context, doc *report.Document) error {
	return t.run(ctx, doc, "tcp/crr", t.connectRequestResponse)
}

func (t *TCP) connectRequestResponse(ctx context.Context, r *rig.Rig, _ peer.Subject) ([]Sample, error) {
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
