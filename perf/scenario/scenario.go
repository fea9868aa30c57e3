// SPDX-License-Identifier: Apache-2.0

// Package scenario runs subjects through measurements, in turns: in every round each subject is measured once, in a
// rig of its own, so that what changes on the machine over time changes for all of them.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Comparison is what all scenarios have in common.
type Comparison struct {
	Subjects []string // names as in peer.Names; ratios are of the first to each other one
	peer.Programs
	Rig      rig.Options
	Routes   int // of each family, 0 to rig.MaxRoutes
	Runs     int // rounds, at least 1
	Progress io.Writer

	wired bool         // subjects are those of peer.WiredNames
	apart bool         // those of peer.ApartNames
	napi  bool         // the ends' devices have it from the start, and so take what XDP redirects
	flows int          // that a subject's tables must hold; 0: as they are
	of    []string     // subjects whose ratios to all others are taken; empty: the first
	sole  peer.Subject // if not nil, the only subject
}

func (c *Comparison) subject(name string) (peer.Subject, error) {
	if c.sole != nil {
		return c.sole, nil
	}
	if c.apart {
		return peer.NewApart(name, c.Programs)
	}
	if c.wired {
		return peer.NewWired(name, c.Programs)
	}
	return peer.New(name, c.Programs)
}

// Validate says what is wrong with the settings, before anything is made.
func (c *Comparison) Validate() error {
	seen := map[string]bool{}
	for _, name := range c.Subjects {
		if _, err := c.subject(name); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("subject %q is named twice", name)
		}
		seen[name] = true
	}
	switch {
	case len(c.Subjects) == 0:
		return errors.New("no subject")
	case c.Runs < 1:
		return fmt.Errorf("%d runs: want at least 1", c.Runs)
	case c.Routes < 0 || c.Routes > rig.MaxRoutes:
		return fmt.Errorf("%d routes: want 0 to %d", c.Routes, rig.MaxRoutes)
	case c.Rig.Queues < 1 || c.Rig.Queues > 64:
		return fmt.Errorf("%d queues: want 1 to 64", c.Rig.Queues)
	case c.Rig.MTU < 1280 || c.Rig.MTU > 65535:
		return fmt.Errorf("MTU %d: want 1280 to 65535", c.Rig.MTU)
	}
	return nil
}

// Sample is one metric of one run.
type Sample struct {
	Metric, Unit string
	Value        float64
}

// trial measures a subject that forwards.
type trial func(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error)

// compare runs all rounds and puts results and notes into doc. A subject that this machine lacks is noted and left
// out; that nothing was left is an error.
func (c *Comparison) compare(ctx context.Context, doc *report.Document, name string, t trial) error {
	if err := c.Validate(); err != nil {
		return err
	}
	var present []string
	for _, s := range c.Subjects {
		subject, _ := c.subject(s)
		if missing := subject.Missing(c.Rig); missing != "" {
			leftOut(doc, c.Progress, s, missing)
			continue
		}
		present = append(present, s)
	}
	if len(present) == 0 {
		return errors.New("no subject is present on this machine")
	}
	series := newSeries(name)
	for round := range c.Runs {
		for _, s := range present {
			samples, err := c.once(ctx, s, t)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", s, round+1, err)
			}
			series.add(s, samples)
			fmt.Fprintf(c.Progress, "%s round %d/%d %s:%s\n", name, round+1, c.Runs, s, sampleText(samples))
		}
	}
	doc.Results = append(doc.Results, series.results()...)
	doc.Results = append(doc.Results, series.ratios(present)...)
	for _, s := range c.of {
		if i := slices.Index(present, s); i > 0 {
			others := slices.Concat([]string{s}, present[:i], present[i+1:])
			doc.Results = append(doc.Results, series.ratios(others)...)
		}
	}
	return nil
}

// once builds a rig, starts a subject, measures it, and takes everything down.
func (c *Comparison) once(ctx context.Context, name string, t trial) (samples []Sample, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := c.subject(name)
	if err != nil {
		return nil, err
	}
	r, err := c.build(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := s.Start(ctx, r, peer.Setup{Routes: c.Routes, CPUs: c.subjectCPUs(), Flows: c.flows}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	return t(ctx, r, s)
}

// build makes the rig that the subject needs.
func (c *Comparison) build(s peer.Subject) (*rig.Rig, error) {
	if s.Wires() {
		return rig.Bare()
	}
	r, err := rig.New(c.Rig)
	if err != nil {
		return nil, err
	}
	err = r.ConfigureEnds(s.Transparent())
	if err == nil && !s.Checksums() {
		err = completeChecksums(r)
	}
	if err == nil && c.napi {
		gro := map[string]bool{"rx-gro": true}
		err = errors.Join(r.Generator.SetFeatures(r.Gen.Name, gro), r.Sink.SetFeatures(r.Sunk.Name, gro))
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// leftOut says, once, that a subject is not measured.
func leftOut(doc *report.Document, progress io.Writer, subject, missing string) {
	note := fmt.Sprintf("%s left out: %s", subject, missing)
	if !slices.Contains(doc.Notes, note) {
		doc.Notes = append(doc.Notes, note)
		fmt.Fprintln(progress, note)
	}
}

// completeChecksums makes the ends compute whole checksums, and so whole segments.
func completeChecksums(r *rig.Rig) error {
	off := map[string]bool{"tx-checksum-ip-generic": false}
	return errors.Join(r.Generator.SetFeatures(r.Gen.Name, off), r.Sink.SetFeatures(r.Sunk.Name, off))
}

// generatorCPUs are those of the generator's threads: a veth delivers to the queue of the sending CPU's number
// modulo the queues (veth_select_rxq), so that each queue needs a CPU.
func (c *Comparison) generatorCPUs() []int {
	all := allowedCPUs()
	return all[:min(c.Rig.Queues, len(all))]
}

// subjectCPUs are all others, or all if there are no others.
func (c *Comparison) subjectCPUs() []int {
	all := allowedCPUs()
	if rest := all[len(c.generatorCPUs()):]; len(rest) > 0 {
		return rest
	}
	return all
}

// onOthers reports whether generator and subject share no CPU.
func (c *Comparison) onOthers() bool { return len(allowedCPUs()) > c.Rig.Queues }

func allowedCPUs() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return []int{0}
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

func sampleText(samples []Sample) string {
	text := ""
	for _, s := range samples {
		text += fmt.Sprintf("  %s %.4g %s", s.Metric, s.Value, s.Unit)
	}
	return text
}
