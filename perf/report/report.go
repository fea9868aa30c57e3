// SPDX-License-Identifier: Apache-2.0

// Package report is what a measurement prints: one document with the machine, the settings and the results.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Document is the output of one command.
type Document struct {
	Machine  Machine        `json:"machine"`
	Settings map[string]any `json:"settings"`
	Results  []Result       `json:"results"`
	Notes    []string       `json:"notes,omitempty"` // what was left out and why, how a number was computed
}

// Result is one metric of one subject. Subjects of the same Name are peers, measured in turns.
type Result struct {
	Name    string    `json:"name"`    // what was done: forward/udp64
	Subject string    `json:"subject"` // by whom: viaduct
	Metric  string    `json:"metric"`  // throughput
	Unit    string    `json:"unit"`    // pps
	Median  float64   `json:"median"`
	Low     float64   `json:"low"` // Low to High is the 95 % confidence interval of the median; see Coverage
	High    float64   `json:"high"`
	Runs    []float64 `json:"runs"` // one value each, in the order of the rounds

	// Coverage is the confidence that the interval really has: with fewer than six runs the whole range has less
	// than 95 %.
	Coverage float64 `json:"coverage"`
}

// NewResult summarises runs, of which there must be at least one.
func NewResult(name, subject, metric, unit string, runs []float64) Result {
	r := Result{Name: name, Subject: subject, Metric: metric, Unit: unit, Runs: runs}
	r.Median, r.Low, r.High, r.Coverage = Summarize(runs)
	return r
}

// Summarize gives the median of a sample and its confidence interval by order statistics, which supposes nothing
// about the distribution: between the k-th smallest and the k-th largest value the median lies with probability
// 1 - 2·P(B < k), B binomial(n, 1/2). k is the largest that leaves 95 %; where none does, k is 1.
func Summarize(sample []float64) (median, low, high, coverage float64) {
	n := len(sample)
	if n == 0 {
		return math.NaN(), math.NaN(), math.NaN(), 0
	}
	s := slices.Sorted(slices.Values(sample))
	median = s[n/2]
	if n%2 == 0 {
		median = (s[n/2-1] + s[n/2]) / 2
	}
	k, term, tail := 1, math.Pow(0.5, float64(n)), math.Pow(0.5, float64(n)) // tail is P(B < k)
	coverage = 1 - 2*tail
	for next := k; next < n/2; next++ {
		term *= float64(n-next+1) / float64(next)
		if tail += term; 1-2*tail < 0.95 {
			break
		}
		k, coverage = next+1, 1-2*tail
	}
	return median, s[k-1], s[n-k], max(0, coverage)
}

// Ratio divides a by b round by round and summarises the quotients: what disturbed a whole round cancels out.
func Ratio(a, b Result) Result {
	runs := make([]float64, 0, len(a.Runs))
	for i := range min(len(a.Runs), len(b.Runs)) {
		if b.Runs[i] != 0 {
			runs = append(runs, a.Runs[i]/b.Runs[i])
		}
	}
	if len(runs) == 0 {
		runs = append(runs, 0)
	}
	return NewResult(a.Name, a.Subject, a.Metric+"/"+b.Subject, "ratio", runs)
}

// Difference takes b from a round by round and summarises what is left.
func Difference(a, b Result) Result {
	runs := make([]float64, min(len(a.Runs), len(b.Runs)))
	for i := range runs {
		runs[i] = a.Runs[i] - b.Runs[i]
	}
	return NewResult(a.Name, a.Subject, a.Metric+" - "+b.Subject, a.Unit, runs)
}

// Write prints the document as "json" or as "text".
func (d *Document) Write(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(d)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSUBJECT\tMETRIC\tMEDIAN\tLOW\tHIGH\tUNIT\tRUNS")
	for _, r := range d.Results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Name, r.Subject, r.Metric, number(r.Median),
			number(r.Low), number(r.High), r.Unit, len(r.Runs))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	notes := append([]string{d.Machine.String()}, d.Notes...)
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	return err
}

// number prints four significant digits, and whole numbers above.
func number(v float64) string {
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4g", v)
}
