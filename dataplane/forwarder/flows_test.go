// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// query is a datagram from a port of 10.0.0.1 to port 53 of 10.0.0.2.
func query(t *testing.T, port uint16) *packet.Packet {
	t.Helper()
	b := []byte{0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1,
		10, 0, 0, 2, 0, 0, 0, 53, 0, 8, 0, 0}
	binary.BigEndian.PutUint16(b[34:], port)
	binary.BigEndian.PutUint16(b[24:], ^packet.Fold(packet.Sum(b[14:34], 0)))
	p := &packet.Packet{Frame: b, End: len(b)}
	if r := p.Parse(); r != verdict.None {
		t.Fatal(r)
	}
	return p
}

// A flow to a service is listed with both pairs of its ends, and found by any of them.
func TestTranslatedFlow(t *testing.T) {
	f := New(Config{Logger: zaptest.NewLogger(t)})
	defer f.Close()
	dns := shop(1, "kube-system/dns", "10.0.0.2", "10.244.1.7")
	dns.Protocol, dns.Frontends = api.Protocol_PROTOCOL_UDP, dns.Frontends[:1]
	if err := f.Apply(t.Context(), &api.Snapshot{Epoch: 1, Services: []*api.Service{dns}}); err != nil {
		t.Fatal(err)
	}
	f.provideFlows(&api.NodeSettings{Flows: 64})
	backend := slices.Collect(f.tables.Load().Services.All())[0].Backends()[0].Number
	var s conntrack.Seen
	p := query(t, 1000)
	f.flows.Load().Track(p, 1, f.clock(), 1, &s)
	to := packet.AddrFrom(netip.MustParseAddr("10.244.1.7"))
	tr := conntrack.Translation{Dst: to, DstPort: 5353, Backend: backend}
	if r := f.flows.Load().OpenTranslated(&s, p, 1, 2, f.clock(), 1, 0, &tr); r != verdict.None {
		t.Fatal(r)
	}
	for _, address := range []string{"", "10.0.0.1", "10.0.0.2", "10.244.1.7"} {
		list, err := f.Flows(&dataplaneapi.FlowsRequest{Address: address})
		if err != nil {
			t.Fatal(err)
		}
		all := slices.Collect(list)
		if len(all) != 1 {
			t.Fatalf("%q has %d flows", address, len(all))
		}
		got := all[0]
		if got.Destination != "10.0.0.2" || got.DestinationPort != 53 || got.Translation.GetDestination() != "10.244.1.7" ||
			got.Translation.DestinationPort != 5353 || got.Translation.SourcePort != 1000 ||
			got.Translation.Service != "kube-system/dns" {
			t.Errorf("%v", got)
		}
	}
}

// A pod that gets the number of a port that led to the world is limited as pods are.
func TestNumberOfALinkBecomesAPods(t *testing.T) {
	const id = packet.PortID(3)
	f := &Forwarder{clock: func() int64 { return 1e12 }, neighbors: neighbor.NewTable(neighbor.Config{})}
	defer f.stopCarrier()
	f.tables.Store(&tables.Tables{Backends: service.NewBackends()})
	f.provideFlows(&api.NodeSettings{Flows: 64, FlowsPerPort: 3})
	f.shareFlows(&tables.Tables{Ports: []tables.Port{{}, {ID: id}}})
	f.forget([]packet.PortID{id})
	for i := range uint16(4) {
		p := query(t, 1000+i)
		var s conntrack.Seen
		f.flows.Load().Track(p, id, f.clock(), 1, &s)
		want := verdict.None
		if i == 3 {
			want = verdict.FlowLimit
		}
		if r := f.flows.Load().Open(&s, p, id, id+1, f.clock(), 1, 0); r != want {
			t.Errorf("flow %d: %v, want %v", i, r, want)
		}
	}
}
