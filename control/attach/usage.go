// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
)

// Pools says how much of each pod CIDR is leased, in the order in which they are used.
func (s *Service) Pools() (list []*api.Pool) {
	for _, u := range s.store.Usage() {
		list = append(list, &api.Pool{Prefix: u.Prefix.String(), Size: u.Size, Leased: u.Leased, Retired: u.Retired})
	}
	return list
}

// nearly is the share of a pool's addresses from which on it is nearly exhausted.
const nearly = 0.9

// scarce are the pools that are nearly exhausted, and of which that was said.
type scarce struct {
	mu   sync.Mutex
	said map[netip.Prefix]bool
}

// watch warns, once each time, of pools that are nearly exhausted.
func (s *Service) watch() {
	s.scarce.mu.Lock()
	defer s.scarce.mu.Unlock()
	said := map[netip.Prefix]bool{}
	for _, u := range s.store.Usage() {
		if u.Retired || share(u) < nearly {
			continue
		}
		if said[u.Prefix] = true; !s.scarce.said[u.Prefix] {
			s.log.Warn("a pod CIDR is nearly exhausted", zap.Stringer("prefix", u.Prefix), zap.Uint64("leased", u.Leased),
				zap.Uint64("size", u.Size))
		}
	}
	s.scarce.said = said
}

// metrics are those that count what happened; the others are read off when they are collected.
type metrics struct{ seconds *prometheus.HistogramVec }

func newMetrics() metrics {
	return metrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "viaduct_attach_seconds", Help: "Time that calls of the CNI plugin took, by what they came to.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	}, []string{"op", "result"})}
}

// observe is to be deferred with the time at which the call began.
func (m metrics) observe(op string, begin time.Time, err *error) {
	result := strings.ToLower(status.Code(*err).String())
	m.seconds.WithLabelValues(op, result).Observe(time.Since(begin).Seconds())
}

var (
	addressesDesc = prometheus.NewDesc("viaduct_addresses", "Addresses for pods, by pod CIDR and state.",
		[]string{"pool", "state"}, nil)
	attachmentsDesc = prometheus.NewDesc("viaduct_attachments", "Interfaces of pods that are attached.", nil, nil)
)

// Metrics are those of the service, for a registry.
func (s *Service) Metrics() prometheus.Collector { return collector{s} }

type collector struct{ *Service }

// Describe implements prometheus.Collector.
func (s collector) Describe(ch chan<- *prometheus.Desc) {
	s.metrics.seconds.Describe(ch)
	ch <- addressesDesc
	ch <- attachmentsDesc
}

// Collect implements prometheus.Collector.
func (s collector) Collect(ch chan<- prometheus.Metric) {
	s.metrics.seconds.Collect(ch)
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	for _, u := range s.store.Usage() {
		gauge(addressesDesc, float64(u.Leased), u.Prefix.String(), "leased")
		gauge(addressesDesc, float64(u.Size-min(u.Leased, u.Size)), u.Prefix.String(), "free")
	}
	gauge(attachmentsDesc, float64(s.store.Len()))
}
