// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/perf/report"
)

// byCount measures subjects with few and with many of a kind of object, in rounds in which they take turns.
type byCount struct {
	kind     string // of objects, by which results are named
	counts   []int  // of objects, the smallest first
	subjects []string
	runs     int
	progress io.Writer

	missing func(subject string) string // what this machine has not that it needs; empty: nothing
	once    func(ctx context.Context, subject string, count int) ([]Sample, error)
}

// asked is what is asked for of such a comparison.
type asked struct {
	kind               string   // of objects, in the plural
	subjects, measures []string // each at most once
	known              []string // measures
	counts             []int
	least              int // of objects
	runs, changes      int
	duration           time.Duration
	isSubject          func(name string) error
	canHave            func(count int) error
}

// validate says what is wrong with it.
func (a *asked) validate() error {
	for i, name := range a.subjects {
		if err := a.isSubject(name); err != nil {
			return err
		}
		if slices.Contains(a.subjects[:i], name) {
			return fmt.Errorf("subject %q is named twice", name)
		}
	}
	for i, m := range a.measures {
		if !slices.Contains(a.known, m) || slices.Contains(a.measures[:i], m) {
			return fmt.Errorf("measure %q: want each of %s at most once", m, strings.Join(a.known, ", "))
		}
	}
	for i, count := range a.counts {
		if err := a.canHave(count); err != nil {
			return err
		}
		if count < a.least || i > 0 && count <= a.counts[i-1] {
			return fmt.Errorf("%d %s: want at least %d, and the smaller number first", count, a.kind, a.least)
		}
	}
	switch {
	case len(a.subjects) == 0:
		return errors.New("no subject")
	case len(a.measures) == 0:
		return errors.New("no measure")
	case len(a.counts) == 0:
		return errors.New("no number of " + a.kind)
	case a.runs < 1 || a.changes < 1:
		return fmt.Errorf("%d runs, %d changes: want at least 1", a.runs, a.changes)
	case a.duration < 10*time.Millisecond:
		return fmt.Errorf("duration %s: want at least 10ms", a.duration)
	}
	return nil
}

// run adds results to doc.
func (m *byCount) run(ctx context.Context, doc *report.Document) error {
	var present []string
	for _, name := range m.subjects {
		if missing := m.missing(name); missing != "" {
			leftOut(doc, m.progress, name, missing)
			continue
		}
		present = append(present, name)
	}
	if len(present) == 0 {
		return errors.New("no subject is present on this machine")
	}
	all := make([]*series, len(m.counts))
	for i, count := range m.counts {
		all[i] = newSeries(fmt.Sprintf("%s/%d", m.kind, count))
	}
	for round := range m.runs {
		for i, count := range m.counts {
			for _, name := range present {
				samples, err := repeated(ctx, doc, m.progress, fmt.Sprintf("%s round %d %s", all[i].name, round+1, name),
					func() ([]Sample, error) { return m.once(ctx, name, count) })
				if err != nil {
					return err
				}
				all[i].add(name, samples)
				fmt.Fprintf(m.progress, "%s round %d/%d %s:%s\n", all[i].name, round+1, m.runs, name, sampleText(samples))
			}
		}
	}
	for _, s := range all {
		doc.Results = append(doc.Results, s.results()...)
		doc.Results = append(doc.Results, s.ratios(present)...)
	}
	doc.Results = append(doc.Results, scaling(all[0], all[len(all)-1])...)
	return nil
}

// scaling is what the numbers with many policies are to those with few, round by round.
func scaling(few, many *series) []report.Result {
	var results []report.Result
	for _, k := range many.keys {
		if _, both := few.runs[k]; !both || few == many || many.withoutRatio(k) {
			continue
		}
		r := report.Ratio(many.result(k), few.result(k))
		r.Metric = k.metric + "/" + few.name
		results = append(results, r)
	}
	return results
}
