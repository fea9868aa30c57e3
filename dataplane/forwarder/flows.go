// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"iter"
	"net/netip"
	"time"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// loose is for how long after its start a dataplane takes connections up, from either end, that were open before.
const loose = time.Minute

// What is known of domain names: of as many ports, and of each as many addresses.
const namesPorts, namesPerPort = 4096, 1024

// provideFlows makes the table of flows, which lives as long as the forwarder.
func (f *Forwarder) provideFlows(node *controlapi.NodeSettings) {
	if f.flows.Load() != nil {
		return
	}
	f.beginFlows(node)
	f.provideCarrier(node)
	f.dns = names.NewStore(namesPorts, namesPerPort)
	flows := <-f.making
	f.making = nil
	if kernel := f.carrier.table.Load(); kernel != nil {
		flows.SetOffload(kernel)
	}
	f.flows.Store(flows)
}

// beginFlows begins to make the table of flows, which takes as long as to load the hooks: the kernel has to find the
// memory, in huge pages, and to clear it.
func (f *Forwarder) beginFlows(node *controlapi.NodeSettings) {
	if f.flows.Load() != nil || f.making != nil && f.flowsOf == flowsOf(node) {
		return
	}
	made := make(chan *conntrack.Table, 1)
	cfg := conntrack.Config{
		Flows: int(node.GetFlows()), PerPort: int(node.GetFlowsPerPort()), Loose: f.clock() + int64(loose),
		Left: f.tables.Load().Backends.Left, // the same ones for the life of the forwarder
	}
	go func() { made <- conntrack.New(cfg) }()
	f.making, f.flowsOf = made, flowsOf(node)
}

// awaitFlows waits for what was begun.
func (f *Forwarder) awaitFlows() {
	made := make(chan *conntrack.Table, 1)
	made <- <-f.making
	f.making = made
}

// flowSettings is what a table of flows was made for.
type flowSettings struct{ flows, perPort uint32 }

func flowsOf(node *controlapi.NodeSettings) flowSettings {
	return flowSettings{node.GetFlows(), node.GetFlowsPerPort()}
}

// forget forgets the flows of ports that are gone, and what their stations learned: number and addresses may be
// others' next.
func (f *Forwarder) forget(ports []packet.PortID) {
	flows, kernel := f.flows.Load(), f.carrier.table.Load()
	if flows == nil || len(ports) == 0 {
		return
	}
	gone := make(map[packet.PortID]bool, len(ports))
	for _, id := range ports {
		gone[id] = true
		f.dns.Forget(id)
		flows.Share(id, false)
	}
	flows.Forget(gone)
	if kernel != nil {
		for _, id := range ports {
			kernel.Depart(id)
		}
	}
}

// shareFlows lets ports behind which there may be the whole world, those of the host and of links, open as many flows
// as there is room for. A delta brings pods alone.
func (f *Forwarder) shareFlows(t *tables.Tables) {
	flows, kernel := f.flows.Load(), f.carrier.table.Load()
	if flows == nil {
		return
	}
	for i := range t.Ports {
		flows.Share(t.Ports[i].ID, t.Ports[i].Shared())
		if kernel != nil {
			kernel.Frontier(t.Ports[i].ID, t.Ports[i].Shared())
		}
	}
}

// reportFlows says where the settings in force ask for another table than there is.
func (f *Forwarder) reportFlows() {
	if f.flows.Load() == nil || f.flowsOf == flowsOf(f.snapshot.GetNode()) {
		delete(f.degraded, "flows")
		return
	}
	f.degrade("flows", "the table of flows has another size than is set: restart to change that")
}

// flowTable is how the table of flows is; nil before the first worker.
func (f *Forwarder) flowTable() *api.FlowTable {
	t := f.flows.Load()
	if t == nil {
		return nil
	}
	s := t.Stats()
	return &api.FlowTable{
		Flows: uint64(s.Entries), Capacity: uint64(s.Capacity), HalfOpen: uint64(s.HalfOpen), Opened: s.Opened,
		Closed: s.Reopened + s.Forgotten + s.Withdrawn + s.Paired + s.EvictedDone, Expired: s.Expired, Revoked: s.Revoked,
		Evicted:      s.EvictedHalfOpen + s.EvictedIdle,
		RefusedTable: s.RefusedFull, RefusedPort: s.RefusedPort, RefusedSource: s.RefusedSource,
		WithoutEntry: s.Fingerprints, Unrepeated: s.Unrepeated,
	}
}

// Flows lists the flows that the request asks for.
func (f *Forwarder) Flows(r *api.FlowsRequest) (iter.Seq[*api.Flow], error) {
	wanted, err := f.flowFilter(r)
	if err != nil {
		return nil, err
	}
	t, flows := f.tables.Load(), f.flows.Load()
	return func(yield func(*api.Flow) bool) {
		if flows == nil {
			return
		}
		n, now := uint32(0), f.clock()
		for _, all := range []iter.Seq[conntrack.Flow]{flows.All(now), f.pairFlows(now), f.untrackedFlows(now)} {
			for flow := range all {
				if !wanted(&flow) {
					continue
				}
				if n++; !yield(describeFlow(t, &flow)) || n == r.Limit {
					return
				}
			}
		}
	}, nil
}

// parseAddress reads an address that somebody asks about.
func parseAddress(text string) (packet.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return packet.Addr{}, fmt.Errorf("%q is not an address", text)
	}
	return packet.AddrFrom(a.Unmap()), nil
}

func (f *Forwarder) flowFilter(r *api.FlowsRequest) (func(*conntrack.Flow) bool, error) {
	var address packet.Addr
	var port packet.PortID
	var proto packet.IPProto
	if r.Address != "" {
		var err error
		if address, err = parseAddress(r.Address); err != nil {
			return nil, err
		}
	}
	if p := f.tables.Load().ByName(r.Port); p != nil {
		port = p.ID
	}
	if r.Protocol != "" {
		var err error
		if proto, err = explain.ParseProtocol(r.Protocol); err != nil {
			return nil, err
		}
	}
	return func(flow *conntrack.Flow) bool {
		return (r.Address == "" || hasEnd(flow, address)) &&
			(r.Port == "" || flow.In == port || flow.Out == port) &&
			(r.Protocol == "" || flow.Tuple.Proto == proto)
	}, nil
}

// hasEnd says whether an address is one of the flow's ends, as its opener or as the other end sees it.
func hasEnd(flow *conntrack.Flow, a packet.Addr) bool {
	return flow.Tuple.Src == a || flow.Tuple.Dst == a || flow.Translated && (flow.Ends.Src == a || flow.Ends.Dst == a)
}

func describeFlow(t *tables.Tables, flow *conntrack.Flow) *api.Flow {
	return &api.Flow{
		Protocol: explain.Protocol(flow.Tuple.Proto), State: flow.State,
		Source: flow.Tuple.Src.String(), SourcePort: uint32(flow.Tuple.SrcPort),
		Destination: flow.Tuple.Dst.String(), DestinationPort: uint32(flow.Tuple.DstPort),
		InPort: portName(t, flow.In), OutPort: portName(t, flow.Out),
		Packets: flow.Sent.Packets, Bytes: flow.Sent.Bytes,
		ReplyPackets: flow.Replied.Packets, ReplyBytes: flow.Replied.Bytes,
		IdleNanoseconds: uint64(flow.Idle), ExpiresNanoseconds: uint64(flow.Expires),
		Rule: explain.Rule(t.Policy, policy.RuleID(flow.Rule)), Translation: describeTranslation(t, flow),
		Carried: flow.Carried, Pair: flow.State == pairState, Untracked: flow.State == untrackedState,
		CarriedPackets: flow.Kernel[0].Packets, CarriedBytes: flow.Kernel[0].Bytes,
		ReplyCarriedPackets: flow.Kernel[1].Packets, ReplyCarriedBytes: flow.Kernel[1].Bytes,
	}
}

// describeTranslation is how the other end sees a flow, nil where it sees what was sent.
func describeTranslation(t *tables.Tables, flow *conntrack.Flow) *api.Translation {
	if !flow.Translated {
		return nil
	}
	return &api.Translation{
		Source: flow.Ends.Src.String(), SourcePort: uint32(flow.Ends.SrcPort),
		Destination: flow.Ends.Dst.String(), DestinationPort: uint32(flow.Ends.DstPort),
		Service: t.Backends.Name(flow.Backend),
	}
}

func portName(t *tables.Tables, id packet.PortID) string {
	if p := t.Port(id); p != nil {
		return p.Name
	}
	return ""
}
