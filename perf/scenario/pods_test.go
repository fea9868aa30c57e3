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

// TestPods takes every measure of the reference plugins and of the kernel.
func TestPods(t *testing.T) {
	p := Pods{
		Comparison: comparison(t, "bridge", "ptp", "kernel"), Measures: PodMeasures(), Flows: 100,
		Duration: 100 * time.Millisecond,
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
	if median(&doc, "pods/udp64", "bridge", "throughput/kernel") <= 0 {
		t.Error("no ratio of bridge to kernel")
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
