// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

// Collector gives the forwarder's books to Prometheus, read afresh at each scrape.
type Collector struct{ f *Forwarder }

// NewCollector returns a collector of the forwarder's metrics.
func NewCollector(f *Forwarder) *Collector { return &Collector{f} }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("viaduct_"+name, help, labels, nil)
}

var (
	epochDesc      = describe("epoch", "Epoch of the tables in force.")
	routesDesc     = describe("routes", "Routes in force.")
	identityDesc   = describe("identities", "Identities in force.")
	neighborsDesc  = describe("neighbors", "Entries of the neighbour cache.")
	policiesDesc   = describe("policies", "Policies in force.")
	flowsDesc      = describe("flows", "Flows that are tracked.")
	flowRoomDesc   = describe("flows_capacity", "Flows that may be tracked.")
	halfOpenDesc   = describe("flows_half_open", "Tracked flows that nobody has answered yet.")
	flowDesc       = describe("flow_events_total", "What became of flows.", "event")
	refusedDesc    = describe("flows_refused_total", "Flows not let in for want of room, by what was full.", "limit")
	translatedDesc = describe("flows_translated", "Tracked flows whose ends are translated.")
	servicesDesc   = describe("services", "Ports of services in force, of both families.")
	serviceDesc    = describe("service_flows_total", "Flows to services, by what became of them.", "outcome")
	ejectedDesc    = describe("service_backends_ejected", "Backends that no flow is sent to for their failures.")
	ejectionsDesc  = describe("service_ejections_total", "How often a backend was ejected.")
	conflictsDesc  = describe("service_conflicts", "Frontends that another service has.")
	affinityDesc   = describe("service_affinity_clients", "Clients whose backend is remembered.")
	evictionsDesc  = describe("service_affinity_evictions_total", "Clients forgotten before their time for want of room.")
	receivedDesc   = describe("received_packets_total", "Packets taken from rx rings.", "port")
	rxBytesDesc    = describe("received_bytes_total", "Bytes of them, Ethernet header included.", "port")
	sentDesc       = describe("transmitted_packets_total", "Packets given to tx rings.", "port")
	txBytesDesc    = describe("transmitted_bytes_total", "Bytes of them.", "port")
	heldDesc       = describe("held_packets", "Packets that wait for a neighbour.", "port")
	packetsDesc    = describe("packets_total", "Packets received, by verdict and reason.", "port", "verdict", "reason")
	dropsDesc      = describe("drops_total", "Packets dropped, by reason.", "port", "reason")
	hookDesc       = describe("hook_packets_total", "Packets seen by the hook, by what it did.", "port", "action")
	framesDesc     = describe("frames_free", "Free frames of the worker's UMEM.", "worker")
	offloadDesc    = describe("offload_flows", "Flows that the kernel carries, by kind of record.", "kind")
	offloadRoom    = describe("offload_flows_capacity", "Flows that the kernel may carry.")
	offloadEvents  = describe("offload_events_total", "What became of flows that the kernel carries.", "event")
	portCarried    = describe("offload_port_flows", "Flows that the kernel carries, by the port that opened them.", "port")
	portShare      = describe("offload_port_events_total", "Flows kept out by the port's share of the table.", "port",
		"event")
	walksDesc   = describe("offload_walks_total", "Walks over the carried flows after changes.")
	walkDesc    = describe("offload_walk_seconds", "How long the last walk over the carried flows took.")
	settleDesc  = describe("offload_settle_seconds", "From the last change until nothing was carried against it.")
	balanceDesc = describe("ledger_difference", "Received less forwarded, consumed, dropped and held: 0 is right.")
)

// changeMetrics count what became of snapshots and deltas.
type changeMetrics struct {
	apply     prometheus.Histogram
	nacks     prometheus.Counter
	snapshots [2]prometheus.Counter // by kind
}

func newChangeMetrics() changeMetrics {
	applied := func(kind string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "viaduct_snapshots_total",
			Help: "Whole snapshots and deltas put in force.", ConstLabels: prometheus.Labels{"kind": kind}})
	}
	return changeMetrics{
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "viaduct_apply_seconds",
			Help:    "How long snapshots and deltas took until they were in force.",
			Buckets: prometheus.ExponentialBuckets(1e-5, 4, 10)}), // 10 us to 2.6 s
		nacks: prometheus.NewCounter(prometheus.CounterOpts{Name: "viaduct_nacks_total",
			Help: "Snapshots and deltas refused."}),
		snapshots: [2]prometheus.Counter{wholes: applied("snapshot"), deltas: applied("delta")},
	}
}

// collectors lists them.
func (m *changeMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.apply, m.nacks, m.snapshots[wholes], m.snapshots[deltas]}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		epochDesc, routesDesc, identityDesc, neighborsDesc, policiesDesc, flowsDesc, flowRoomDesc, halfOpenDesc, flowDesc,
		refusedDesc, translatedDesc, servicesDesc, serviceDesc, ejectedDesc, ejectionsDesc, conflictsDesc, affinityDesc,
		evictionsDesc,
		receivedDesc, rxBytesDesc, sentDesc, txBytesDesc, heldDesc,
		packetsDesc, dropsDesc, hookDesc, framesDesc, balanceDesc, offloadDesc, offloadRoom, offloadEvents, walksDesc,
		portCarried, portShare,
		walkDesc, settleDesc,
	} {
		ch <- d
	}
	for _, m := range c.f.metrics.collectors() {
		m.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, m := range c.f.metrics.collectors() {
		m.Collect(ch)
	}
	s := c.f.Status()
	gauge(epochDesc, float64(s.Epoch))
	gauge(routesDesc, float64(s.Routes))
	gauge(identityDesc, float64(s.Identities))
	gauge(neighborsDesc, float64(s.Neighbors))
	gauge(policiesDesc, float64(s.Policies))
	if s.FlowTable != nil {
		collectFlows(ch, s.FlowTable)
	}
	if s.Offload.GetCapacity() > 0 {
		collectOffload(ch, s.Offload, s.Ports)
	}
	c.f.collectServices(ch)
	for _, w := range s.Workers {
		gauge(framesDesc, float64(w.FramesFree), strconv.Itoa(int(w.Id)))
	}
	report := c.f.Report("")
	gauge(balanceDesc, float64(report.Difference))
	for _, p := range report.Ports {
		gauge(heldDesc, float64(p.Held), p.Name)
		collectPort(ch, p)
	}
}

func collectFlows(ch chan<- prometheus.Metric, t *api.FlowTable) {
	for d, n := range map[*prometheus.Desc]uint64{
		flowsDesc: t.Flows, flowRoomDesc: t.Capacity, halfOpenDesc: t.HalfOpen,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	for event, n := range map[string]uint64{
		"opened": t.Opened, "closed": t.Closed, "expired": t.Expired, "revoked": t.Revoked, "evicted": t.Evicted,
		"without_entry": t.WithoutEntry, "unrepeated": t.Unrepeated,
	} {
		ch <- prometheus.MustNewConstMetric(flowDesc, prometheus.CounterValue, float64(n), event)
	}
	for limit, n := range map[string]uint64{
		"table": t.RefusedTable, "port": t.RefusedPort, "source": t.RefusedSource,
	} {
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), limit)
	}
}

func collectOffload(ch chan<- prometheus.Metric, o *api.Offload, ports []*api.Port) {
	for kind, n := range map[string]uint64{
		"flow": o.Records - o.Pairs - o.Untracked, "pair": o.Pairs, "untracked": o.Untracked,
	} {
		ch <- prometheus.MustNewConstMetric(offloadDesc, prometheus.GaugeValue, float64(n), kind)
	}
	for event, n := range map[string]uint64{
		"entered": o.Entered, "removed": o.Removed, "refused": o.Refused, "evicted": o.Evicted,
		"denied_by_walk": o.WalkDenied, "withdrawn_by_walk": o.WalkAnew,
		"pair_withdrawn": o.PairsWithdrawn, "resumed_from_pair": o.ConnectionsResumed,
		"denied_from_pair": o.ConnectionsDenied, "refused_port": o.RefusedPort, "evicted_port": o.EvictedPort,
	} {
		ch <- prometheus.MustNewConstMetric(offloadEvents, prometheus.CounterValue, float64(n), event)
	}
	ch <- prometheus.MustNewConstMetric(walksDesc, prometheus.CounterValue, float64(o.Walks))
	for d, n := range map[*prometheus.Desc]uint64{walkDesc: o.LastWalkNanoseconds, settleDesc: o.LastSettleNanoseconds} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n)/1e9)
	}
	ch <- prometheus.MustNewConstMetric(offloadRoom, prometheus.GaugeValue, float64(o.Capacity))
	for _, p := range ports {
		has := p.Offload
		ch <- prometheus.MustNewConstMetric(portCarried, prometheus.GaugeValue, float64(has.GetRecords()), p.Name)
		for event, n := range map[string]uint64{"refused": has.GetRefused(), "evicted": has.GetEvicted()} {
			ch <- prometheus.MustNewConstMetric(portShare, prometheus.CounterValue, float64(n), p.Name, event)
		}
	}
}

// collectServices gives sums over all services: there may be thousands.
func (f *Forwarder) collectServices(ch chan<- prometheus.Metric) {
	t := f.tables.Load()
	totals := t.Backends.Totals()
	clients, evictions := t.Backends.Affinities(f.clock())
	for d, n := range map[*prometheus.Desc]int{
		servicesDesc: t.Services.Len(), ejectedDesc: t.Backends.Ejected(), conflictsDesc: t.Services.Contested(),
		affinityDesc: clients,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	for d, n := range map[*prometheus.Desc]uint64{ejectionsDesc: totals.Ejections, evictionsDesc: evictions} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	if flows := f.flows.Load(); flows != nil {
		s := flows.Stats()
		ch <- prometheus.MustNewConstMetric(translatedDesc, prometheus.GaugeValue, float64(s.Translated))
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.Exhausted), "source_ports")
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.Collided), "ends")
	}
	for outcome, n := range map[string]uint64{
		"opened": totals.Opened, "refused": totals.Refused, "no_local": totals.NoLocal,
		"source_denied": totals.SourceDenied,
	} {
		ch <- prometheus.MustNewConstMetric(serviceDesc, prometheus.CounterValue, float64(n), outcome)
	}
}

func collectPort(ch chan<- prometheus.Metric, p *api.PortLedger) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	count(receivedDesc, p.Received, p.Name)
	count(rxBytesDesc, p.ReceivedBytes, p.Name)
	count(sentDesc, p.Transmitted, p.Name)
	count(txBytesDesc, p.TransmittedBytes, p.Name)
	for _, r := range p.Reasons {
		count(packetsDesc, r.Packets, p.Name, r.Verdict, r.Reason)
		if r.Verdict == "dropped" {
			count(dropsDesc, r.Packets, p.Name, r.Reason)
		}
	}
	for action, n := range p.Hook {
		count(hookDesc, n, p.Name, action)
	}
}
