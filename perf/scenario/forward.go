// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/sink"
)

const (
	metricLoss    = "loss"
	metricOffered = "offered"
	metricOthers  = "other load" // of processes that are no part of the measurement

	passTimeout = 20 * time.Second       // for the first packet to pass a subject
	warmUp      = 300 * time.Millisecond // caches, neighbours, the CPU's clock
	drainTime   = 100 * time.Millisecond // that the sink must have been quiet for
)

// Forward is UDP packets from the generator through a subject into the sink.
type Forward struct {
	Comparison
	Size     int  // bytes of a frame without FCS
	Flows    int  // see gen.Config
	IPv6     bool //
	Rate     float64
	Duration time.Duration
	Latency  bool // measure times from generator to sink

	scattered bool // see gen.Config
}

// Name is that of the results: forward/udp64.
func (f *Forward) Name() string {
	name := fmt.Sprintf("forward/udp%d", f.Size)
	if f.IPv6 {
		name = fmt.Sprintf("forward/udp6-%d", f.Size)
	}
	if f.Rate > 0 {
		name += fmt.Sprintf("@%.0f", f.Rate)
	}
	return name
}

// Validate says what is wrong with the settings.
func (f *Forward) Validate() error {
	if f.Duration < 10*time.Millisecond {
		return fmt.Errorf("duration %s: want at least 10ms", f.Duration)
	}
	if f.Routes < 1 {
		return errors.New("at least one route is needed")
	}
	if f.Size > f.Rig.MTU+14 {
		return fmt.Errorf("size %d: does not fit the MTU of %d", f.Size, f.Rig.MTU)
	}
	c := f.config(&rig.Rig{
		Gen:  rig.Device{Index: 1, MAC: make([]byte, 6), Addr4: rig.Prefix(0, false), Addr6: rig.Prefix(0, true)},
		Left: rig.Device{MAC: make([]byte, 6)},
	})
	if err := c.Validate(); err != nil {
		return err
	}
	return f.Comparison.Validate()
}

func (f *Forward) config(r *rig.Rig) gen.Config {
	c := gen.Config{
		Interface: r.Gen.Index, SrcMAC: r.Gen.MAC, DstMAC: r.Left.MAC, Src: r.Gen.Addr4.Addr(),
		Prefix: rig.Prefix(0, f.IPv6), Prefixes: f.Routes, Size: f.Size, Flows: f.Flows, Rate: f.Rate,
		Timed: f.Latency, Scattered: f.scattered, CPUs: f.generatorCPUs(),
	}
	if f.IPv6 {
		c.Src = r.Gen.Addr6.Addr()
	}
	if f.wired {
		c.Prefix, c.Prefixes = netip.PrefixFrom(r.Target(), 32), 1
	}
	return c
}

// Run measures all subjects and adds results to doc.
func (f *Forward) Run(ctx context.Context, doc *report.Document) error {
	if err := f.Validate(); err != nil {
		return err
	}
	if f.onOthers() {
		doc.Notes = append(doc.Notes, cpuNote)
	} else {
		doc.Notes = append(doc.Notes, "cpu per packet left out: the generator needs all CPUs")
	}
	c := f.Comparison
	c.napi = true
	return c.compare(ctx, doc, f.Name(), f.trial)
}

// trial sends until the subject is warm, lets it drain, then measures: what passes in the middle of a run gives the
// rate, what the whole run sent and received gives the loss.
func (f *Forward) trial(ctx context.Context, r *rig.Rig, s peer.Subject) (samples []Sample, err error) {
	receiver, err := f.attach(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, receiver.Close()) }()

	err = f.generate(ctx, r, func(*gen.Generator) error { return waitForPackets(ctx, receiver, s) })
	if err != nil {
		return nil, err
	}
	before, err := drained(ctx, receiver)
	if err != nil {
		return nil, err
	}
	timesBefore, err := receiver.Latency()
	if err != nil {
		return nil, err
	}
	var sent uint64
	err = f.generate(ctx, r, func(g *gen.Generator) (err error) {
		samples, err = f.window(ctx, g, receiver, s)
		return err
	}, func(g *gen.Generator) (err error) {
		sent, err = g.Sent()
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := drained(ctx, receiver)
	if err != nil {
		return nil, err
	}
	received := after.Packets - before.Packets
	samples = append(samples, Sample{metricLoss, "%", 100 * (1 - float64(received)/float64(max(1, sent)))})
	if !f.Latency {
		return samples, nil
	}
	times, err := receiver.Latency()
	if err != nil {
		return nil, err
	}
	times.Sub(&timesBefore)
	return append(samples, percentiles(times.Quantile)...), nil
}

// attach puts the sink where the subject delivers. Pods' devices are left as they are, but for takeRedirected.
func (f *Forward) attach(r *rig.Rig) (receiver *sink.Sink, err error) {
	at := sink.Driver
	if f.wired {
		at = sink.Stack
		if err := takeRedirected(r); err != nil {
			return nil, err
		}
	}
	err = r.Sink.Do(func() (err error) {
		receiver, err = sink.Attach(r.Sunk.Index, at, f.Latency)
		return err
	})
	return receiver, err
}

// takeRedirected switches GRO on at the generator's other end, which gives it the NAPI that generated frames need.
func takeRedirected(r *rig.Rig) error {
	return r.NextToGenerator().SetFeatures(r.Left.Name, map[string]bool{"rx-gro": true})
}

// generate runs during while the generator runs, and after once it has stopped.
func (f *Forward) generate(ctx context.Context, r *rig.Rig, during func(*gen.Generator) error,
	after ...func(*gen.Generator) error) error {
	g, err := gen.New(f.config(r))
	if err != nil {
		return err
	}
	defer g.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- g.Run(running, r.Generator.Do) }()
	err = during(g)
	stop()
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	for _, f := range after {
		if err := f(g); err != nil {
			return err
		}
	}
	return nil
}

// window measures for Duration, from when the generator has set itself up.
func (f *Forward) window(ctx context.Context, g *gen.Generator, receiver *sink.Sink, s peer.Subject) ([]Sample, error) {
	err := waitFor(ctx, func() bool {
		n, err := g.Sent()
		return err != nil || n > 0
	})
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	pids, cpus := s.PIDs(), f.generatorCPUs()
	cpu0, err := cpuTime(pids, cpus)
	if err != nil {
		return nil, err
	}
	other0, err := otherTime(pids)
	if err != nil {
		return nil, err
	}
	from, err := receiver.Counts()
	if err != nil {
		return nil, err
	}
	sent0, err := g.Sent()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := sleep(ctx, f.Duration); err != nil {
		return nil, err
	}
	// Where others have all CPUs a packet may take longer.
	err = waitFor(ctx, func() bool {
		to, err := receiver.Counts()
		return err != nil || to.Packets > from.Packets
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	took := time.Since(start)
	to, err := receiver.Counts()
	if err != nil {
		return nil, err
	}
	sent1, err := g.Sent()
	if err != nil {
		return nil, err
	}
	cpu1, err := cpuTime(pids, cpus)
	if err != nil {
		return nil, err
	}
	other1, err := otherTime(pids)
	if err != nil {
		return nil, err
	}
	packets := to.Packets - from.Packets
	samples := []Sample{
		{"throughput", "pps", float64(packets) / took.Seconds()},
		{metricOffered, "pps", float64(sent1-sent0) / took.Seconds()},
		{metricOthers, "% of a core", max(0, 100*float64(other1-other0)/float64(took))},
	}
	if f.onOthers() {
		samples = append(samples, Sample{"cpu", "ns/packet", float64(cpu1-cpu0) / float64(packets)})
	}
	return samples, nil
}

// waitForPackets returns when a subject forwards and has done so for a while.
func waitForPackets(ctx context.Context, receiver *sink.Sink, s peer.Subject) error {
	deadline := time.Now().Add(passTimeout)
	for {
		c, err := receiver.Counts()
		if err != nil {
			return err
		}
		if _, err := cpuTime(s.PIDs(), nil); err != nil {
			return fmt.Errorf("%s ended before a packet passed: %w", s.Name(), err)
		}
		if c.Packets > 0 {
			return sleep(ctx, warmUp)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no packet passed within %s", passTimeout)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// drained waits until no more packets arrive.
func drained(ctx context.Context, s *sink.Sink) (sink.Counts, error) {
	var last sink.Counts
	for {
		if err := sleep(ctx, drainTime); err != nil {
			return last, err
		}
		c, err := s.Counts()
		if err != nil || c.Packets == last.Packets {
			return c, err
		}
		last = c
	}
}

// percentiles are the samples of a distribution of times.
func percentiles(quantile func(float64) time.Duration) []Sample {
	return []Sample{
		{"latency p50", "us", float64(quantile(0.50)) / 1e3},
		{"latency p99", "us", float64(quantile(0.99)) / 1e3},
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
