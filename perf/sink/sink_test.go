// SPDX-License-Identifier: Apache-2.0

package sink_test

import (
	"math"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/sink"
)

func TestBucketsAreOrderedAndNarrow(t *testing.T) {
	last := -1
	for ns := time.Duration(0); ns < 1<<16; ns++ {
		b := sink.Bucket(ns)
		if b != last && b != last+1 {
			t.Fatalf("%d ns is in bucket %d, the one before in %d", ns, b, last)
		}
		last = b
	}
	if b := sink.Bucket(math.MaxInt64); b >= len(sink.Histogram{}) {
		t.Errorf("the longest time is in bucket %d", b)
	}
}

// TestQuantile: a quantile is at least the exact one, and at most an eighth more.
func TestQuantile(t *testing.T) {
	var h sink.Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	const n = 10_000
	for i := 1; i <= n; i++ {
		h[sink.Bucket(time.Duration(i)*time.Microsecond)]++
	}
	if h.Count() != n {
		t.Errorf("count is %d", h.Count())
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		exact := time.Duration(q*n) * time.Microsecond
		if got := h.Quantile(q); got < exact || got > exact+exact/8 {
			t.Errorf("quantile %v is %s, want %s to 12.5 %% more", q, got, exact)
		}
	}
	earlier := h
	h[sink.Bucket(time.Hour)]++
	h.Sub(&earlier)
	if got := h.Quantile(0.5); h.Count() != 1 || got < time.Hour {
		t.Errorf("difference has %d times, median %s", h.Count(), got)
	}
}
