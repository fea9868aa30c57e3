// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/sink"
)

// Flood is what a flood of TCP connection requests to one pod does to everybody else.
type Flood struct {
	Subjects []string // of FloodSubjects; ratios are of the first to each other one
	peer.Programs
	Origins  []string // of FloodOrigins
	Rate     float64  // requests a second, 0: as many as possible
	Probes   int      // datagrams a second of each established flow
	Duration time.Duration
	Runs     int
	Progress io.Writer
}

// FloodSubjects are what can be flooded.
func FloodSubjects() []string { return peer.SiteNames() }

// FloodOrigins are where floods come from: the world, with random sources, or a pod, with its own address.
func FloodOrigins() []string { return []string{"world", "pod"} }

// floodSources are random, of addresses that are nobody's here.
var floodSources = netip.MustParsePrefix("16.0.0.0/4")

// admitted is what pods are reached on.
var admitted = []cluster.Admitted{{Protocol: "TCP", Port: port}, {Protocol: "UDP", Port: establishPort}}

// Validate says what is wrong with the settings.
func (f *Flood) Validate() error {
	for i, s := range f.Subjects {
		if _, err := peer.NewSite(s, f.Programs, admitted); err != nil {
			return err
		}
		if slices.Contains(f.Subjects[:i], s) {
			return fmt.Errorf("subject %q is named twice", s)
		}
	}
	for i, o := range f.Origins {
		if !slices.Contains(FloodOrigins(), o) || slices.Contains(f.Origins[:i], o) {
			return fmt.Errorf("flood from %q: want each of %s at most once", o, strings.Join(FloodOrigins(), ", "))
		}
	}
	switch {
	case len(f.Subjects) == 0:
		return errors.New("no subject")
	case len(f.Origins) == 0:
		return errors.New("a flood from nowhere")
	case !(f.Rate >= 0):
		return fmt.Errorf("rate %v: must not be negative", f.Rate)
	case f.Probes < 1 || f.Probes > maxProbes:
		return fmt.Errorf("%d probes a second: want 1 to %d", f.Probes, maxProbes)
	case f.Runs < 1:
		return fmt.Errorf("%d runs: want at least 1", f.Runs)
	case f.Duration < 10*time.Millisecond:
		return fmt.Errorf("duration %s: want at least 10ms", f.Duration)
	}
	return nil
}

// Run floods all subjects in turns, and adds results to doc.
func (f *Flood) Run(ctx context.Context, doc *report.Document) error {
	if err := f.Validate(); err != nil {
		return err
	}
	var present []string
	for _, name := range f.Subjects {
		s, _ := peer.NewSite(name, f.Programs, admitted)
		if missing := s.Missing(); missing != "" {
			leftOut(doc, f.Progress, name, missing)
			continue
		}
		present = append(present, name)
	}
	if len(present) == 0 {
		return errors.New("no subject is present on this machine")
	}
	for _, origin := range f.Origins {
		s := newSeries("flood/" + origin)
		for round := range f.Runs {
			for _, name := range present {
				samples, err := repeated(ctx, doc, f.Progress, fmt.Sprintf("%s round %d %s", s.name, round+1, name),
					func() ([]Sample, error) { return f.once(ctx, name, origin) })
				if err != nil {
					return err
				}
				s.add(name, samples)
				fmt.Fprintf(f.Progress, "%s round %d/%d %s:%s\n", s.name, round+1, f.Runs, name, sampleText(samples))
			}
		}
		doc.Results = append(doc.Results, s.results()...)
		doc.Results = append(doc.Results, s.ratios(present)...)
	}
	doc.Notes = append(doc.Notes, floodNote)
	return nil
}

const floodNote = "offered: requests handed to the sending device, those included that it drops. passed: packets " +
	"that reached the flooded pod's device. The generator and the kernel's receive path of what it sends share CPU 0; " +
	"tables are as they are when nothing is said"

// once builds a site and floods it.
func (f *Flood) once(ctx context.Context, name, origin string) (samples []Sample, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	site, err := peer.NewSite(name, f.Programs, admitted)
	if err != nil {
		return nil, err
	}
	if err := site.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	s := &flooded{Flood: f, site: site, origin: origin}
	if err := s.wire(); err != nil {
		return nil, err
	}
	return s.measure(ctx)
}

// flooded is one run.
type flooded struct {
	*Flood
	site   *peer.Site
	origin string

	server, attacker, left, right end
}

// end is a pod, or the world, and its device.
type end struct {
	in     *rig.Namespace
	device rig.Device
}

func (e end) address() netip.Addr { return e.device.Addr4.Addr() }

func (s *flooded) world() end { return end{s.site.World, s.site.Beyond} }

func (s *flooded) wire() error {
	for name, e := range map[string]*end{
		cluster.Server: &s.server, "attacker": &s.attacker, "left": &s.left, "right": &s.right,
	} {
		pod, device, err := s.site.Pod(name)
		if err != nil {
			return err
		}
		*e = end{pod.In, device}
	}
	return peer.DropInput(s.attacker.in) // its own stack would end what it begins
}

// generator makes the flood.
func (s *flooded) generator() (*gen.Generator, error) {
	from, sources := s.world(), floodSources
	if s.origin == "pod" {
		from = s.attacker
		sources = netip.PrefixFrom(from.address(), 32)
	}
	hop, err := from.in.NextHop(s.server.address())
	if err != nil {
		return nil, err
	}
	return gen.New(gen.Config{
		Interface: from.device.Index, SrcMAC: from.device.MAC, DstMAC: hop, Src: sources.Addr(),
		Prefix: netip.PrefixFrom(s.server.address(), 32), Prefixes: 1, Flows: 1, Size: gen.MinSize, Rate: s.Rate,
		Request: port, Sources: sources,
	})
}

// receive gives the device by which the flood comes into the node the NAPI that redirected frames need.
func (s *flooded) receive() error {
	name := s.site.Up.Name
	if s.origin == "pod" {
		host, err := s.attacker.in.Peer(s.attacker.device, s.site.Node)
		if err != nil {
			return err
		}
		name = host.Name
	}
	return s.site.Node.SetFeatures(name, map[string]bool{"rx-gro": true})
}

// measure lets probes run, floods them, and says what became of them.
func (s *flooded) measure(ctx context.Context) (samples []Sample, err error) {
	if err := s.receive(); err != nil {
		return nil, err
	}
	g, err := s.generator()
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var received *sink.Sink
	err = s.server.in.Do(func() (err error) {
		received, err = sink.Attach(s.server.device.Index, sink.Stack, false)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer received.Close()
	t, err := s.startTraffic(ctx)
	if err != nil {
		return nil, err
	}
	samples, err = s.phases(ctx, t, g, received)
	if err = errors.Join(err, t.stop()); err != nil {
		return nil, err
	}
	more, err := t.samples()
	if err != nil {
		return nil, err
	}
	table, err := s.table(ctx)
	return slices.Concat(samples, more, table), err
}

// phases are the calm and the flood.
func (s *flooded) phases(ctx context.Context, t *traffic, g *gen.Generator, received *sink.Sink) ([]Sample, error) {
	if err := t.during(ctx, before, s.Duration); err != nil {
		return nil, err
	}
	flooding, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	from := s.world().in
	if s.origin == "pod" {
		from = s.attacker.in
	}
	go func() { ended <- g.Run(flooding, from.Do) }()
	samples, err := s.flood(ctx, t, g, received)
	stop()
	return samples, errors.Join(err, <-ended)
}

// flood measures while the generator runs.
func (s *flooded) flood(ctx context.Context, t *traffic, g *gen.Generator, received *sink.Sink) ([]Sample, error) {
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
	sent0, err0 := g.Sent()
	received0, err1 := received.Counts()
	start := time.Now()
	if err := errors.Join(err0, err1, t.during(ctx, meanwhile, s.Duration)); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	sent1, err0 := g.Sent()
	received1, err1 := received.Counts()
	if err := errors.Join(err0, err1); err != nil {
		return nil, err
	}
	return []Sample{
		{metricOffered, "pps", float64(sent1-sent0) / took},
		{"passed", "pps", float64(received1.Other-received0.Other) / took},
	}, nil
}
