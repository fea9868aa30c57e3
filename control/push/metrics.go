// SPDX-License-Identifier: Apache-2.0

package push

import "github.com/prometheus/client_golang/prometheus"

// metrics are those that count what happened; the others are read off when they are collected.
type metrics struct {
	compileSeconds, ackSeconds prometheus.Histogram
	snapshots, deltas, nacks   prometheus.Counter
}

func newMetrics() metrics {
	sent := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "viaduct_control_snapshots_total", Help: "Snapshots sent to the dataplane, whole and as deltas.",
	}, []string{"kind"})
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		})
	}
	return metrics{
		compileSeconds: seconds("viaduct_control_compile_seconds", "Time that a compilation took."),
		ackSeconds:     seconds("viaduct_control_ack_seconds", "Time from sending a snapshot until its ack."),
		snapshots:      sent.WithLabelValues("whole"),
		deltas:         sent.WithLabelValues("delta"),
		nacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "viaduct_control_nacks_total", Help: "Snapshots that the dataplane refused.",
		}),
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("viaduct_control_"+name, help, labels, nil)
}

var (
	objectsDesc   = describe("objects", "Objects that are in force, by kind.", "kind")
	refusedDesc   = describe("refused", "Manifests, objects and fields that are refused.")
	epochDesc     = describe("epoch", "Epoch of the newest snapshot.")
	ackedDesc     = describe("acked_epoch", "Epoch that a dataplane acked last.")
	inStepDesc    = describe("source_in_step", "Whether the source has said all that it holds, and is being watched.")
	eventsDesc    = describe("events_total", "Events of the source.")
	closedDesc    = describe("closed_ports", "Ports that the dataplane has in force and that do not forward.")
	connectedDesc = describe("follower_connected", "Whether a dataplane follows.")
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	m := s.metrics
	for _, c := range []prometheus.Metric{m.compileSeconds, m.ackSeconds, m.snapshots, m.deltas, m.nacks} {
		ch <- c
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	state, said := s.state.Load(), s.intake.saying()
	for kind, n := range state.objects {
		gauge(objectsDesc, float64(n), kind)
	}
	gauge(refusedDesc, float64(len(said.errors)+len(state.errors)+len(s.refusedElsewhere())))
	gauge(epochDesc, float64(state.epoch))
	gauge(ackedDesc, float64(state.acked))
	gauge(inStepDesc, number(said.inStep))
	gauge(closedDesc, float64(len(state.closed)))
	gauge(connectedDesc, number(state.follower != nil))
	ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(said.events))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
