// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/perf/report"
)

// choose is the binomial coefficient, by Pascal's triangle.
func choose(n, k int) float64 {
	if k == 0 || k == n {
		return 1
	}
	return choose(n-1, k-1) + choose(n-1, k)
}

// TestSummarize compares with the definition, spelled out: the narrowest pair of ranks that keeps 95 %.
func TestSummarize(t *testing.T) {
	for n := 1; n <= 18; n++ {
		sample := make([]float64, n)
		for i := range sample {
			sample[(i*7)%n] = 0
		}
		for i := range sample {
			sample[i] = float64((i*5+3)%n + 1) // 1 to n in some order when 5 does not divide n
		}
		if n%5 == 0 {
			for i := range sample {
				sample[i] = float64(n - i)
			}
		}
		wantK, wantCover := 1, 0.0
		for k := 1; k <= (n+1)/2; k++ {
			tail := 0.0
			for i := range k {
				tail += choose(n, i) * math.Pow(0.5, float64(n))
			}
			if k == 1 || 1-2*tail >= 0.95 {
				wantK, wantCover = k, 1-2*tail
			}
		}
		median, low, high, cover := report.Summarize(sample)
		if want := float64(n+1) / 2; median != want {
			t.Errorf("n=%d: median %v, want %v", n, median, want)
		}
		if low != float64(wantK) || high != float64(n+1-wantK) {
			t.Errorf("n=%d: interval %v to %v, want %d to %d", n, low, high, wantK, n+1-wantK)
		}
		if math.Abs(cover-math.Max(0, wantCover)) > 1e-9 {
			t.Errorf("n=%d: coverage %v, want %v", n, cover, wantCover)
		}
	}
	if m, _, _, _ := report.Summarize(nil); !math.IsNaN(m) {
		t.Errorf("median of nothing: %v", m)
	}
}

func TestSummarizeKeepsTheOrderOfRuns(t *testing.T) {
	runs := []float64{3, 1, 2}
	r := report.NewResult("n", "s", "m", "u", runs)
	if r.Median != 2 || r.Runs[0] != 3 || r.Runs[1] != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestRatioIsByRound(t *testing.T) {
	// Medians would say 20/20 = 1. In each round a is twice b.
	a := report.NewResult("f", "a", "throughput", "pps", []float64{20, 40, 2})
	b := report.NewResult("f", "b", "throughput", "pps", []float64{10, 20, 1})
	r := report.Ratio(a, b)
	if r.Median != 2 || r.Low != 2 || r.High != 2 || r.Subject != "a" || r.Metric != "throughput/b" {
		t.Errorf("got %+v", r)
	}
	if d := report.Difference(a, b); d.Median != 10 || d.High != 20 || d.Metric != "throughput - b" || d.Unit != "pps" {
		t.Errorf("difference is %+v", d)
	}
	if r := report.Ratio(a, report.NewResult("f", "b", "throughput", "pps", []float64{0})); r.Median != 0 {
		t.Errorf("division by zero gave %+v", r)
	}
}

func TestJSON(t *testing.T) {
	d := report.Document{
		Machine: report.ThisMachine(), Settings: map[string]any{"size": 64},
		Results: []report.Result{report.NewResult("forward/udp64", "viaduct", "throughput", "pps", []float64{1, 2, 3})},
	}
	var buf bytes.Buffer
	if err := d.Write(&buf, "json"); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"machine", "settings", "results"} {
		if got[key] == nil {
			t.Errorf("no %q in %s", key, buf.String())
		}
	}
	if machine := got["machine"].(map[string]any); machine["kernel"] == "" || machine["cpus"].(float64) < 1 {
		t.Errorf("machine is %v", machine)
	}
	result := got["results"].([]any)[0].(map[string]any)
	for key, want := range map[string]any{
		"name": "forward/udp64", "subject": "viaduct", "metric": "throughput", "unit": "pps", "median": 2.0, "low": 1.0,
		"high": 3.0,
	} {
		if result[key] != want {
			t.Errorf("%s is %v, want %v", key, result[key], want)
		}
	}
	if runs := result["runs"].([]any); len(runs) != 3 || runs[2] != 3.0 {
		t.Errorf("runs are %v", runs)
	}
}

func TestText(t *testing.T) {
	d := report.Document{
		Results: []report.Result{report.NewResult("forward/udp64", "kernel", "throughput", "pps", []float64{1234567})},
		Notes:   []string{"testpmd: not installed"},
	}
	var buf bytes.Buffer
	if err := d.Write(&buf, "text"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"forward/udp64", "kernel", "1234567", "testpmd: not installed"} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("no %q in:\n%s", want, buf.String())
		}
	}
}
