// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// rig is a worker between memory rings: ports 1 and 2 on devices 0 and 1, port 3 as VLAN 100 of device 1.
type rig struct {
	t         testing.TB
	worker    *Worker
	pool      *xsk.Pool
	umem      *xsk.UMEM
	rings     []*xsk.Memory
	neighbors *neighbor.Table
	tables    atomic.Pointer[tables.Tables]
	now       int64
	mtu       [2]int
	gone      []int
}

var (
	portMACs = []packet.MAC{{2, 0, 0, 0, 1, 1}, {2, 0, 0, 0, 1, 2}}
	hostMACs = []packet.MAC{{2, 0, 0, 0, 2, 1}, {2, 0, 0, 0, 2, 2}}
)

const rigChunks = 4096

func newRig(t testing.TB, change func(*api.Snapshot)) *rig {
	t.Helper()
	r := &rig{t: t, now: 1e12, neighbors: neighbor.NewTable(neighbor.Config{}), mtu: [2]int{9000, 1500}}
	r.apply(change)
	r.start(Config{Tables: &r.tables, Timers: true, Gone: func(d int) { r.gone = append(r.gone, d) }})
	return r
}

// start makes the rig's worker, with memory and rings of its own.
func (r *rig) start(c Config) {
	r.t.Helper()
	var err error
	if r.umem, err = xsk.NewUMEM(xsk.UMEMConfig{Chunks: rigChunks, ChunkSize: 4096}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.umem.Close() })
	r.pool = xsk.NewPool(r.umem)
	c.UMEM, c.Pool = r.umem, r.pool
	r.worker = New(c)
	for device := range 2 {
		m, err := xsk.NewMemory(xsk.MemoryConfig{
			UMEM: r.umem, RxSize: 512, TxSize: 512, FillSize: 512, CompletionSize: 512, MultiBuffer: true,
		})
		if err != nil {
			r.t.Fatal(err)
		}
		r.rings = append(r.rings, m)
		r.worker.AddLink(device, m, 512)
	}
}

// apply puts the rig's snapshot, changed, in force.
func (r *rig) apply(change func(*api.Snapshot)) {
	r.t.Helper()
	s := snapshot()
	if change != nil {
		change(s)
	}
	prev := r.tables.Load()
	if prev != nil {
		s.Epoch = prev.Epoch + 1
	}
	next, err := tables.Build(prev, s, r.links, r.neighbors)
	if err != nil {
		r.t.Fatal(err)
	}
	next.Enter(prev)
	next.Services.Enter(next.Backends, r.now)
	r.tables.Store(next)
}

func (r *rig) links(name string) (tables.Link, bool) {
	i := map[string]int{"dev0": 0, "dev1": 1, tables.TrunkDevice: 1}[name]
	return tables.Link{MAC: portMACs[i], MTU: r.mtu[i], Up: true, Index: i}, true
}

func prefix(s string) *api.Prefix {
	p := netip.MustParsePrefix(s)
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func addRoute(s *api.Snapshot, destination string, group uint32) {
	p := prefix(destination)
	s.Routes = append(s.Routes, &api.Route{Prefix: p.Address, Bits: p.Bits, Group: group})
	sortRoutes(s.Routes)
}

// sortRoutes puts routes into the order that a snapshot has them in.
func sortRoutes(routes []*api.Route) {
	slices.SortFunc(routes, func(a, b *api.Route) int {
		return cmp.Or(cmp.Compare(len(a.Prefix), len(b.Prefix)), bytes.Compare(a.Prefix, b.Prefix),
			cmp.Compare(a.Bits, b.Bits))
	})
}

const (
	toRouter4, toRouter6, toNowhere, toUnreachable, toProhibited, toSlow = 1, 2, 3, 4, 5, 6
)

func snapshot() *api.Snapshot {
	forward := func(id, port uint32, via string, mtu uint32) *api.NextHopGroup {
		return &api.NextHopGroup{Id: id, Kind: api.NextHopGroup_KIND_FORWARD,
			Hops: []*api.NextHop{{Port: port, Via: ip(via), Weight: 1, Mtu: mtu}}}
	}
	s := &api.Snapshot{
		Epoch: 1, Origins: []string{""},
		Ports: []*api.Port{
			{Id: 1, Name: "left", Device: "dev0", Addresses: []*api.Prefix{prefix("10.1.0.1/24"), prefix("fd00:1::1/64")}},
			{Id: 2, Name: "right", Device: "dev1", Addresses: []*api.Prefix{prefix("10.2.0.1/24"), prefix("fd00:2::1/64")}},
			{Id: 3, Name: "tagged", Device: "dev1", OuterVlan: 100, Addresses: []*api.Prefix{prefix("10.3.0.1/24")}},
		},
		Groups: []*api.NextHopGroup{
			forward(toRouter4, 2, "10.2.0.2", 0), forward(toRouter6, 2, "fd00:2::2", 0),
			{Id: toNowhere, Kind: api.NextHopGroup_KIND_BLACKHOLE},
			{Id: toUnreachable, Kind: api.NextHopGroup_KIND_UNREACHABLE},
			{Id: toProhibited, Kind: api.NextHopGroup_KIND_PROHIBIT},
			forward(toSlow, 2, "10.2.0.2", 600),
		},
	}
	addRoute(s, "10.20.0.0/16", toRouter4)
	addRoute(s, "10.21.0.0/16", toNowhere)
	addRoute(s, "10.22.0.0/16", toUnreachable)
	addRoute(s, "10.23.0.0/16", toProhibited)
	addRoute(s, "10.24.0.0/16", toSlow)
	addRoute(s, "fd00:20::/32", toRouter6)
	return s
}

// know tells the neighbour cache about the hosts and the router.
func (r *rig) know() *rig {
	learn := func(port packet.PortID, address string, mac packet.MAC) {
		a := packet.AddrFrom(netip.MustParseAddr(address))
		r.neighbors.Resolve(port, a, r.now)
		r.neighbors.Learn(port, a, mac, neighbor.SolicitedOverride|neighbor.Create, r.now)
	}
	learn(1, "10.1.0.2", hostMACs[0])
	learn(1, "fd00:1::2", hostMACs[0])
	learn(2, "10.2.0.2", hostMACs[1])
	learn(2, "fd00:2::2", hostMACs[1])
	learn(3, "10.3.0.2", hostMACs[1])
	return r
}

// poll makes a pass, and checks the ledger and the frames.
func (r *rig) poll() {
	r.t.Helper()
	r.now += 1e6
	r.worker.Poll(r.now)
	r.checkLedger()
}

func (r *rig) checkLedger() (all ledger.Totals) {
	r.t.Helper()
	for port, totals := range ledger.Read([]*ledger.Book{r.worker.Book()}) {
		if err := totals.CheckInput(); err != nil {
			r.t.Errorf("port %d: %v", port, err)
		}
		all.Add(totals)
	}
	if err := all.CheckOutput(); err != nil {
		r.t.Error(err)
	}
	return all
}

func (r *rig) count(port packet.PortID, reason verdict.Reason) uint64 {
	totals := ledger.Read([]*ledger.Book{r.worker.Book()})[port]
	if totals == nil {
		return 0
	}
	return totals.Get(ledger.ByReason(reason))
}

// inject puts a packet on a device's rx ring.
func (r *rig) inject(device int, data []byte) {
	r.t.Helper()
	if !r.rings[device].Inject(data) {
		r.t.Fatalf("device %d takes no packet", device)
	}
}

// sent takes what left by a device.
func (r *rig) sent(device int) (all [][]byte) {
	r.rings[device].Drain(func(data []byte, _ bool) { all = append(all, append([]byte(nil), data...)) })
	return all
}

// forward injects one packet, makes a pass and returns what left by the other device and what came back.
func (r *rig) forward(device int, data []byte) (out, back [][]byte) {
	r.t.Helper()
	r.inject(device, data)
	r.poll()
	return r.sent(1 - device), r.sent(device)
}

// build serialises layers with lengths and checksums.
func build(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, list...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// udp builds a UDP packet from the host behind a device to dst.
func udp(t testing.TB, device int, src, dst string, size int, change func(*layers.IPv4)) []byte {
	t.Helper()
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	eth := &layers.Ethernet{SrcMAC: hostMACs[device][:], DstMAC: portMACs[device][:]}
	u := &layers.UDP{SrcPort: 1234, DstPort: 5678}
	payload := make(gopacket.Payload, size)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	if a.Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		h := &layers.IPv4{Version: 4, TTL: 64, Id: 99, Protocol: layers.IPProtocolUDP,
			SrcIP: net.IP(a.AsSlice()), DstIP: net.IP(b.AsSlice())}
		if change != nil {
			change(h)
		}
		_ = u.SetNetworkLayerForChecksum(h)
		return build(t, eth, h, u, payload)
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
		SrcIP: net.IP(a.AsSlice()), DstIP: net.IP(b.AsSlice())}
	_ = u.SetNetworkLayerForChecksum(h)
	return build(t, eth, h, u, payload)
}

func decode(data []byte) gopacket.Packet {
	return gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.NoCopy)
}
