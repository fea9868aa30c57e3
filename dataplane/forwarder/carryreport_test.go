// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// carries opens a flow from one port to another and says whether the kernel carries it.
func (f *Forwarder) carries(t *testing.T, in, out packet.PortID, local uint16) bool {
	t.Helper()
	src, _ := podAddr(int(in))
	dst, _ := podAddr(int(out))
	p, c := datagram(src, dst, local, 7), f.flows.Load()
	var seen conntrack.Seen
	c.Track(p, in, f.clock(), 1, &seen)
	if r := c.Open(&seen, p, in, out, f.clock(), 1, 0); r != 0 {
		t.Fatal(r)
	}
	for range 2 {
		c.Track(p, in, f.clock(), 1, &seen)
	}
	return c.Carry(&seen, &offload.Way{In: in, Out: out, MTU: 1500})
}

// A pod has of the kernel's table what the settings give it, and the status and metrics say so; the host, and the next
// pod of its number, are not concerned.
func TestShareOfPort(t *testing.T) {
	const share, has5 = 40, 64
	f, s := carriedWorldIn(t, has5, offload.NewMemory(256))
	f.carrier.table.Load().SetEgress(podHost, offload.Egress{Kind: offload.Host, IfIndex: 9})
	s.Node = &api.NodeSettings{Offload: true, FlowsPerPort: share}
	f.shareFlows(f.tables.Load())
	f.settleCarrier()
	for local := range uint16(3) {
		if f.carries(t, 5, 6, 61000+local) {
			t.Error("a port has more than its share")
		}
		if !f.carries(t, 6, 5, 61000+local) {
			t.Error("another port has no room")
		}
	}
	for local := range uint16(share + 2) {
		if !f.carries(t, podHost, 5, 61000+local) {
			t.Fatal("the host, behind which there may be many, has a limit")
		}
	}
	has := map[string]*dataplaneapi.PortOffload{}
	for _, p := range f.Status().Ports {
		has[p.Name] = p.Offload
	}
	if p := has["default/pod5"]; p.GetRecords() != has5 || p.GetRefused() != 3 || p.GetEvicted() != 0 {
		t.Errorf("pod 5 has %v", p)
	}
	if p := has["default/pod6"]; p.GetRecords() != 3 || p.GetRefused() != 0 {
		t.Errorf("pod 6 has %v", p)
	}
	if o := f.Status().Offload; o.RefusedPort != 3 || o.Refused != 3 {
		t.Errorf("%v", o)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(NewCollector(f)); err != nil {
		t.Fatal(err)
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	carried := 0.0
	for _, family := range all {
		if family.GetName() == "viaduct_offload_port_flows" {
			for _, m := range family.GetMetric() {
				carried += m.GetGauge().GetValue()
			}
		}
	}
	if carried != has5+3+share+2 {
		t.Errorf("by the metrics ports have %v flows", carried)
	}
	f.forget([]packet.PortID{5})
	if p := f.portOffload(5); p.Records != 0 || p.Refused != 0 {
		t.Errorf("once pod 5 is gone its number has %v", p)
	}
}
