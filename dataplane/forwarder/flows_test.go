// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A pod that gets the number of a port that led to the world is limited as pods are.
func TestNumberOfALinkBecomesAPods(t *testing.T) {
	const id = packet.PortID(3)
	f := &Forwarder{clock: func() int64 { return 1e12 }}
	f.provideFlows(&api.NodeSettings{Flows: 64, FlowsPerPort: 3})
	f.shareFlows(&tables.Tables{Ports: []tables.Port{{}, {ID: id}}})
	f.forget([]packet.PortID{id})
	for i := range uint16(4) {
		b := []byte{0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1,
			10, 0, 0, 2, 0, 0, 0, 53, 0, 8, 0, 0}
		binary.BigEndian.PutUint16(b[34:], 1000+i)
		binary.BigEndian.PutUint16(b[24:], ^packet.Fold(packet.Sum(b[14:34], 0)))
		p := &packet.Packet{Frame: b, End: len(b)}
		if r := p.Parse(); r != verdict.None {
			t.Fatal(r)
		}
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
