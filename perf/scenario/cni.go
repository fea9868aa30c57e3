// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

// CNI is how fast pods are wired, and what a wired one costs.
type CNI struct {
	Subjects []string // names as in peer.Networks; ratios are of the first to each other one
	peer.Programs
	Adds     int // operations of each kind, at least 1
	Pods     int // that are there during the second half; 0: no second half
	Parallel int // operations at a time of the concurrent part; 0: no such part
	Memory   int // pods up to which memory is measured, more than memoryFrom; 0: it is not
	Runs     int // rounds of the concurrent part and of memory, at least 1
	Progress io.Writer
}

// maxPods is what there are surely addresses for on one node.
const maxPods = 1000

// Validate says what is wrong with the settings.
func (c *CNI) Validate() error {
	for i, name := range c.Subjects {
		if _, err := peer.NewNetwork(name, c.Programs); err != nil {
			return err
		}
		if slices.Contains(c.Subjects[:i], name) {
			return fmt.Errorf("subject %q is named twice", name)
		}
	}
	switch {
	case len(c.Subjects) == 0:
		return errors.New("no subject")
	case c.Adds < 1 || c.Runs < 1:
		return fmt.Errorf("%d adds, %d runs: want at least 1", c.Adds, c.Runs)
	case c.Pods < 0 || c.Pods+c.Adds > maxPods:
		return fmt.Errorf("%d adds beside %d pods: want at most %d together", c.Adds, c.Pods, maxPods)
	case c.Parallel < 0 || c.Parallel > c.Adds:
		return fmt.Errorf("%d in parallel: want 0 to %d, the adds", c.Parallel, c.Adds)
	case c.Memory != 0 && (c.Memory <= memoryFrom || c.Memory > maxPods):
		return fmt.Errorf("memory of %d pods: want %d to %d, or 0", c.Memory, memoryFrom+1, maxPods)
	}
	return nil
}

// Run measures all subjects and adds results to doc.
func (c *CNI) Run(ctx context.Context, doc *report.Document) error {
	if err := c.Validate(); err != nil {
		return err
	}
	var present []string
	for _, name := range c.Subjects {
		n, _ := peer.NewNetwork(name, c.Programs)
		if missing := n.Missing(); missing != "" {
			leftOut(doc, c.Progress, name, missing)
			continue
		}
		present = append(present, name)
	}
	if len(present) == 0 {
		return errors.New("no subject is present on this machine")
	}
	if err := c.latency(ctx, doc, present); err != nil {
		return err
	}
	if c.Memory == 0 {
		return nil
	}
	return c.memory(ctx, doc, present)
}

// latency has all subjects stand beside each other, each with a node of its own, and operate in turns.
func (c *CNI) latency(ctx context.Context, doc *report.Document, subjects []string) (err error) {
	var nodes []*podNode
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.close())
		}
	}()
	for _, name := range subjects {
		n, err := newPodNode(ctx, name, c.Programs)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	if err := c.turns(ctx, doc, "cni/version", c.Adds, nodes, version); err != nil {
		return err
	}
	if err := c.turns(ctx, doc, "cni/pods0", c.Adds, nodes, addAndDel); err != nil {
		return err
	}
	if c.Parallel > 0 {
		name := fmt.Sprintf("cni/parallel%d", c.Parallel)
		if err := c.turns(ctx, doc, name, c.Runs, nodes, c.concurrently); err != nil {
			return err
		}
	}
	if c.Pods == 0 {
		return nil
	}
	for _, n := range nodes {
		if err := n.grow(ctx, c.Pods); err != nil {
			return err
		}
	}
	return c.turns(ctx, doc, fmt.Sprintf("cni/pods%d", c.Pods), c.Adds, nodes, addAndDel)
}

// turns measures the nodes round by round, in each round beginning with another one, and adds results to doc.
func (c *CNI) turns(ctx context.Context, doc *report.Document, name string, rounds int, nodes []*podNode,
	measure func(*podNode) ([]Sample, error)) error {
	s := newSeries(name)
	for round := range rounds {
		for i := range nodes {
			n := nodes[(round+i)%len(nodes)]
			if err := ctx.Err(); err != nil {
				return err
			}
			samples, err := measure(n)
			if err != nil {
				return fmt.Errorf("%s, %s, round %d: %w", name, n.name(), round+1, err)
			}
			s.add(n.name(), samples)
		}
	}
	var subjects []string
	for _, n := range nodes {
		subjects = append(subjects, n.name())
	}
	c.conclude(doc, s, s.ratios(subjects))
	return nil
}

// conclude adds what was measured, and how subjects compare, to doc, and says it.
func (c *CNI) conclude(doc *report.Document, s *series, comparisons []report.Result) {
	results := append(s.results(), comparisons...)
	for _, r := range results {
		fmt.Fprintf(c.Progress, "%s %s: %s %.4g %s\n", r.Name, r.Subject, r.Metric, r.Median, r.Unit)
	}
	doc.Results = append(doc.Results, results...)
}

func version(n *podNode) ([]Sample, error) {
	took, err := n.network.Version()
	return []Sample{{"version", "ms", milliseconds(took)}}, err
}

// addAndDel wires a pod and takes its wiring away.
func addAndDel(n *podNode) ([]Sample, error) {
	pods, err := n.newPods(1)
	if err != nil {
		return nil, err
	}
	add, err := n.network.Add(pods[0])
	if err != nil {
		return nil, err
	}
	del, err := n.network.Del(pods[0])
	return []Sample{{"add", "ms", milliseconds(add)}, {"del", "ms", milliseconds(del)}}, err
}

// concurrently wires many pods, a few at a time, and takes all away again.
func (c *CNI) concurrently(n *podNode) ([]Sample, error) {
	pods, err := n.newPods(c.Adds)
	if err != nil {
		return nil, err
	}
	var samples []Sample
	for _, op := range []struct {
		name string
		run  func(*peer.Pod) (time.Duration, error)
	}{{"add", n.network.Add}, {"del", n.network.Del}} {
		all, each, err := abreast(c.Parallel, pods, op.run)
		if err != nil {
			return nil, err
		}
		samples = append(samples, Sample{op.name, "ms", milliseconds(each)},
			Sample{fmt.Sprintf("%s of %d", op.name, len(pods)), "ms", milliseconds(all)})
	}
	return samples, nil
}
