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

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Restart is what a restart of the dataplane costs those whose packets it handles.
type Restart struct {
	peer.Programs
	Ways     []string // of RestartWays
	Pods     int      // of the node, at least 4
	Flows    int      // that there are, 0 to maxRestartFlows
	Runs     int
	Progress io.Writer
}

// RestartWays are how the dataplane is replaced.
func RestartWays() []string { return []string{"kill", "stop", "hand-over"} }

const (
	maxRestartFlows = 1 << 17 // as many as there is room for, beside what passes
	clientPods      = 8
	probeEvery      = time.Millisecond
	probedBefore    = 200 * time.Millisecond
	probedAfter     = 2 * time.Second
)

const restartNote = "" +
	"restart: new = datagrams from one pod to another, a thousand a second, each of a flow of its own; " +
	"old = the same, of one flow that is open all the time. first = from exec of the dataplane until the first new one " +
	"arrives that was sent after it; gap = the longest time in which none arrived; lost = of those sent until two " +
	"seconds after the dataplane was ready"

// Validate says what is wrong with the settings.
func (r *Restart) Validate() error {
	for i, w := range r.Ways {
		if !slices.Contains(RestartWays(), w) || slices.Contains(r.Ways[:i], w) {
			return fmt.Errorf("way %q: want each of %v at most once", w, RestartWays())
		}
	}
	switch {
	case len(r.Ways) == 0 || r.Runs < 1:
		return errors.New("no way or no run: want at least 1")
	case r.Pods < 4 || r.Pods > maxPods:
		return fmt.Errorf("%d pods: want 4 to %d", r.Pods, maxPods)
	case r.Flows < 0 || r.Flows > maxRestartFlows:
		return fmt.Errorf("%d flows: want 0 to %d", r.Flows, maxRestartFlows)
	}
	return nil
}

// Run restarts one node's dataplane again and again, in all ways in turns.
func (r *Restart) Run(ctx context.Context, doc *report.Document) (err error) {
	if err := r.Validate(); err != nil {
		return err
	}
	programs := r.Programs
	programs.Flags = append(slices.Clone(programs.Flags), "--take-over")
	network, err := peer.NewNetwork("trunk", programs)
	if err != nil {
		return err
	}
	network.KeepPins()
	n, err := startPodNode(ctx, network)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.grow(ctx, r.Pods); err != nil {
		return err
	}
	var clients []*rig.Namespace
	for _, p := range n.pods[3:min(len(n.pods), 3+clientPods)] {
		clients = append(clients, p.In)
	}
	many, err := openFlows(clients, n.pods[2].In, r.Flows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	s := newSeries(fmt.Sprintf("restart/pods%d-flows%d", r.Pods, r.Flows))
	for round := range r.Runs {
		for _, way := range r.Ways {
			if err := r.renew(ctx, n, way); err != nil {
				return err
			}
			if err := many.refresh(); err != nil {
				return err
			}
			samples, err := restart(ctx, n, way)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", way, round+1, err)
			}
			s.add(way, samples)
			fmt.Fprintf(r.Progress, "%s round %d/%d %s:%s\n", s.name, round+1, r.Runs, way, sampleText(samples))
		}
	}
	doc.Results = append(doc.Results, s.results()...)
	doc.Notes = append(doc.Notes, restartNote)
	return nil
}

// renew has a dataplane run that may hand over: one that took over does not for a minute.
func (r *Restart) renew(ctx context.Context, n *podNode, way string) error {
	if way != "hand-over" {
		return nil
	}
	if err := n.network.EndDataplane(unix.SIGTERM); err != nil {
		return err
	}
	_, ready, err := n.network.StartDataplane()
	if err == nil {
		_, err = ready(ctx)
	}
	return err
}

// restart replaces the dataplane once while datagrams pass.
func restart(ctx context.Context, n *podNode, way string) (_ []Sample, err error) {
	old, err := startProbes(n.pods[0].In, n.pods[1].In, false)
	if err != nil {
		return nil, err
	}
	fresh, err := startProbes(n.pods[0].In, n.pods[1].In, true)
	if err != nil {
		return nil, errors.Join(err, old.stop())
	}
	defer func() { err = errors.Join(err, old.stop(), fresh.stop()) }()
	if err := sleep(ctx, probedBefore); err != nil {
		return nil, err
	}
	switch way {
	case "kill":
		err = n.network.EndDataplane(unix.SIGKILL)
	case "stop":
		err = n.network.EndDataplane(unix.SIGTERM)
	}
	if err != nil {
		return nil, err
	}
	started, ready, err := n.network.StartDataplane()
	if err != nil {
		return nil, err
	}
	at, err := ready(ctx)
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, probedAfter); err != nil {
		return nil, err
	}
	if err := errors.Join(old.stop(), fresh.stop()); err != nil {
		return nil, err
	}
	first, ok := fresh.firstSince(started)
	if !ok {
		return nil, errors.New("no packet passes")
	}
	return []Sample{
		{"first", "ms", milliseconds(first)}, {"ready", "ms", milliseconds(at.Sub(started))},
		{"gap of new", "ms", milliseconds(fresh.longestGap())}, {"gap of old", "ms", milliseconds(old.longestGap())},
		{"lost of new", "1", float64(fresh.lost())}, {"lost of old", "1", float64(old.lost())},
	}, nil
}
