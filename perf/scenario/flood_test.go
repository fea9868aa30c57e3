// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

func floodOf(t *testing.T, subject string) *Flood {
	t.Helper()
	comparison(t)
	return &Flood{
		Subjects: []string{subject}, Programs: peer.Programs{Reference: reference}, Origins: FloodOrigins(), Rate: 5000,
		Probes: 200, Duration: 300 * time.Millisecond, Runs: 1, Progress: t.Output(),
	}
}

// floods checks that a modest flood arrives, and that what went on beside it went on.
func (f *Flood) floods(t *testing.T) *report.Document {
	t.Helper()
	var doc report.Document
	if err := f.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, origin := range f.Origins {
		for _, metric := range []string{
			metricOffered, "passed", "established, pods: p50 before", "established, world: p99 meanwhile",
			"new, pods: succeeded before", "new, world: succeeded meanwhile",
		} {
			if v := median(&doc, "flood/"+origin, f.Subjects[0], metric); v <= 0 {
				t.Errorf("flood from %s: %s is %v", origin, metric, v)
			}
		}
	}
	return &doc
}

// TestFlood: the kernel tracks what it is flooded with.
func TestFlood(t *testing.T) {
	doc := floodOf(t, "kernel").floods(t)
	for _, origin := range FloodOrigins() {
		if v := median(doc, "flood/"+origin, "kernel", "table: flows"); v < 500 {
			t.Errorf("flood from %s: the table has %v flows", origin, v)
		}
	}
}

func TestConntrackSamples(t *testing.T) {
	samples, err := conntrackSamples("entries  clashres found drop early_drop insert_failed\n" +
		"000000ff  00 00 00000001 00000010 00000000\n000000ff  00 00 00000002 00000001 00000000\n")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{255, 3, 17, 0} {
		if samples[i].Value != want {
			t.Errorf("%s is %v, want %v", samples[i].Metric, samples[i].Value, want)
		}
	}
	for _, bad := range []string{"entries\nxyz\n", "entries\n01 02\n"} {
		if _, err := conntrackSamples(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestProbeSamples: what failed is told, and of times alone where there are some.
func TestProbeSamples(t *testing.T) {
	p := probe{name: "new", tried: [phases]int{before: 4, meanwhile: 3}}
	p.times[before] = []time.Duration{3000, 1000, 2000}
	got := p.samples(before)
	if len(got) != 3 || got[0].Value != 75 || got[1].Value != 2 || got[2].Value != 2 {
		t.Errorf("samples are %+v", got)
	}
	p.lossy = true
	if got := p.samples(meanwhile); len(got) != 1 || got[0].Value != 100 || !strings.Contains(got[0].Metric, "loss") {
		t.Errorf("samples are %+v", got)
	}
}

func TestFloodRefusesWhatCannotBeMeasured(t *testing.T) {
	good := Flood{Subjects: []string{"kernel"}, Origins: []string{"pod"}, Probes: 1, Duration: time.Second, Runs: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Flood){
		func(f *Flood) { f.Subjects = []string{"nft"} }, func(f *Flood) { f.Origins = nil },
		func(f *Flood) { f.Origins = []string{"pod", "pod"} }, func(f *Flood) { f.Probes = 0 },
		func(f *Flood) { f.Rate = -1 }, func(f *Flood) { f.Runs = 0 }, func(f *Flood) { f.Duration = 0 },
	} {
		f := good
		change(&f)
		if f.Validate() == nil {
			t.Errorf("%+v was taken", f)
		}
	}
}
