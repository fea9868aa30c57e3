// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Services is what services cost between two pods of a node, of which one reaches the other by the address of a
// service, among many others.
type Services struct {
	Subjects []string // names as in peer.BalancedNames; ratios are of the first to each other one
	peer.Programs
	Counts    []int // of services, the smallest first; scaling is that of the last to the first
	Endpoints int   // of each service but the measured one
	Measures  []string
	Changes   int // of an endpoint to time
	Duration  time.Duration
	Runs      int
	Progress  io.Writer
}

// serviceMeasures are the names of what Services measures, and each as a trial.
var serviceMeasures = map[string]func(s *Services, b *peer.Balanced) trial{
	"crr":    func(s *Services, b *peer.Balanced) trial { return bounded((&serviceVisits{s, b}).trial) },
	"change": func(s *Services, b *peer.Balanced) trial { return (&serviceChange{s, b}).trial },
	"memory": func(_ *Services, b *peer.Balanced) trial { return (&serviceMemory{b}).trial },
}

// ServiceMeasures are the names of what Services measures, in the order in which it does.
func ServiceMeasures() []string { return []string{"crr", "change", "memory"} }

func (s *Services) services(count int) cluster.Services {
	return cluster.Services{Count: count, Endpoints: s.Endpoints}
}

// Validate says what is wrong with the settings.
func (s *Services) Validate() error {
	a := asked{
		kind: "services", subjects: s.Subjects, measures: s.Measures, known: ServiceMeasures(), counts: s.Counts, least: 2,
		runs: s.Runs, changes: s.Changes, duration: s.Duration,
		isSubject: func(name string) error {
			_, err := peer.NewBalanced(name, s.Programs, cluster.Services{})
			return err
		},
		canHave: func(count int) error { return s.services(count).Validate() },
	}
	return a.validate()
}

// Run measures in rounds all numbers of services of all subjects in turns, and adds results to doc.
func (s *Services) Run(ctx context.Context, doc *report.Document) error {
	if err := s.Validate(); err != nil {
		return err
	}
	m := byCount{
		kind: "services", counts: s.Counts, subjects: s.Subjects, runs: s.Runs, progress: s.Progress, once: s.once,
		missing: func(name string) string {
			b, _ := peer.NewBalanced(name, s.Programs, cluster.Services{})
			return b.Missing(rig.Options{})
		},
	}
	if err := m.run(ctx, doc); err != nil {
		return err
	}
	doc.Notes = append(doc.Notes, podNote, serviceNote)
	return nil
}

const serviceNote = "services: each with --endpoints endpoints, but for the measured one in the middle, which has " +
	"one. connect: from the SYN until its answer, by connect(2). change: of one endpoint; of viaduct from the write of " +
	"its EndpointSlice until the tables have it, of nftables the time of nft -f with its service's chain, without " +
	"whatever would tell it. memory: Pss of each process when all is in force"

// once takes all measures of one subject with one number of services.
func (s *Services) once(ctx context.Context, name string, count int) ([]Sample, error) {
	subject, err := peer.NewBalanced(name, s.Programs, s.services(count))
	if err != nil {
		return nil, err
	}
	c := Comparison{
		Subjects: s.Subjects, Programs: s.Programs, Rig: rig.Options{Queues: 1, MTU: linkMTU}, Runs: s.Runs,
		Progress: s.Progress, sole: subject,
	}
	return c.once(ctx, name, func(ctx context.Context, r *rig.Rig, _ peer.Subject) (samples []Sample, err error) {
		for _, m := range ServiceMeasures() {
			if !slices.Contains(s.Measures, m) {
				continue
			}
			more, err := serviceMeasures[m](s, subject)(ctx, r, subject)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m, err)
			}
			for _, sample := range more {
				sample.Metric = m + " " + sample.Metric
				samples = append(samples, sample)
			}
		}
		return samples, nil
	})
}

// serviceVisits are short connections one after another, through the measured service.
type serviceVisits struct {
	*Services
	subject *peer.Balanced
}

func (v *serviceVisits) trial(ctx context.Context, r *rig.Rig, _ peer.Subject) ([]Sample, error) {
	if err := r.Generator.Sysctl("ipv4/ip_local_port_range", "1024 65535"); err != nil { // as connectRequestResponse
		return nil, err
	}
	services := v.services(v.subject.Count())
	to := services.Address(services.Measured())
	var connects []time.Duration
	var took time.Duration
	finished := make(chan struct{})
	client := func(ctx context.Context, _ netip.Addr) (err error) {
		defer close(finished)
		connects, took, err = timedVisits(ctx, to, v.Duration)
		return err
	}
	t := &TCP{Duration: v.Duration}
	if err := t.during(ctx, r, exchange{client, serve}, func() error { return wait(ctx, finished) }); err != nil {
		return nil, err
	}
	if len(connects) == 0 {
		return nil, errors.New("no connection was made")
	}
	slices.Sort(connects)
	at := func(q float64) float64 { return float64(connects[int(q*float64(len(connects)-1))]) / 1e3 }
	return []Sample{
		{"transactions", "1/s", float64(len(connects)) / took.Seconds()},
		{"connect p50", "us", at(0.50)}, {"connect p99", "us", at(0.99)},
	}, nil
}

// timedVisits makes one short connection after the other for a while, after a few that do not count, and returns how
// long each took to be made, and all of them together.
func timedVisits(ctx context.Context, to netip.Addr, d time.Duration) ([]time.Duration, time.Duration, error) {
	const unmeasured = 100
	var connects []time.Duration
	var begin time.Time
	for i := 0; ; i++ {
		start := time.Now()
		if i == unmeasured {
			begin = start
		}
		if i > unmeasured && start.Sub(begin) >= d {
			return connects, start.Sub(begin), nil
		}
		connect := dial
		if i == 0 {
			connect = func(to netip.Addr, _ time.Duration) (int, error) { return dialPatiently(ctx, to) }
		}
		fd, err := connect(to, passTimeout)
		if err != nil {
			return nil, 0, err
		}
		made := time.Since(start)
		err = talk(ctx, fd)
		_ = unix.Close(fd)
		if err != nil {
			return nil, 0, err
		}
		if i >= unmeasured {
			connects = append(connects, made)
		}
	}
}

// serviceChange times the way of one endpoint into force.
type serviceChange struct {
	*Services
	subject *peer.Balanced
}

func (c *serviceChange) trial(ctx context.Context, _ *rig.Rig, _ peer.Subject) ([]Sample, error) {
	if !c.subject.Changes() {
		return nil, nil
	}
	watch, err := watchServices(c.subject)
	if err != nil {
		return nil, err
	}
	defer watch.close()
	services := c.services(c.subject.Count())
	var took []time.Duration
	for revision := 1; revision <= c.Changes; revision++ {
		i := rand.IntN(min(peer.Changeable, services.Measured())) // before the measured one
		d, err := c.one(ctx, watch, services, i, revision)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	return []Sample{
		{"p50", "ms", milliseconds(took[len(took)/2])}, {"worst", "ms", milliseconds(took[len(took)-1])},
	}, nil
}

// one changes an endpoint, and waits until it is in force.
func (c *serviceChange) one(ctx context.Context, watch *serviceWatch, services cluster.Services, i, revision int,
) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := watch.ready(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := c.subject.Change(i, revision); err != nil {
		return 0, err
	}
	name := cluster.PolicyNamespace + "/" + cluster.ServiceName(i)
	return watch.await(ctx, start, name, services.Endpoint(i, services.Endpoints-1, revision).Addr())
}

// serviceMemory is what a subject's processes take with all services in force.
type serviceMemory struct{ subject *peer.Balanced }

func (m *serviceMemory) trial(ctx context.Context, _ *rig.Rig, _ peer.Subject) (samples []Sample, err error) {
	if m.subject.Network() == nil {
		return nil, nil
	}
	if _, err := settled(ctx, m.subject.Network()); err != nil {
		return nil, err
	}
	for i, pid := range m.subject.PIDs() {
		smaps, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return nil, err
		}
		name := []string{"control", "dataplane"}[min(i, 1)]
		samples = append(samples, Sample{name, "MiB", float64(smaps["Pss"]) / (1 << 20)})
	}
	return samples, nil
}
