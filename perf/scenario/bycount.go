// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"

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
