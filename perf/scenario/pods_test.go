// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

// reference is where Debian's containernetworking-plugins are.
const reference = "/usr/lib/cni"

// TestPods takes every measure of the reference plugins, of the kernel and of nothing but a veth pair.
func TestPods(t *testing.T) {
	p := Pods{
		Comparison: comparison(t, "bridge", "ptp", "kernel", "kernel-dnat", "veth"), Measures: PlainPodMeasures(),
		Flows: 100, Of: []string{"veth"}, Duration: 100 * time.Millisecond,
	}
	p.Programs = peer.Programs{Reference: reference}
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range p.Subjects {
		for _, want := range [][2]string{
			{"pods/udp64", "throughput"}, {"pods/stream/mtu1500", "throughput"}, {"pods/stream/mtu65535", "throughput"},
			{"pods/rr/mtu1500", "latency p50"}, {"pods/rr/mtu1500", "latency p99"}, {"pods/crr/mtu1500", "transactions"},
		} {
			if v := median(&doc, want[0], subject, want[1]); v <= 0 {
				t.Errorf("%s: %s of %s is %v", want[0], want[1], subject, v)
			}
		}
	}
	for _, of := range [][2]string{{"bridge", "kernel"}, {"veth", "bridge"}, {"veth", "kernel-dnat"}} {
		if median(&doc, "pods/udp64", of[0], "throughput/"+of[1]) <= 0 {
			t.Errorf("no ratio of %s to %s", of[0], of[1])
		}
	}
}

// TestPodsApart takes every measure that there is between two nodes, of the kernel.
func TestPodsApart(t *testing.T) {
	p := Pods{
		Comparison: comparison(t, "ptp"), Measures: []string{"udp", "stream1500", "rr", "crr"}, Flows: 100, Apart: true,
		Duration: 100 * time.Millisecond,
	}
	p.Programs = peer.Programs{Reference: reference}
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for name, metric := range map[string]string{
		"nodes/udp64": "throughput", "nodes/stream/mtu1500": "throughput", "nodes/rr/mtu1500": "latency p50",
		"nodes/crr/mtu1500": "transactions",
	} {
		if v := median(&doc, name, "ptp", metric); v <= 0 {
			t.Errorf("%s: %s is %v", name, metric, v)
		}
	}
}

// TestFirstPackets: the kernel's connection tracking has a first packet take some time more, and so there is a
// difference.
func TestFirstPackets(t *testing.T) {
	p := Pods{
		Comparison: comparison(t, "kernel-dnat"), Measures: []string{"visit"}, Flows: 1, Duration: 300 * time.Millisecond,
	}
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	carried := median(&doc, "pods/visit", "kernel-dnat", "carried latency p50")
	first := median(&doc, "pods/visit", "kernel-dnat", "first latency p50")
	if carried <= 0 || first <= 0 {
		t.Errorf("packets of a flow took %v, and first ones %v", carried, first)
	}
	if v := median(&doc, "pods/visit", "kernel-dnat", metricVisit); v != first-carried {
		t.Errorf("the difference is %v, of %v and %v", v, first, carried)
	}
}

// TestTableSizes: both sizes are measured, and compared. No eBPF program is on the kernel's way.
func TestTableSizes(t *testing.T) {
	p := Pods{
		Comparison: comparison(t, "kernel"), Measures: []string{"table"}, Flows: 1, Tables: []int{10, 20_000},
		Duration: 200 * time.Millisecond,
	}
	var doc report.Document
	if err := p.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, metric := range []string{"10: throughput", "20000: throughput", "20000: cpu to that of 10"} {
		if v := median(&doc, "pods/table", "kernel", metric); v <= 0 {
			t.Errorf("%s is %v", metric, v)
		}
	}
	if v := median(&doc, "pods/table", "kernel", "10: hooks"); v != 0 {
		t.Errorf("hooks took %v", v)
	}
}

// median is that of a result, 0 if there is none.
func median(doc *report.Document, name, subject, metric string) float64 {
	for _, r := range doc.Results {
		if r.Name == name && r.Subject == subject && r.Metric == metric {
			return r.Median
		}
	}
	return 0
}
