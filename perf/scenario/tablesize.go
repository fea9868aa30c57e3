// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/sink"
)

// tableSize is what a packet of an established flow costs with few and with many flows in the subject's tables, all of
// which have packets, in an order that no cache foresees.
type tableSize struct {
	Comparison
	flows    []int
	duration time.Duration
}

// enterRate is at which flows are made known, packets a second, and enterTimes how many packets each then had at least.
// Where the kernel carries flows, others are given until enterLimit.
const (
	enterRate  = 100_000
	enterTimes = 3
	enterLimit = 3 * time.Minute
)

func (t *tableSize) trial(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
	var samples []Sample
	few := map[string]float64{}
	for i, flows := range t.flows {
		of, err := t.with(ctx, r, s, flows)
		if err != nil {
			return nil, fmt.Errorf("%d flows: %w", flows, err)
		}
		for _, v := range of {
			samples = append(samples, Sample{fmt.Sprintf("%d: %s", flows, v.Metric), v.Unit, v.Value})
			if i == 0 {
				few[v.Metric] = v.Value
			} else if v.Unit == "ns/packet" && few[v.Metric] > 0 {
				name := fmt.Sprintf("%d: %s to that of %d", flows, v.Metric, t.flows[0])
				samples = append(samples, Sample{name, "ratio", v.Value / few[v.Metric]})
			}
		}
	}
	return samples, nil
}

// with measures with so many flows.
func (t *tableSize) with(ctx context.Context, r *rig.Rig, s peer.Subject, flows int) ([]Sample, error) {
	f := &Forward{
		Comparison: t.Comparison, Size: gen.MinSize, Flows: flows, Duration: t.duration, scattered: true,
	}
	if err := f.enter(ctx, r, s); err != nil {
		return nil, err
	}
	samples, err := f.trial(ctx, r, s)
	if err != nil {
		return nil, err
	}
	if carried, known, err := carriedBy(ctx, s); err != nil {
		return nil, err
	} else if known {
		samples = append(samples, Sample{"carried", "flows", float64(carried)})
	}
	hooks, err := f.hookTime(ctx, r)
	return append(samples, hooks...), err
}

// enter has each flow have packets in both directions, slowly enough for all to be seen.
func (f *Forward) enter(ctx context.Context, r *rig.Rig, s peer.Subject) (errs error) {
	if err := takeRedirected(r); err != nil {
		return err
	}
	for _, end := range []struct {
		in     *rig.Namespace
		device int
		at     sink.At
	}{{r.Sink, r.Sunk.Index, sink.Answer}, {r.Generator, r.Gen.Index, sink.TakeAnswers}} {
		var attached *sink.Sink
		err := end.in.Do(func() (err error) {
			attached, err = sink.Attach(end.device, end.at, false)
			return err
		})
		if err != nil {
			return err
		}
		defer func() { errs = errors.Join(errs, attached.Close()) }()
	}
	slow := *f
	slow.Rate = enterRate
	return slow.generate(ctx, r, func(g *gen.Generator) error {
		for deadline := time.Now().Add(enterLimit); ; {
			sent, err := g.Sent()
			if err != nil {
				return err
			}
			carried, known, err := carriedBy(ctx, s)
			all := !known || carried >= uint64(f.Flows) || time.Now().After(deadline)
			if err != nil || sent >= uint64(enterTimes*f.Flows) && all {
				return err
			}
			if err := sleep(ctx, warmUp); err != nil {
				return err
			}
		}
	})
}

// carriedBy is how many flows the kernel carries for a subject, if it does at all.
func carriedBy(ctx context.Context, s peer.Subject) (flows uint64, known bool, err error) {
	of, ok := s.(interface{ Socket() string })
	if !ok || of.Socket() == "" {
		return 0, false, nil
	}
	conn, err := process.Dial(of.Socket())
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	status, err := api.NewDataplaneClient(conn).Status(ctx, &api.StatusRequest{})
	if err != nil {
		return 0, false, fmt.Errorf("ask the dataplane: %w", err)
	}
	return status.GetOffload().GetRecords(), status.GetOffload().GetOn(), nil
}

// hookTime is what eBPF programs that see the packets on their way take for one, by the kernel's own clock
// (BPF_ENABLE_STATS, bpf(2)), which is a part of it. Others than the subject's have a run for fewer, or are known.
func (f *Forward) hookTime(ctx context.Context, r *rig.Rig) (samples []Sample, err error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("have programs' time taken: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	receiver, err := f.attach(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, receiver.Close()) }()
	var spent float64
	err = f.generate(ctx, r, func(*gen.Generator) error {
		if err := sleep(ctx, warmUp); err != nil {
			return err
		}
		from, err := receiver.Counts()
		if err != nil {
			return err
		}
		before, err := programTimes()
		if err != nil {
			return err
		}
		if err := sleep(ctx, f.Duration); err != nil {
			return err
		}
		after, err := programTimes()
		if err != nil {
			return err
		}
		to, err := receiver.Counts()
		if err != nil {
			return err
		}
		packets := to.Packets - from.Packets
		for id, p := range after {
			runs := p.runs - before[id].runs
			if !slices.Contains(own, p.name) && packets > 0 && runs > packets/2 {
				spent += float64(p.time-before[id].time) / float64(runs)
			}
		}
		return nil
	})
	if err != nil || spent == 0 {
		return nil, err
	}
	return []Sample{{"hooks", "ns/packet", spent}}, nil
}

// own are the generator's and the sink's programs.
var own = []string{"generate", "count_received", "count"}

type programStats struct {
	name string
	runs uint64
	time time.Duration
}

// programTimes are of all that are loaded, by their numbers.
func programTimes() (map[ebpf.ProgramID]programStats, error) {
	all := map[ebpf.ProgramID]programStats{}
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, unix.ENOENT) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("list programs: %w", err)
		}
		if stats, ok := statsOf(id); ok {
			all[id] = stats
		}
	}
}

// statsOf is of a program that may be gone by now.
func statsOf(id ebpf.ProgramID) (programStats, bool) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return programStats{}, false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return programStats{}, false
	}
	stats, err := p.Stats()
	if err != nil {
		return programStats{}, false
	}
	return programStats{info.Name, stats.RunCount, stats.Runtime}, true
}
