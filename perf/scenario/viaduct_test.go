// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/testenv"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

// built makes viaduct's own programs.
func built(t *testing.T) peer.Programs {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "github.com/viaduct-net/viaduct/dataplane/cmd/viaduct-dataplane",
		"github.com/viaduct-net/viaduct/control/cmd/viaduct-control", "github.com/viaduct-net/viaduct/cni/cmd/viaduct-cni")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v: %s", err, out)
	}
	return peer.Programs{
		Dataplane: filepath.Join(bin, "viaduct-dataplane"), Plugin: filepath.Join(bin, "viaduct-cni"), Reference: reference,
	}
}

// TestPodsOfViaduct takes every measure, and has every kind of subject, on one node and on two.
func TestPodsOfViaduct(t *testing.T) {
	programs := built(t)
	for _, tc := range []struct {
		apart    bool
		subjects []string
		measures []string
	}{
		{false, []string{"trunk", "direct"}, PlainPodMeasures()},
		{false, []string{"trunk"}, []string{"visit", "table"}},
		{false, []string{"trunk-ports", "trunk-service", "trunk-off", "trunk-polling"}, []string{"crr"}},
		{true, []string{"trunk", "trunk-shared", "trunk-owned"}, []string{"stream1500"}},
	} {
		p := Pods{
			Comparison: comparison(t, tc.subjects...), Measures: tc.measures, Flows: 100, Apart: tc.apart,
			Tables: []int{10, 1000}, Duration: 100 * time.Millisecond,
		}
		p.Programs = programs
		var doc report.Document
		if err := p.Run(context.Background(), &doc); err != nil {
			t.Fatal(err)
		}
		for _, subject := range p.Subjects {
			for _, measure := range p.Measures {
				metric := map[string]string{
					"rr": "transactions", "crr": "transactions", "visit": "first latency p50", "table": "1000: hooks",
				}[measure]
				if metric == "" {
					metric = "throughput"
				}
				name := podMeasures[measure].resultName(&p)
				if median(&doc, name, subject, metric) <= 0 {
					t.Errorf("%s: no %s of %s", name, metric, subject)
				}
			}
		}
	}
}

// TestPolicyOfViaduct takes every measure with policies that all select the pod, and with such as mostly do not.
func TestPolicyOfViaduct(t *testing.T) {
	p := policyOf(t, "trunk", "trunk-own")
	p.Programs = built(t)
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range p.Subjects {
		for _, metric := range []string{"udp throughput", "rr latency p99", "crr transactions", "change p50"} {
			if median(&doc, "policy/300", subject, metric+"/policy/2") <= 0 {
				t.Errorf("no scaling of %s of %s", metric, subject)
			}
		}
	}
}

// TestFloodOfViaduct: its table has what it is flooded with.
func TestFloodOfViaduct(t *testing.T) {
	f := floodOf(t, "trunk")
	f.Programs = built(t)
	doc := f.floods(t)
	for _, origin := range FloodOrigins() {
		opened := median(doc, "flood/"+origin, "trunk", "table: opened")
		without := median(doc, "flood/"+origin, "trunk", "table: without entry")
		if opened+without < 500 {
			t.Errorf("flood from %s: %v flows were opened, and %v were without entry", origin, opened, without)
		}
	}
}

// TestCNIOfViaduct: what comes with pods goes with them.
func TestCNIOfViaduct(t *testing.T) {
	testenv.Root(t)
	c := CNI{
		Subjects: []string{"trunk", "direct", "bridge"}, Programs: built(t), Adds: 3, Pods: 2, Parallel: 3, Memory: 12,
		Runs: 1, Progress: t.Output(),
	}
	var doc report.Document
	if err := c.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"trunk", "direct"} {
		if add := median(&doc, "cni/pods2", subject, "add"); add <= 0 {
			t.Errorf("ADD of %s took %v", subject, add)
		}
		if r := find(t, &doc, subject, "map entries left"); r.Median != 0 {
			t.Errorf("%s leaves %v entries in maps", subject, r.Median)
		}
	}
}
