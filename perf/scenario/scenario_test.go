// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

func comparison(t *testing.T, subjects ...string) Comparison {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	return Comparison{
		Subjects: subjects, Programs: peer.Programs{Dataplane: "/no/such/dataplane"},
		Rig: rig.Options{Queues: 1, MTU: 1500}, Routes: 50, Runs: 1, Progress: t.Output(),
	}
}

func find(t *testing.T, doc *report.Document, subject, metric string) report.Result {
	t.Helper()
	for _, r := range doc.Results {
		if r.Subject == subject && r.Metric == metric {
			return r
		}
	}
	t.Fatalf("no %s of %s in %+v", metric, subject, doc.Results)
	return report.Result{}
}

// TestForward: what is offered at a modest rate arrives, through every subject that is here, in both families.
func TestForward(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		subjects := []string{"kernel", "viaduct", "devmap"}
		if !ipv6 {
			subjects = append(subjects, "testpmd") // looks at no packet, whatever the family
		}
		f := Forward{
			Comparison: comparison(t, subjects...), Size: 100, Flows: 200, IPv6: ipv6, Rate: 10_000,
			Duration: 300 * time.Millisecond, Latency: true,
		}
		var doc report.Document
		if err := f.Run(context.Background(), &doc); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(doc.Notes, "\n"), "viaduct left out: /no/such/dataplane") {
			t.Errorf("notes do not name the subject that is missing: %q", doc.Notes)
		}
		for _, subject := range []string{"kernel", "devmap"} {
			if loss := find(t, &doc, subject, "loss"); loss.Median != 0 {
				t.Errorf("loss of %s is %v %%", subject, loss.Median)
			}
		}
		if pps := find(t, &doc, "kernel", "throughput"); pps.Median <= 0 || pps.Median > 1.2*f.Rate {
			t.Errorf("throughput is %v at a rate of %v", pps.Median, f.Rate)
		}
		if p := find(t, &doc, "kernel", "latency p50"); p.Median <= 0 {
			t.Errorf("latency is %v", p.Median)
		}
		if s, _ := peer.New("testpmd", peer.Programs{}); s.Missing(f.Rig) == "" && !ipv6 {
			find(t, &doc, "kernel", "throughput/testpmd")
		}
	}
}

func TestTCP(t *testing.T) {
	for name, run := range map[string]func(*TCP) func(context.Context, *report.Document) error{
		"throughput":   func(x *TCP) func(context.Context, *report.Document) error { return x.Stream },
		"latency p99":  func(x *TCP) func(context.Context, *report.Document) error { return x.RequestResponse },
		"transactions": func(x *TCP) func(context.Context, *report.Document) error { return x.ConnectRequestResponse },
	} {
		x := TCP{Comparison: comparison(t, "kernel"), IPv6: name == "transactions", Duration: 200 * time.Millisecond}
		var doc report.Document
		if err := run(&x)(context.Background(), &doc); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := find(t, &doc, "kernel", name); r.Median <= 0 || r.Unit == "" {
			t.Errorf("result is %+v", r)
		}
	}
}

// TestIdle: a process that spins takes more of a core than one that sleeps, which takes next to nothing.
func TestIdle(t *testing.T) {
	share := func(script string) float64 {
		path := programs(t, "echo ready\n"+script)
		i := Idle{Comparison: comparison(t, "viaduct"), Duration: 300 * time.Millisecond}
		i.Dataplane = path
		var doc report.Document
		if err := i.Run(context.Background(), &doc); err != nil {
			t.Fatal(err)
		}
		return find(t, &doc, "viaduct", "cpu").Median
	}
	if v := share("exec sleep 60\n"); v > 1 {
		t.Errorf("a sleeping process takes %v %% of a core", v)
	}
	if v := share("while :; do :; done\n"); v < 5 || v > 110 {
		t.Errorf("a spinning process takes %v %% of a core", v)
	}
}

// programs writes a dataplane, which is the shell script, and beside it a control that sleeps.
func programs(t *testing.T, script string) (dataplane string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"viaduct-dataplane": script, "viaduct-control": "exec sleep 60\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "viaduct-dataplane")
}

func TestInterruptedRunLeavesNothing(t *testing.T) {
	f := Forward{Comparison: comparison(t, "kernel"), Size: 64, Flows: 1, Duration: time.Minute}
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	before := openNamespaces(t)
	start := time.Now()
	if err := f.Run(ctx, &report.Document{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %s to stop", took)
	}
	if after := openNamespaces(t); after != before {
		t.Errorf("%d namespaces are open, were %d", after, before)
	}
}

func openNamespaces(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "net:[") {
			n++
		}
	}
	return n
}

// TestDeadSubjectIsNotWaitedFor: a subject that ends before it forwards fails at once, with its own words.
func TestDeadSubjectIsNotWaitedFor(t *testing.T) {
	path := programs(t, "echo ready; sleep 0.3; echo no memory; exit 1\n")
	f := Forward{Comparison: comparison(t, "viaduct"), Size: 64, Flows: 1, Duration: time.Second}
	f.Dataplane = path
	start := time.Now()
	err := f.Run(context.Background(), &report.Document{})
	if err == nil || !strings.Contains(err.Error(), "no memory") || time.Since(start) > passTimeout/2 {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestSeries(t *testing.T) {
	s := newSeries("forward")
	for round := 1.0; round <= 3; round++ {
		s.add("a", []Sample{{"throughput", "pps", 6 * round}, {metricLoss, "%", 1}, {metricOffered, "pps", 9}})
		s.add("b", []Sample{{"throughput", "pps", 2 * round}, {metricLoss, "%", 0}, {metricOffered, "pps", 9}})
	}
	if got := s.results(); len(got) != 6 || got[0].Median != 12 || len(got[0].Runs) != 3 {
		t.Errorf("results are %+v", got)
	}
	got := s.ratios([]string{"a", "b"})
	if len(got) != 1 || got[0].Metric != "throughput/b" || got[0].Median != 3 {
		t.Errorf("ratios are %+v", got)
	}
}

// TestRepeated: a run that fails once is noted, and one that fails twice is an error.
func TestRepeated(t *testing.T) {
	for failures, want := range []int{0, 1, 1} {
		var doc report.Document
		left := failures
		samples, err := repeated(context.Background(), &doc, t.Output(), "a", func() ([]Sample, error) {
			if left--; left >= 0 {
				return nil, errors.New("no packet")
			}
			return []Sample{{"throughput", "pps", 1}}, nil
		})
		if len(doc.Notes) != want || (err != nil) != (failures > 1) || (len(samples) == 1) != (err == nil) {
			t.Errorf("%d failures: %v, %v, notes %q", failures, samples, err, doc.Notes)
		}
	}
}

func TestProcFiles(t *testing.T) {
	stat := []byte("cpu  1 2 3 4 5 6 7 8\ncpu1 1 0 0 0 0 0 25 0\ncpu10 1 0 0 0 0 0 99 0\nintr 5\n")
	if d, err := softirqTime(stat, 1); err != nil || d != 250*time.Millisecond {
		t.Errorf("softirq time is %s, %v", d, err)
	}
	if _, err := softirqTime(stat, 2); err == nil {
		t.Error("a CPU that is not there has a time")
	}
	before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
		bytes.Repeat([]byte{1}, 1000)
	}
	after, err := processTime(os.Getpid())
	if err != nil || after <= before || after-before > 3*time.Second {
		t.Errorf("300 ms of work took %s, %v", after-before, err)
	}
}
