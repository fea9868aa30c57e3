// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Pods is what passes between two pods of one node.
type Pods struct {
	Comparison
	Measures []string // of PodMeasures
	Flows    int      // of UDP; see gen.Config
	Apart    bool     // the pods are on two nodes; subjects are those of peer.ApartNames then
	Of       []string // subjects whose ratios to all others are taken; empty: the first
	Tables   []int    // numbers of flows, the smallest first, that table compares
	Duration time.Duration
}

// pathMTU is that of the bounded stream: what a network's uplink usually has.
const pathMTU = 1500

// linkMTU is that of all pods' links.
const linkMTU = 65535

// podMeasure is one measure as a trial of its own, and the name of its results.
type podMeasure struct {
	name string
	of   func(p *Pods, c Comparison) trial
}

// resultName is pods/… on one node, and nodes/… on two.
func (m podMeasure) resultName(p *Pods) string {
	if p.Apart {
		return strings.Replace(m.name, "pods", "nodes", 1)
	}
	return m.name
}

var podMeasures = map[string]podMeasure{
	"udp": {"pods/udp64", func(p *Pods, c Comparison) trial {
		return (&Forward{Comparison: c, Size: 64, Flows: p.Flows, Duration: p.Duration}).trial
	}},
	"stream": {fmt.Sprintf("pods/stream/mtu%d", linkMTU), func(p *Pods, c Comparison) trial {
		return p.tcp(c).stream
	}},
	"stream1500": {fmt.Sprintf("pods/stream/mtu%d", pathMTU), func(p *Pods, c Comparison) trial {
		return bounded(p.tcp(c).stream)
	}},
	"rr": {fmt.Sprintf("pods/rr/mtu%d", pathMTU), func(p *Pods, c Comparison) trial {
		return bounded(p.tcp(c).requestResponse)
	}},
	"crr": {fmt.Sprintf("pods/crr/mtu%d", pathMTU), func(p *Pods, c Comparison) trial {
		return bounded(p.tcp(c).connectRequestResponse)
	}},
	"visit": {"pods/visit", func(p *Pods, c Comparison) trial { return (&firstPacket{c, p.Duration}).trial }},
	"table": {"pods/table", func(p *Pods, c Comparison) trial { return (&tableSize{c, p.Tables, p.Duration}).trial }},
}

// PodMeasures are the names of what Pods measures, in the order in which it does.
func PodMeasures() []string { return append(PlainPodMeasures(), "visit", "table") }

// PlainPodMeasures are those that say something of every subject.
func PlainPodMeasures() []string { return []string{"udp", "stream1500", "stream", "rr", "crr"} }

func (p *Pods) tcp(c Comparison) *TCP { return &TCP{Comparison: c, Duration: p.Duration} }

// bounded measures with routes between the pods that bound packets to pathMTU.
func bounded(t trial) trial {
	return func(ctx context.Context, r *rig.Rig, s peer.Subject) ([]Sample, error) {
		err := errors.Join(
			r.Generator.LimitMTU(r.Target(), pathMTU), r.Sink.LimitMTU(r.Gen.Addr4.Addr(), pathMTU))
		if err != nil {
			return nil, err
		}
		return t(ctx, r, s)
	}
}

// comparison is what all measures have in common.
func (p *Pods) comparison() Comparison {
	c := p.Comparison
	c.wired, c.apart, c.of, c.Rig, c.Routes = true, p.Apart, p.Of, rig.Options{Queues: 1, MTU: linkMTU}, 0
	return c
}

func validTables(flows []int) bool {
	return len(flows) > 0 && slices.IsSorted(flows) && flows[0] >= 1 && flows[len(flows)-1] <= bpf.MaxFlows
}

// Validate says what is wrong with the settings.
func (p *Pods) Validate() error {
	for i, m := range p.Measures {
		if _, known := podMeasures[m]; !known || slices.Contains(p.Measures[:i], m) {
			return fmt.Errorf("measure %q: want each of %s at most once", m, strings.Join(PodMeasures(), ", "))
		}
	}
	for _, s := range p.Of {
		if !slices.Contains(p.Subjects, s) {
			return fmt.Errorf("ratios of %q: it is not measured", s)
		}
	}
	switch {
	case slices.Contains(p.Measures, "table") && !validTables(p.Tables):
		return fmt.Errorf("tables of %v flows: want 1 to %d, the smaller number first", p.Tables, bpf.MaxFlows)
	case p.Apart && slices.Contains(p.Measures, "stream"):
		return fmt.Errorf("measure %q: between nodes packets are of %d bytes", "stream", pathMTU)
	case len(p.Measures) == 0:
		return errors.New("no measure")
	case p.Flows < 1:
		return fmt.Errorf("%d flows: want at least 1", p.Flows)
	case p.Duration < 10*time.Millisecond:
		return fmt.Errorf("duration %s: want at least 10ms", p.Duration)
	}
	c := p.comparison()
	return c.Validate()
}

// Run takes one measure after the other, each of all subjects in turns, and adds results to doc.
func (p *Pods) Run(ctx context.Context, doc *report.Document) error {
	if err := p.Validate(); err != nil {
		return err
	}
	c := p.comparison()
	for _, name := range PodMeasures() {
		if !slices.Contains(p.Measures, name) {
			continue
		}
		m, of := podMeasures[name], c
		if name == "table" {
			of.flows = 4 * p.Tables[len(p.Tables)-1]
		}
		if err := of.compare(ctx, doc, m.resultName(p), m.of(p, of)); err != nil {
			return err
		}
	}
	doc.Notes = append(doc.Notes, podNote)
	if c.onOthers() {
		doc.Notes = append(doc.Notes, cpuNote)
	}
	return nil
}

const podNote = "udp: frames are made in the kernel and leave by the sending pod's device as its driver would send " +
	"them, and are counted at tcx ingress of the receiving one's: neither pod's stack is part of it"
