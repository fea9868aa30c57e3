// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

func octets(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func prefix(s string) *api.Prefix {
	p := netip.MustParsePrefix(s)
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

// clusterIP and backend are numbered addresses: of 172.16.0.0/12 and 10.0.0.0/8.
func clusterIP(n uint32) []byte { return []byte{172, 16 | byte(n>>16), byte(n >> 8), byte(n)} }
func podIP(n uint32) []byte     { return []byte{10, byte(n >> 16), byte(n >> 8), byte(n)} }

// web is service n on its cluster address, port 80, with so many backends of the weights, which are taken in turn.
func web(n uint32, backends int, weights ...uint32) *api.Service {
	s := &api.Service{
		Id: n, Name: fmt.Sprintf("default/web-%05d", n), Protocol: api.Protocol_PROTOCOL_TCP,
		Algorithm: api.Service_ALGORITHM_RANDOM,
		Frontends: []*api.Frontend{{Kind: api.Frontend_KIND_CLUSTER_IP, Address: clusterIP(n), Port: 80}},
	}
	for i := range backends {
		weight := uint32(1)
		if len(weights) > 0 {
			weight = weights[i%len(weights)]
		}
		s.Backends = append(s.Backends, &api.Backend{
			Address: podIP(n*16 + uint32(i)), Port: 8080, Weight: weight, Cluster: true, Local: i == 0,
		})
	}
	return s
}

func snapshot(list ...*api.Service) *api.Snapshot { return &api.Snapshot{Epoch: 1, Services: list} }

// rig is a table in force.
type rig struct {
	t     testing.TB
	b     *Backends
	table *Table
	dice  Dice
	now   int64
}

func newRig(t testing.TB, list ...*api.Service) *rig {
	r := &rig{t: t, b: NewBackends(), now: 1e12}
	r.dice.Seed(1)
	r.enter(list...)
	return r
}

// enter puts a snapshot with these services in force.
func (r *rig) enter(list ...*api.Service) {
	r.t.Helper()
	next, err := Build(r.table, snapshot(list...), r.b)
	if err != nil {
		r.t.Fatal(err)
	}
	r.table = next
	next.Enter(r.b, r.now)
}

// to is a flow from a client to service n.
func (r *rig) to(n uint32, client string, port uint16) *Query {
	return &Query{
		Src: addr(client), SrcPort: port, Dst: addr(netip.AddrFrom4([4]byte(clusterIP(n))).String()), DstPort: 80,
		Proto: packet.ProtoTCP, Now: r.now,
	}
}

func (r *rig) choose(q *Query) (c Choice) {
	r.table.Choose(q, &r.dice, &c)
	return c
}
