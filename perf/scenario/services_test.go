// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/report"
)

// TestServices takes all measures of the kernel's translation, by which the client reaches the server and nothing else.
func TestServices(t *testing.T) {
	c := comparison(t, "nft-map", "nft")
	s := &Services{
		Subjects: c.Subjects, Programs: c.Programs, Counts: []int{2, 300}, Endpoints: 3, Measures: ServiceMeasures(),
		Changes: 3, Duration: 200 * time.Millisecond, Runs: 1, Progress: t.Output(),
	}
	var doc report.Document
	if err := s.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range s.Subjects {
		for _, metric := range []string{"crr transactions", "crr connect p50", "crr connect p99"} {
			for _, name := range []string{"services/2", "services/300"} {
				if median(&doc, name, subject, metric) <= 0 {
					t.Errorf("no %s of %s in %s", metric, subject, name)
				}
			}
			if median(&doc, "services/300", subject, metric+"/services/2") <= 0 {
				t.Errorf("no scaling of %s of %s", metric, subject)
			}
		}
	}
	if median(&doc, "services/300", "nft-map", "crr transactions/nft") <= 0 {
		t.Error("no ratio of nft-map to nft")
	}
	if median(&doc, "services/300", "nft-map", "change p50") <= 0 {
		t.Error("no time of a change")
	}
}

func TestServicesRefuseWhatCannotBeMeasured(t *testing.T) {
	good := Services{Subjects: []string{"nft"}, Counts: []int{2}, Endpoints: 1, Measures: []string{"crr"}, Changes: 1,
		Duration: time.Second, Runs: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Services){
		func(s *Services) { s.Subjects = []string{"kernel"} }, func(s *Services) { s.Subjects = nil },
		func(s *Services) { s.Counts = []int{10, 2} }, func(s *Services) { s.Counts = []int{1} },
		func(s *Services) { s.Counts = nil }, func(s *Services) { s.Endpoints = 0 },
		func(s *Services) { s.Measures = []string{"udp"} }, func(s *Services) { s.Changes = 0 },
		func(s *Services) { s.Duration = 0 }, func(s *Services) { s.Runs = 0 },
	} {
		s := good
		change(&s)
		if s.Validate() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
