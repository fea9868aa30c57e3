// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/perf/report"
)

var noRatio = []string{metricLoss, metricOffered, metricOthers, metricVisit}

// series gathers the samples of all rounds, in the order in which subjects and metrics first came.
type series struct {
	name string
	keys []key
	runs map[key][]float64
}

type key struct{ subject, metric, unit string }

func newSeries(name string) *series { return &series{name: name, runs: map[key][]float64{}} }

// repeated takes a run again, once, when it fails: so that hours of rounds are not lost to one. It is noted.
func repeated(ctx context.Context, doc *report.Document, progress io.Writer, name string, run func() ([]Sample, error),
) ([]Sample, error) {
	samples, err := run()
	if err == nil || ctx.Err() != nil {
		return samples, err
	}
	note := fmt.Sprintf("%s failed and was taken again: %v", name, err)
	doc.Notes = append(doc.Notes, note)
	fmt.Fprintln(progress, note)
	if samples, err = run(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return samples, nil
}

func (s *series) add(subject string, samples []Sample) {
	for _, v := range samples {
		k := key{subject, v.Metric, v.Unit}
		if _, known := s.runs[k]; !known {
			s.keys = append(s.keys, k)
		}
		s.runs[k] = append(s.runs[k], v.Value)
	}
}

func (s *series) results() []report.Result {
	var results []report.Result
	for _, k := range s.keys {
		results = append(results, s.result(k))
	}
	return results
}

func (s *series) result(k key) report.Result {
	return report.NewResult(s.name, k.subject, k.metric, k.unit, s.runs[k])
}

// ratios are those of the first subject to each other one, by round, for each metric that both have. Loss has none,
// as it is zero when all is well, nor what is not the subject's: what was offered, and other load.
func (s *series) ratios(subjects []string) []report.Result { return s.against(subjects, report.Ratio) }

// differences are those of the first subject less each other one, likewise.
func (s *series) differences(subjects []string) []report.Result {
	return s.against(subjects, report.Difference)
}

// withoutRatio says so of metrics by the ends of their names, and of all shares and ratios, and of what lies in tables.
func (*series) withoutRatio(k key) bool {
	return k.unit == "%" || k.unit == "flows" || k.unit == "ratio" ||
		slices.ContainsFunc(noRatio, func(name string) bool { return strings.HasSuffix(k.metric, name) })
}

func (s *series) against(subjects []string, compare func(a, b report.Result) report.Result) []report.Result {
	var results []report.Result
	for _, k := range s.keys {
		if k.subject != subjects[0] || s.withoutRatio(k) {
			continue
		}
		for _, other := range subjects[1:] {
			o := key{other, k.metric, k.unit}
			if _, known := s.runs[o]; known {
				results = append(results, compare(s.result(k), s.result(o)))
			}
		}
	}
	return results
}
