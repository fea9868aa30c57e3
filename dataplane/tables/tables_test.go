// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
)

func addr(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

func prefix(s string) *api.Prefix {
	p := netip.MustParsePrefix(s)
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

func prefixes(list ...string) (all []*api.Prefix) {
	for _, s := range list {
		all = append(all, prefix(s))
	}
	return all
}

func routeTo(s string, group uint32) *api.Route {
	p := prefix(s)
	return &api.Route{Prefix: p.Address, Bits: p.Bits, Group: group, Origin: 3}
}

func bytesOf(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

var (
	macA = packet.MAC{2, 0, 0, 0, 0, 0xa}
	macB = packet.MAC{2, 0, 0, 0, 0, 0xb}
)

// devices is the state of a machine's network devices.
type devices map[string]Link

func (d devices) links(name string) (Link, bool) {
	l, ok := d[name]
	if !ok && name != "" {
		l.Index = int(name[len(name)-1]-'1') & 15 // as for those that are there: the device's own
	}
	return l, ok
}

func machine() devices {
	return devices{
		"ens1": {MAC: macA, MTU: 1500, Up: true, Index: 0},
		"ens2": {MAC: macB, MTU: 9000, Up: true, Index: 1},
		"vd07": {MTU: 65535, IfIndex: 107}, "vd08": {MTU: 65535, IfIndex: 108}, "viaduct0": {MTU: 65535, IfIndex: 200},
		TrunkDevice: {MTU: 65535, Up: true, Index: 2},
	}
}

// lab is a valid snapshot with something of everything.
func lab() *api.Snapshot {
	return &api.Snapshot{
		Epoch:   7,
		Origins: []string{"", "NodeConfig a (node.yaml:1)", "Route g (r.yaml:1)", "Route r (r.yaml:9)"},
		Node:    &api.NodeSettings{Name: "a"},
		Ports: []*api.Port{
			{Id: 1, Name: "left", Device: "ens1", Addresses: prefixes("10.1.0.1/24", "fd00:1::1/64"), Origin: 1},
			{Id: 2, Name: "right", Device: "ens2", Addresses: prefixes("10.2.0.1/24", "fd00:2::1/64"), Mtu: 4000,
				Origin: 1},
			{Id: 5, Name: "tagged", Device: "ens2", OuterVlan: 100, Addresses: prefixes("10.5.0.1/31"), Origin: 1},
			{Id: 6, Name: "double", Device: "ens2", OuterVlan: 100, InnerVlan: 7, Origin: 1},
		},
		Groups: []*api.NextHopGroup{
			{Id: 1, Origin: 2, Hops: []*api.NextHop{
				{Port: 1, Via: bytesOf("10.1.0.2"), Weight: 1}, {Port: 2, Via: bytesOf("10.2.0.2"), Weight: 3, Mtu: 1400}}},
			{Id: 2, Kind: api.NextHopGroup_KIND_BLACKHOLE},
			{Id: 3, Kind: api.NextHopGroup_KIND_UNREACHABLE},
			{Id: 4, Kind: api.NextHopGroup_KIND_PROHIBIT},
			{Id: 9, Hops: []*api.NextHop{{Port: 1, Via: bytesOf("fe80::9")}}},
		},
		Routes: []*api.Route{
			routeTo("0.0.0.0/0", 1), routeTo("10.3.0.0/16", 2), routeTo("10.4.0.0/16", 3), routeTo("10.4.1.0/24", 4),
			routeTo("fd00:9::/32", 9),
		},
		Neighbors: []*api.Neighbor{{Port: 1, Address: bytesOf("10.1.0.9"), Mac: []byte{2, 0, 0, 0, 0, 9}}},
		Identities: []*api.Identity{
			{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "default", Labels: []string{"app=web"}},
			{Id: 3, Kind: api.Identity_KIND_NODE, Labels: []string{"zone=a"}},
		},
		IdentityPrefixes: []*api.IdentityPrefix{
			{Prefix: prefix("10.244.1.7/32"), Identity: 1, Origin: 3}, {Prefix: prefix("fd00:10::/64"), Identity: 3},
		},
	}
}

func mustBuild(t *testing.T, prev *Tables, s *api.Snapshot, d devices, n *neighbor.Table) *Tables {
	t.Helper()
	built, err := Build(prev, s, d.links, n)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	built.Enter(prev)
	return built
}

func TestPorts(t *testing.T) {
	b := mustBuild(t, nil, lab(), machine(), neighbor.NewTable(neighbor.Config{}))
	left := b.ByName("left")
	if left == nil || left != b.Port(1) || left.MAC != macA || left.MTU != 1500 || !left.Up || !left.Present {
		t.Fatalf("left is %+v", left)
	}
	if left.LinkLocal != addr("fe80::ff:fe00:a") || left.Source4 != addr("10.1.0.1") || left.Source6 != addr("fd00:1::1") {
		t.Errorf("sources %s %s %s", left.LinkLocal, left.Source4, left.Source6)
	}
	for a, want := range map[string]bool{"10.1.0.1": true, "fd00:1::1": true, "fe80::ff:fe00:a": true, "10.1.0.2": false} {
		if left.HasAddr(addr(a)) != want {
			t.Errorf("left has %s: want %t", a, want)
		}
	}
	for a, want := range map[string]bool{
		"10.1.0.77": true, "10.1.1.0": false, "10.2.0.1": false, "fd00:1::77": true, "fd00:1:0:1::": false,
		"fe80::1234": true, "febf::1": true, "fec0::1": false, "169.254.0.1": false,
	} {
		if left.OnLink(addr(a)) != want {
			t.Errorf("%s on left's link: want %t", a, want)
		}
	}
	if b.Port(2).MTU != 4000 || b.Port(5).MTU != 9000 || b.Port(6).MTU != 8996 {
		t.Errorf("MTUs %d %d %d, want 4000, the device's, and that less a second tag", b.Port(2).MTU, b.Port(5).MTU,
			b.Port(6).MTU)
	}
	for _, id := range []packet.PortID{0, 3, 7, 1 << 30} {
		if b.Port(id) != nil {
			t.Errorf("there is a port %d", id)
		}
	}
	if b.ByName("") != nil || b.ByName("middle") != nil {
		t.Error("ports that are not there have names")
	}
}

func TestSource(t *testing.T) {
	s := &api.Snapshot{Ports: []*api.Port{
		{Id: 1, Name: "p", Device: "ens1", Addresses: prefixes("169.254.1.1/32", "10.0.0.1/24", "10.9.0.1/24",
			"fd00::1/64", "fd01::1/64")},
		{Id: 2, Name: "bare", Device: "ens2"},
		{Id: 3, Name: "gateway", Device: "ens2", OuterVlan: 3, Addresses: prefixes("169.254.1.1/32", "fe80::1/64")},
	}}
	b := mustBuild(t, nil, s, machine(), neighbor.NewTable(neighbor.Config{}))
	for _, row := range []struct {
		port packet.PortID
		dst  string
		want string
	}{
		{1, "10.9.0.5", "10.9.0.1"}, {1, "10.0.0.5", "10.0.0.1"}, {1, "8.8.8.8", "10.0.0.1"},
		{1, "fd01::7", "fd01::1"}, {1, "2001::7", "fd00::1"}, {1, "fe80::7", "fe80::ff:fe00:a"},
		{2, "fe80::7", "fe80::ff:fe00:b"}, {2, "fd00::1", "fe80::ff:fe00:b"},
		{3, "10.0.0.1", "169.254.1.1"}, {3, "fe80::7", "fe80::1"}, {3, "fd00::1", "fe80::1"},
	} {
		if got := b.Port(row.port).Source(addr(row.dst)); got != addr(row.want) {
			t.Errorf("port %d to %s: from %s, want %s", row.port, row.dst, got, row.want)
		}
	}
	if got := b.Port(2).Source(addr("10.0.0.9")); !got.IsZero() {
		t.Errorf("a port without IPv4 sends from %s", got)
	}
}

func TestDemux(t *testing.T) {
	b := mustBuild(t, nil, lab(), machine(), neighbor.NewTable(neighbor.Config{}))
	for _, row := range []struct {
		device       int
		outer, inner uint16
		want         packet.PortID
	}{
		{0, 0, 0, 1}, {1, 0, 0, 2}, {1, 100, 0, 5}, {1, 100, 7, 6},
		{0, 100, 0, 0}, {1, 101, 0, 0}, {1, 100, 8, 0}, {1, 4095, 0, 0}, {1, 0, 7, 0}, {2, 0, 0, 0}, {-1, 0, 0, 0},
		{1, 65535, 0, 0},
	} {
		if got := b.Demux(row.device, packet.VLANs{Outer: row.outer, Inner: row.inner}, packet.MAC{2}); got != row.want {
			t.Errorf("device %d tags %d.%d: port %d, want %d", row.device, row.outer, row.inner, got, row.want)
		}
	}
}

func TestRoutes(t *testing.T) {
	b := mustBuild(t, nil, lab(), machine(), neighbor.NewTable(neighbor.Config{}))
	for dst, want := range map[string]string{
		"8.8.8.8": "forward", "10.3.1.1": "blackhole", "10.4.9.9": "unreachable", "10.4.1.9": "prohibit",
		"10.1.0.1": "local 1", "fd00:2::1": "local 2", "10.1.0.0": "broadcast", "10.1.0.255": "broadcast",
		"10.1.0.50": "forward 1 on-link", "fd00:1::5": "forward 1 on-link", "10.5.0.0": "forward 5 on-link",
		"10.5.0.1": "local 5", "fd00:9::1": "forward", "fd00:a::1": "none", "fe80::1": "none",
	} {
		if got := describe(b.FIB.Lookup(addr(dst))); got != want {
			t.Errorf("%s: %s, want %s", dst, got, want)
		}
	}
	hops := b.FIB.Lookup(addr("8.8.8.8")).Hops()
	if len(hops) != 2 || hops[0].MTU != 1500 || hops[1].MTU != 1400 || hops[1].Weight != 3 || hops[1].Port != 2 {
		t.Errorf("hops %+v", hops)
	}
	if hops[0].Neighbor != b.Neighbors.Lookup(1, addr("10.1.0.2")) || hops[0].Neighbor == nil {
		t.Error("the hop's neighbour is not the table's")
	}
	if r, _ := b.FIB.Get(netip.MustParsePrefix("10.3.0.0/16")); b.Origins[r.Origin] != "Route r (r.yaml:9)" {
		t.Errorf("origin %d", r.Origin)
	}
	e := b.Neighbors.Lookup(1, addr("10.1.0.9"))
	if e == nil || e.State() != neighbor.Permanent {
		t.Errorf("the static neighbour is %v", e)
	}
}

func describe(g *route.Group) string {
	switch {
	case g == nil:
		return "none"
	case len(g.Hops()) == 0 || g.Kind == route.Forward && g.Hops()[0].Neighbor != nil:
		return g.Kind.String()
	}
	s := fmt.Sprintf("%s %d", g.Kind, g.Hops()[0].Port)
	if g.Kind == route.Forward {
		s += " on-link"
	}
	return s
}

// A route of the snapshot goes before the subnet that follows from a port's address, but not before the address.
func TestSnapshotGoesBeforeConnected(t *testing.T) {
	s := lab()
	s.Routes = []*api.Route{routeTo("10.1.0.0/24", 2), routeTo("10.1.0.1/32", 2), routeTo("10.1.0.255/32", 2)}
	b := mustBuild(t, nil, s, machine(), neighbor.NewTable(neighbor.Config{}))
	for dst, want := range map[string]string{"10.1.0.9": "blackhole", "10.1.0.1": "local 1", "10.1.0.255": "broadcast"} {
		if got := describe(b.FIB.Lookup(addr(dst))); got != want {
			t.Errorf("%s: %s, want %s", dst, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	via := func(s string) func(*api.Snapshot) {
		return func(x *api.Snapshot) { x.Groups[0].Hops[0].Via = bytesOf(s) }
	}
	address := func(s string) func(*api.Snapshot) {
		return func(x *api.Snapshot) { x.Ports[0].Addresses = append(x.Ports[0].Addresses, prefix(s)) }
	}
	rows := []struct {
		name, field, reason string
		change              func(s *api.Snapshot)
	}{
		{"port 0", "ports[0].id", "not from 1", func(s *api.Snapshot) { s.Ports[0].Id = 0 }},
		{"port too high", "ports[3].id", "not from 1", func(s *api.Snapshot) { s.Ports[3].Id = 1 << 31 }},
		{"port twice", "ports[1]", "twice", func(s *api.Snapshot) { s.Ports[1].Id = 1 }},
		{"name twice", "ports[1].name", "another port", func(s *api.Snapshot) { s.Ports[1].Name = "left" }},
		{"no name", "ports[1].name", "missing", func(s *api.Snapshot) { s.Ports[1].Name = "" }},
		{"no device", "ports[1].device", "missing", func(s *api.Snapshot) { s.Ports[1].Device = "" }},
		{"same device", "ports[1].device", "port left has", func(s *api.Snapshot) { s.Ports[1].Device = "ens1" }},
		{"same tag", "ports[3].device", "port tagged has", func(s *api.Snapshot) { s.Ports[3].InnerVlan = 0 }},
		{"VLAN 4095", "ports[2].outer_vlan", "4095", func(s *api.Snapshot) { s.Ports[2].OuterVlan = 4095 }},
		{"inner only", "ports[3].inner_vlan", "outer", func(s *api.Snapshot) { s.Ports[3].OuterVlan = 0 }},
		{"inner high", "ports[3].inner_vlan", "70000", func(s *api.Snapshot) { s.Ports[3].InnerVlan = 70000 }},
		{"MTU low", "ports[0].mtu", "67", func(s *api.Snapshot) { s.Ports[0].Mtu = 67 }},
		{"MTU high", "ports[0].mtu", "65536", func(s *api.Snapshot) { s.Ports[0].Mtu = 65536 }},
		{"MTU for IPv6", "ports[0].mtu", "1280", func(s *api.Snapshot) { s.Ports[0].Mtu = 1279 }},
		{"address of 5 bytes", "ports[0].addresses[0]", "not an IPv4",
			func(s *api.Snapshot) { s.Ports[0].Addresses[0].Address = make([]byte, 5) }},
		{"address bits", "ports[0].addresses[0]", "33 bits", func(s *api.Snapshot) { s.Ports[0].Addresses[0].Bits = 33 }},
		{"multicast address", "ports[0].addresses[2]", "cannot be", address("224.0.0.1/24")},
		{"loopback address", "ports[0].addresses[2]", "cannot be", address("127.0.0.1/8")},
		{"mapped address", "ports[0].addresses[2]", "not an IPv4", address("::ffff:10.0.0.1/120")},
		{"network address", "ports[0].addresses[2]", "broadcast", address("10.8.0.0/24")},
		{"broadcast address", "ports[0].addresses[2]", "broadcast", address("10.8.0.255/24")},
		{"address of no subnet", "ports[0].addresses[2]", "at least one bit", address("10.8.0.1/0")},
		{"address twice", "ports[0].addresses[2]", "twice", address("10.1.0.1/16")},
		{"address of another", "ports[1].addresses[0]", "port left as well", address("10.2.0.1/16")},
		{"subnet of another", "ports[1].addresses[0]", "port left as well", address("10.2.0.2/24")},

		{"group 0", "groups[0].id", "is 0", func(s *api.Snapshot) { s.Groups[0].Id = 0 }},
		{"group twice", "groups[1]", "twice", func(s *api.Snapshot) { s.Groups[1].Id = 1 }},
		{"kind", "groups[1].kind", "not known", func(s *api.Snapshot) { s.Groups[1].Kind = 77 }},
		{"hops of a blackhole", "groups[1].hops", "none",
			func(s *api.Snapshot) { s.Groups[1].Hops = s.Groups[0].Hops }},
		{"no hops", "groups[0].hops", "0 are not", func(s *api.Snapshot) { s.Groups[0].Hops = nil }},
		{"hop twice", "groups[0].hops[2].via", "twice",
			func(s *api.Snapshot) { s.Groups[0].Hops = append(s.Groups[0].Hops, s.Groups[0].Hops[0]) }},
		{"hop's port", "groups[0].hops[0].port", "no port 3", func(s *api.Snapshot) { s.Groups[0].Hops[0].Port = 3 }},
		{"weight", "groups[0].hops[0].weight", "65536",
			func(s *api.Snapshot) { s.Groups[0].Hops[0].Weight = 65536 }},
		{"hop MTU", "groups[0].hops[0].mtu", "12", func(s *api.Snapshot) { s.Groups[0].Hops[0].Mtu = 12 }},
		{"via of 3 bytes", "groups[0].hops[0].via", "not an IPv4",
			func(s *api.Snapshot) { s.Groups[0].Hops[0].Via = make([]byte, 3) }},
		{"via elsewhere", "groups[0].hops[0].via", "none of the subnets", via("10.2.0.9")},
		{"via ourselves", "groups[0].hops[0].via", "our own", via("10.1.0.1")},
		{"via broadcast", "groups[0].hops[0].via", "broadcast", via("10.1.0.255")},
		{"via multicast", "groups[0].hops[0].via", "one station", via("ff02::1")},

		{"prefix", "routes[0].prefix", "not an IPv4", func(s *api.Snapshot) { s.Routes[0].Prefix = nil }},
		{"bits", "routes[0].bits", "129", func(s *api.Snapshot) { s.Routes[0].Bits = 129 }},
		{"host bits", "routes[1].prefix", "behind", func(s *api.Snapshot) { s.Routes[1].Bits = 8 }},
		{"multicast", "routes[4].prefix", "multicast",
			func(s *api.Snapshot) { s.Routes = slices.Insert(s.Routes, 4, routeTo("224.0.0.0/8", 1)) }},
		{"link-local", "routes[5].prefix", "link-local",
			func(s *api.Snapshot) { s.Routes = append(s.Routes, routeTo("fe80::/64", 1)) }},
		{"mapped", "routes[4].prefix", "not an IPv4",
			func(s *api.Snapshot) { s.Routes = slices.Insert(s.Routes, 4, routeTo("::ffff:10.0.0.0/104", 1)) }},
		{"no group", "routes[0].group", "no group 8", func(s *api.Snapshot) { s.Routes[0].Group = 8 }},
		{"route twice", "routes[2]", "twice",
			func(s *api.Snapshot) { s.Routes = slices.Insert(s.Routes, 1, routeTo("10.3.0.0/16", 1)) }},

		{"neighbor's port", "neighbors[0].port", "no port", func(s *api.Snapshot) { s.Neighbors[0].Port = 3 }},
		{"neighbor's MAC", "neighbors[0].mac", "unicast", func(s *api.Snapshot) { s.Neighbors[0].Mac = []byte{1} }},
		{"neighbor's group MAC", "neighbors[0].mac", "unicast",
			func(s *api.Snapshot) { s.Neighbors[0].Mac = []byte{1, 0, 0, 0, 0, 1} }},
		{"neighbor's address", "neighbors[0].address", "not an IPv4",
			func(s *api.Snapshot) { s.Neighbors[0].Address = nil }},
		{"neighbor elsewhere", "neighbors[0].address", "none of",
			func(s *api.Snapshot) { s.Neighbors[0].Address = bytesOf("8.8.8.8") }},
		{"neighbor twice", "neighbors[1]", "twice",
			func(s *api.Snapshot) { s.Neighbors = append(s.Neighbors, s.Neighbors[0]) }},
		{"ports out of order", "ports[1]", "order",
			func(s *api.Snapshot) { s.Ports[0], s.Ports[1] = s.Ports[1], s.Ports[0] }},
		{"groups out of order", "groups[1]", "order",
			func(s *api.Snapshot) { s.Groups[0], s.Groups[1] = s.Groups[1], s.Groups[0] }},
		{"routes out of order", "routes[1]", "order", func(s *api.Snapshot) { slices.Reverse(s.Routes) }},
		{"neighbors out of order", "neighbors[1]", "order", func(s *api.Snapshot) {
			s.Neighbors = append(s.Neighbors, &api.Neighbor{Port: 1, Address: bytesOf("10.1.0.8"), Mac: s.Neighbors[0].Mac})
		}},
		{"identities out of order", "identities[1]", "order",
			func(s *api.Snapshot) { slices.Reverse(s.Identities) }},
		{"identity prefixes out of order", "identity_prefixes[1]", "order",
			func(s *api.Snapshot) { slices.Reverse(s.IdentityPrefixes) }},

		{"identity 0", "identities[0].id", "world", func(s *api.Snapshot) { s.Identities[0].Id = 0 }},
		{"identity of no kind", "identities[1].kind", "not known", func(s *api.Snapshot) { s.Identities[1].Kind = 0 }},
		{"identity that is not there", "identity_prefixes[0].identity", "no identity 8",
			func(s *api.Snapshot) { s.IdentityPrefixes[0].Identity = 8 }},
		{"identity prefix", "identity_prefixes[0].prefix", "not an IPv4",
			func(s *api.Snapshot) { s.IdentityPrefixes[0].Prefix = nil }},
		{"identity prefix's host bits", "identity_prefixes[0].prefix", "behind",
			func(s *api.Snapshot) { s.IdentityPrefixes[0].Prefix.Bits = 30 }},
		{"identity prefix's length", "identity_prefixes[0].prefix", "33 bits",
			func(s *api.Snapshot) { s.IdentityPrefixes[0].Prefix.Bits = 33 }},

		{"policy", "policies[0].name", "is empty", func(s *api.Snapshot) { s.Policies = []*api.Policy{{}} }},
		{"policy twice", "policies[1]", "twice", func(s *api.Snapshot) { s.Policies = []*api.Policy{{}, {}} }},
		{"peer sets", "peer_sets[1]", "order", func(s *api.Snapshot) { s.PeerSets = []*api.PeerSet{{Id: 2}, {Id: 1}} }},
		{"services out of order", "services[1]", "order",
			func(s *api.Snapshot) { s.Services = []*api.Service{{Id: 2}, {Id: 1}} }},
		{"egress twice", "egress[1]", "twice",
			func(s *api.Snapshot) { s.Egress = []*api.Egress{{Namespace: "a"}, {Namespace: "a"}} }},
		{"egress of nobody", "egress[0].namespace", "missing", func(s *api.Snapshot) { s.Egress = []*api.Egress{{}} }},
		{"egress to nowhere", "egress[0].addresses", "missing",
			func(s *api.Snapshot) { s.Egress = []*api.Egress{{Namespace: "a"}} }},
		{"egress with two of a family", "egress[0].addresses[1]", "only one", func(s *api.Snapshot) {
			s.Egress = []*api.Egress{{Namespace: "a", Addresses: [][]byte{bytesOf("192.0.2.1"), bytesOf("192.0.2.2")}}}
		}},
		{"dataplane's address", "node.dataplane_addresses[0]", "station", func(s *api.Snapshot) {
			s.Node.DataplaneAddresses = [][]byte{bytesOf("224.0.0.1")}
		}},
		{"dataplane's addresses", "node.dataplane_addresses[1]", "order", func(s *api.Snapshot) {
			s.Node.DataplaneAddresses = [][]byte{bytesOf("fd00::1"), bytesOf("10.244.1.254")}
		}},
		{"node ports' prefix", "node.node_port_prefixes[0]", "not an IPv4", func(s *api.Snapshot) {
			s.Node.NodePortPrefixes = []*api.Prefix{{}}
		}},
		{"not masqueraded", "node.unmasqueraded[0]", "33 bits", func(s *api.Snapshot) {
			s.Node.Unmasqueraded = []*api.Prefix{{Address: bytesOf("10.0.0.0"), Bits: 33}}
		}},
		{"tunnel", "tunnels[0]", "not act on tunnels", func(s *api.Snapshot) { s.Tunnels = []*api.Tunnel{{}} }},
		{"mirror", "mirrors[0]", "not act on mirrors", func(s *api.Snapshot) { s.Mirrors = []*api.Mirror{{}} }},
		{"limit of nothing", "limits[0].port", "no port 0", func(s *api.Snapshot) { s.Limits = []*api.Limit{{}} }},
		{"limit twice", "limits[1]", "twice", func(s *api.Snapshot) { s.Limits = []*api.Limit{{Port: 1}, {Port: 1}} }},
		{"limit too low", "limits[0].to_port_bits_per_second", "999 is less", func(s *api.Snapshot) {
			s.Limits = []*api.Limit{{Port: 1, ToPortBitsPerSecond: 999}}
		}},
		{"host route twice", "host_routes[1]", "twice", func(s *api.Snapshot) {
			s.HostRoutes = []*api.HostRoute{{Prefix: prefix("10.0.0.0/8")}, {Prefix: prefix("10.0.0.0/8")}}
		}},
		{"port that is nothing", "ports[0].id", "", func(s *api.Snapshot) { s.Ports[0] = nil }},
		{"hop that is nothing", "groups[0].hops[0].port", "", func(s *api.Snapshot) { s.Groups[0].Hops[0] = nil }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			n := neighbor.NewTable(neighbor.Config{})
			s := lab()
			row.change(s)
			_, err := Build(nil, s, machine().links, n)
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v", err)
			}
			if invalid.Field != row.field || !strings.Contains(invalid.Reason, row.reason) {
				t.Errorf("got %q, want field %q and a reason with %q", err, row.field, row.reason)
			}
			if left := n.All(0); len(left) != 0 {
				t.Errorf("a refused snapshot left neighbours behind: %+v", left)
			}
		})
	}
}

func TestRefusalNamesTheOrigin(t *testing.T) {
	s := lab()
	s.Routes[1].Group = 77
	_, err := Build(nil, s, machine().links, neighbor.NewTable(neighbor.Config{}))
	if want := "Route r (r.yaml:9): routes[1].group: there is no group 77"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if Origin(s, 99) != "" || Origin(nil, 0) != "" {
		t.Error("an origin that is not there has a name")
	}
}

// A device may be absent, come, change and go; the tables follow, routes and tables before them stay as they are.
func TestRelink(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	d := machine()
	delete(d, "ens2")
	away := mustBuild(t, nil, lab(), d, n)
	if p := away.Port(2); p.Present || p.Up || p.MAC != (packet.MAC{}) || !p.LinkLocal.IsZero() || p.MTU != 4000 {
		t.Fatalf("port of an absent device: %+v", p)
	}
	here, err := Relink(away, machine().links)
	if err != nil {
		t.Fatal(err)
	}
	if p := here.Port(2); !p.Present || !p.Up || p.MAC != macB || p.LinkLocal != addr("fe80::ff:fe00:b") {
		t.Fatalf("port of a device that came: %+v", p)
	}
	if away.Port(2).Present {
		t.Error("the tables before changed")
	}
	via := here.FIB.Lookup(addr("8.8.8.8")).Hops()[1]
	if via.MTU != 1400 || here.FIB.Size() != away.FIB.Size() || here.Epoch != 7 || via.Neighbor == nil {
		t.Errorf("hop %+v, %d routes of %d", via, here.FIB.Size(), away.FIB.Size())
	}
	n.Learn(2, addr("10.2.0.2"), macA, neighbor.UnsolicitedOverride, 1)
	n.Learn(2, addr("10.2.0.3"), macA, neighbor.RequestSeen, 1)
	smaller := machine()
	smaller["ens2"] = Link{MAC: macB, MTU: 1300, Up: false, Index: 1}
	small, err := Relink(here, smaller.links)
	if err != nil {
		t.Fatal(err)
	}
	if hop := small.FIB.Lookup(addr("8.8.8.8")).Hops()[1]; hop.MTU != 1300 || small.Port(2).Up {
		t.Errorf("hop %+v after the device's MTU fell", hop)
	}
	if hop := small.FIB.Lookup(addr("10.2.0.77")).Hops()[0]; hop.MTU != 1300 {
		t.Errorf("on-link hop %+v after the device's MTU fell", hop)
	}
	if here.FIB.Lookup(addr("8.8.8.8")).Hops()[1].MTU != 1400 {
		t.Error("the tables before changed")
	}
	if _, ok := via.Neighbor.MAC(); !ok {
		t.Error("a device that is down for a moment lost its neighbours")
	}
	if _, err := Relink(small, d.links); err != nil {
		t.Fatal(err)
	}
	if _, ok := via.Neighbor.MAC(); ok || n.Lookup(2, addr("10.2.0.3")) != nil {
		t.Error("neighbours of a vanished device are still known")
	}
}

// The next hops' neighbours are pinned for as long as tables name them, and no longer.
func TestPinsFollowTheTables(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	first := mustBuild(t, nil, lab(), machine(), n)
	s := lab()
	s.Groups[0].Hops = s.Groups[0].Hops[:1]
	second := mustBuild(t, first, s, machine(), n)
	if n.Lookup(2, addr("10.2.0.2")) == nil {
		t.Fatal("unpinned while the first tables are in use")
	}
	runtime.KeepAlive(first)
	for deadline := time.Now().Add(10 * time.Second); n.Lookup(2, addr("10.2.0.2")) != nil; {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatal("still pinned after the tables that named it are gone")
		}
		time.Sleep(time.Millisecond)
	}
	if n.Lookup(1, addr("10.1.0.2")) == nil {
		t.Error("unpinned while the second tables name it")
	}
	runtime.KeepAlive(second)
}

// What has not changed is the same group, and what has keeps its flows where they were.
func TestGroupsAreKept(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	first := mustBuild(t, nil, lab(), machine(), n)
	s := lab()
	s.Groups[0].Hops = append(s.Groups[0].Hops, &api.NextHop{Port: 2, Via: bytesOf("10.2.0.3"), Weight: 1})
	second := mustBuild(t, first, s, machine(), n)
	if first.FIB.Lookup(addr("10.3.0.1")) != second.FIB.Lookup(addr("10.3.0.1")) {
		t.Error("an unchanged group was made anew")
	}
	was, is := first.FIB.Lookup(addr("8.8.8.8")), second.FIB.Lookup(addr("8.8.8.8"))
	if was == is {
		t.Fatal("the changed group is the same")
	}
	moved := 0
	for hash := range uint32(10000) {
		if to := is.Select(hash); to.Via != was.Select(hash).Via {
			moved++
			if to.Via != addr("10.2.0.3") {
				t.Fatal("a flow moved between hops that both stayed")
			}
		}
	}
	if moved < 1500 || moved > 2500 {
		t.Errorf("%d of 10000 flows moved to a hop with a fifth of the weight", moved)
	}
}

// Tables built from others are those built from nothing, whatever the snapshots.
func TestIncrementalEqualsFresh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := neighbor.NewTable(neighbor.Config{})
		var prev *Tables
		for range rapid.IntRange(1, 5).Draw(t, "epochs") {
			s := genSnapshot(t)
			var err error
			if prev, err = Build(prev, s, machine().links, shared); err != nil {
				t.Fatal(err)
			}
			fresh, err := Build(nil, s, machine().links, neighbor.NewTable(neighbor.Config{}))
			if err != nil {
				t.Fatal(err)
			}
			same(t, prev, fresh)
			relinked, err := Relink(prev, machine().links)
			if err != nil {
				t.Fatal(err)
			}
			same(t, relinked, fresh)
		}
	})
}

func same(t *rapid.T, got, want *Tables) {
	t.Helper()
	var a, b []string
	for r := range got.FIB.All() {
		a = append(a, fmt.Sprint(r.Prefix, r.Origin, hopsText(r.Group)))
	}
	for r := range want.FIB.All() {
		b = append(b, fmt.Sprint(r.Prefix, r.Origin, hopsText(r.Group)))
	}
	if !slices.Equal(a, b) || got.FIB.Size() != want.FIB.Size() {
		t.Fatalf("from the tables before:\n%s\nfrom nothing:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

func hopsText(g *route.Group) string {
	s := g.Kind.String()
	for _, h := range g.Hops() {
		s += fmt.Sprint(" ", h.Port, h.Via, h.MTU, h.Weight)
	}
	return s
}

func genSnapshot(t *rapid.T) *api.Snapshot {
	s := lab()
	s.Routes = nil
	if rapid.Bool().Draw(t, "port gone") {
		s.Ports = s.Ports[:3]
	}
	if rapid.Bool().Draw(t, "address gone") {
		s.Ports[2].Addresses = nil
	}
	s.Groups[0].Hops[0].Weight = rapid.Uint32Range(1, 3).Draw(t, "weight")
	s.Groups[0].Kind, s.Groups[1].Kind = api.NextHopGroup_KIND_FORWARD, rapid.SampledFrom(
		[]api.NextHopGroup_Kind{api.NextHopGroup_KIND_BLACKHOLE, api.NextHopGroup_KIND_PROHIBIT}).Draw(t, "kind")
	seen := make(map[netip.Prefix]bool)
	for range rapid.IntRange(0, 40).Draw(t, "routes") {
		a := [4]byte{10, byte(rapid.IntRange(0, 9).Draw(t, "b")), byte(rapid.IntRange(0, 2).Draw(t, "c")),
			byte(rapid.IntRange(0, 2).Draw(t, "d"))}
		p := netip.PrefixFrom(netip.AddrFrom4(a), rapid.IntRange(8, 32).Draw(t, "bits")).Masked()
		if !seen[p] {
			seen[p] = true
			r := routeTo(p.String(), rapid.SampledFrom([]uint32{1, 2, 3, 4, 9}).Draw(t, "group"))
			r.Origin = rapid.Uint32Range(0, 3).Draw(t, "origin")
			s.Routes = append(s.Routes, r)
		}
	}
	slices.SortFunc(s.Routes, compareRoutes)
	return s
}

// Arbitrary bytes as a snapshot: refused or built, never a panic, and what is built answers.
func FuzzBuild(f *testing.F) {
	for _, s := range []*api.Snapshot{lab(), {}, {Ports: []*api.Port{nil}}} {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := new(api.Snapshot)
		if proto.Unmarshal(b, s) != nil {
			return
		}
		n := neighbor.NewTable(neighbor.Config{Limit: 64})
		base, err := Build(nil, lab(), machine().links, n)
		if err != nil {
			t.Fatal(err)
		}
		built, err := Build(base, s, machine().links, n)
		var invalid *InvalidError
		if err != nil {
			if !errors.As(err, &invalid) {
				t.Fatalf("untyped refusal: %v", err)
			}
			return
		}
		for i := range built.Ports {
			built.Ports[i].Source(addr("10.1.0.9"))
		}
		for r := range built.FIB.All() {
			if h := r.Group.Select(1); h == nil && r.Group.Kind == route.Forward {
				t.Fatalf("%s: forwarded to no hop", r.Prefix)
			}
		}
		if _, err := Relink(built, machine().links); err != nil {
			t.Fatalf("relink: %v", err)
		}
	})
}

func TestLookupsDoNotAllocate(t *testing.T) {
	b := mustBuild(t, nil, lab(), machine(), neighbor.NewTable(neighbor.Config{}))
	tags, dst := packet.VLANs{Outer: 100, Inner: 7}, addr("10.1.0.9")
	if n := testing.AllocsPerRun(100, func() {
		p := b.Port(b.Demux(1, tags, packet.MAC{2}))
		p.HasAddr(dst)
		p.OnLink(dst)
		p.Source(dst)
		b.FIB.Lookup(dst)
	}); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

func BenchmarkBuild(b *testing.B) {
	s := lab()
	for i := range uint32(1_000_000) {
		a := 0x10000000 + i<<8
		s.Routes = append(s.Routes, &api.Route{Prefix: []byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), 0}, Bits: 24,
			Group: 1 + i%4})
	}
	slices.SortFunc(s.Routes, compareRoutes)
	s.Routes = slices.CompactFunc(s.Routes, func(x, y *api.Route) bool { return compareRoutes(x, y) == 0 })
	n := neighbor.NewTable(neighbor.Config{})
	base, err := Build(nil, s, machine().links, n)
	if err != nil {
		b.Fatal(err)
	}
	for name, prev := range map[string]*Tables{"fresh": nil, "one-changed": base} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				r := s.Routes[1000+i%1000]
				r.Group = 1 + (r.Group+1)%4
				if _, err := Build(prev, s, machine().links, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
