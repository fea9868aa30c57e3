// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"time"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/sink"
)

// firstPacket is what a flow's first packet takes longer than those behind it, from device to device: packets one after
// another, of one flow and then each of a flow of its own.
type firstPacket struct {
	Comparison
	duration time.Duration
}

// metricVisit is the difference of both medians.
const metricVisit = "visit p50"

// visitRate is low enough for each packet to find everybody asleep that sleeps, packets a second.
const visitRate = 1000

func (p *firstPacket) trial(ctx context.Context, r *rig.Rig, s peer.Subject) (samples []Sample, err error) {
	one := &Forward{
		Comparison: p.Comparison, Size: gen.MinSize, Flows: 1, Rate: visitRate, Latency: true, Duration: p.duration,
	}
	each := *one
	each.Flows = bpf.MaxFlows // many more than there are packets
	receiver, err := one.attach(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, receiver.Close()) }()
	err = one.generate(ctx, r, func(*gen.Generator) error { return waitForPackets(ctx, receiver, s) })
	if err != nil {
		return nil, err
	}
	var medians []float64
	for _, of := range []struct {
		name string
		f    *Forward
	}{{"carried", one}, {"first", &each}} {
		times, err := of.f.times(ctx, r, receiver)
		if err != nil {
			return nil, err
		}
		for _, sample := range percentiles(times.Quantile) {
			samples = append(samples, Sample{of.name + " " + sample.Metric, sample.Unit, sample.Value})
		}
		medians = append(medians, float64(times.Quantile(0.5))/1e3)
	}
	return append(samples, Sample{metricVisit, "us", medians[1] - medians[0]}), nil
}

// times sends for Duration and returns how long packets took.
func (f *Forward) times(ctx context.Context, r *rig.Rig, receiver *sink.Sink) (sink.Histogram, error) {
	if _, err := drained(ctx, receiver); err != nil {
		return sink.Histogram{}, err
	}
	before, err := receiver.Latency()
	if err != nil {
		return before, err
	}
	err = f.generate(ctx, r, func(*gen.Generator) error { return sleep(ctx, f.Duration) })
	if err != nil {
		return before, err
	}
	if _, err := drained(ctx, receiver); err != nil {
		return before, err
	}
	times, err := receiver.Latency()
	if err != nil {
		return before, err
	}
	times.Sub(&before)
	if times.Count() == 0 {
		return times, errors.New("no packet arrived")
	}
	return times, nil
}
