// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Policy is what policies cost between two pods of a node, of which one may be reached by the other on two ports alone.
type Policy struct {
	Subjects []string // names as in peer.FilteredNames; ratios are of the first to each other one
	peer.Programs
	Counts   []int // of policies, the smallest first; scaling is that of the last to the first
	Rules    int   // of each of viaduct's policies
	Pods     int   // of the cluster
	Measures []string
	Changes  int // of a policy to time; at most as many are changed in turns
	Flows    int // of UDP; see gen.Config
	Duration time.Duration
	Runs     int
	Progress io.Writer
}

// policyMeasures are the names of what Policy measures, and each as a trial that adds to the metrics' names.
var policyMeasures = map[string]func(p *Policy, f *peer.Filtered) trial{
	"udp": func(p *Policy, _ *peer.Filtered) trial {
		f := Forward{Comparison: p.comparison(), Size: 64, Flows: p.Flows, Duration: p.Duration}
		return f.established
	},
	"rr":     func(p *Policy, _ *peer.Filtered) trial { return bounded(p.tcp().requestResponse) },
	"crr":    func(p *Policy, _ *peer.Filtered) trial { return bounded(p.tcp().connectRequestResponse) },
	"change": func(p *Policy, f *peer.Filtered) trial { return (&policyChange{p, f}).trial },
}

// PolicyMeasures are the names of what Policy measures, in the order in which it does.
func PolicyMeasures() []string { return []string{"udp", "rr", "crr", "change"} }

func (p *Policy) tcp() *TCP { return &TCP{Comparison: p.comparison(), Duration: p.Duration} }

func (p *Policy) comparison() Comparison {
	return Comparison{
		Subjects: p.Subjects, Programs: p.Programs, Rig: rig.Options{Queues: 1, MTU: linkMTU}, Runs: p.Runs,
		Progress: p.Progress, wired: true,
	}
}

// policies is how much policy there is in a run, and what it lets pass.
func (p *Policy) policies(count int) cluster.Policies {
	return cluster.Policies{Count: count, Rules: p.Rules, Pods: p.Pods,
		Admitted: []cluster.Admitted{{Protocol: "TCP", Port: port}, {Protocol: "UDP", Port: establishPort}}}
}

// Validate says what is wrong with the settings.
func (p *Policy) Validate() error {
	a := asked{
		kind: "policies", subjects: p.Subjects, measures: p.Measures, known: PolicyMeasures(), counts: p.Counts,
		runs: p.Runs, changes: p.Changes, duration: p.Duration,
		isSubject: func(name string) error {
			_, err := peer.NewFiltered(name, p.Programs, cluster.Policies{})
			return err
		},
		canHave: func(count int) error { return p.policies(count).Validate() },
	}
	if err := a.validate(); err != nil {
		return err
	}
	if p.Flows < 1 || p.Flows > maxEstablished {
		return fmt.Errorf("%d flows: want 1 to %d", p.Flows, maxEstablished)
	}
	return nil
}

// Run measures in rounds all numbers of policies of all subjects in turns, and adds results to doc.
func (p *Policy) Run(ctx context.Context, doc *report.Document) error {
	if err := p.Validate(); err != nil {
		return err
	}
	m := byCount{
		kind: "policy", counts: p.Counts, subjects: p.Subjects, runs: p.Runs, progress: p.Progress, once: p.once,
		missing: func(name string) string {
			f, _ := peer.NewFiltered(name, p.Programs, cluster.Policies{})
			return f.Missing(rig.Options{})
		},
	}
	if err := m.run(ctx, doc); err != nil {
		return err
	}
	doc.Notes = append(doc.Notes, podNote, policyNote)
	return nil
}

const policyNote = "policies: NetworkPolicies, each with --rules rules of one deployment's pods and a port; of the " +
	"kernel's subjects a rule each, of one pod's address and a port. One in the middle admits what is measured. " +
	"udp: flows that were answered before"

// once takes all measures of one subject with one number of policies.
func (p *Policy) once(ctx context.Context, name string, count int) ([]Sample, error) {
	subject, err := peer.NewFiltered(name, p.Programs, p.policies(count))
	if err != nil {
		return nil, err
	}
	c := p.comparison()
	c.sole = subject
	return c.once(ctx, name, func(ctx context.Context, r *rig.Rig, s peer.Subject) (samples []Sample, err error) {
		if err := refuses(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, m := range PolicyMeasures() {
			if !slices.Contains(p.Measures, m) {
				continue
			}
			more, err := policyMeasures[m](p, subject)(ctx, r, s)
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

// refuses checks that policy is in force: a port that nothing admits, and at which nobody listens, does not even say
// so, asked again and again.
func refuses(ctx context.Context, r *rig.Rig) error {
	const times = 3
	deadline := time.Now().Add(passTimeout)
	for silent := 0; silent < times; {
		err := r.Generator.Do(func() error {
			fd, err := dialTo(r.Sunk.Addr4.Addr(), port+1, patience)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		})
		switch {
		case errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.ETIMEDOUT):
			silent++
			continue
		case time.Now().After(deadline):
			return fmt.Errorf("port %d, which no policy admits, answers: %w", port+1, err)
		}
		silent = 0
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
