// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// pod is a port at the trunk; that of 9 has no device.
func pod(id uint32) *api.Port {
	return &api.Port{
		Id: id, Name: fmt.Sprint("default/", id), Device: fmt.Sprintf("vd%02d", id), Attach: api.Port_ATTACH_TRUNK, Origin: 3,
		Addresses: prefixes("169.254.1.1/32", "fe80::1/64"),
		Station: &api.Station{
			Mac:       []byte{2, 0, 0, 0, 9, byte(id)},
			Addresses: [][]byte{bytesOf(fmt.Sprint("10.244.1.", id))},
		},
	}
}

// node is the lab with two pods and the host.
func node() *api.Snapshot {
	s := lab()
	host := pod(9)
	host.Name, host.Device, host.Attach = "host", "viaduct0", api.Port_ATTACH_HOST
	host.Station = &api.Station{Router: true, Addresses: [][]byte{bytesOf("192.0.2.1"), bytesOf("fd00:10::1")}}
	s.Ports = append(s.Ports, pod(7), pod(8), host)
	return s
}

func TestTrunkPorts(t *testing.T) {
	b := mustBuild(t, nil, node(), machine(), neighbor.NewTable(neighbor.Config{}))
	p := b.ByName("default/7")
	if p == nil || !p.Trunk || p.Host || p.DeviceIndex != 2 || p.IfIndex != 107 || p.MAC != packet.GatewayMAC ||
		p.MTU != 65535 {
		t.Fatalf("%+v", p)
	}
	if !p.Up || !p.Present {
		t.Error("a port whose device has no carrier yet takes no packets")
	}
	if !p.Station.Only() || p.Station.MAC != packet.TrunkMAC(7) || p.LinkLocal != addr("fe80::1") {
		t.Errorf("%+v", p)
	}
	for a, want := range map[string]bool{"10.244.1.7": true, "10.244.1.8": false, "169.254.1.1": false, "fe80::77": true} {
		if p.OnLink(addr(a)) != want {
			t.Errorf("%s on the link: want %t", a, want)
		}
	}
	if b.Node4 != addr("192.0.2.1") || b.Node6 != addr("fd00:10::1") {
		t.Errorf("the host has %s and %s", b.Node4, b.Node6)
	}
	if g := b.FIB.Lookup(addr("169.254.1.1")); g != nil && describe(g) != "forward" {
		t.Errorf("the gateway is routed: %s", describe(g))
	}
	// An absent device leaves the port closed, and an absent trunk all of them.
	d := machine()
	delete(d, "vd07")
	if p := mustBuild(t, nil, node(), d, neighbor.NewTable(neighbor.Config{})).Port(7); p.Present || p.Up {
		t.Errorf("%+v", p)
	}
	d = machine()
	delete(d, TrunkDevice)
	if p := mustBuild(t, nil, node(), d, neighbor.NewTable(neighbor.Config{})).Port(8); p.Present || p.Up {
		t.Errorf("%+v", p)
	}
}

func TestTrunkDemux(t *testing.T) {
	b := mustBuild(t, nil, node(), machine(), neighbor.NewTable(neighbor.Config{}))
	for _, row := range []struct {
		device int
		tags   packet.VLANs
		source packet.MAC
		want   packet.PortID
	}{
		{2, packet.VLANs{}, packet.TrunkMAC(7), 7}, {2, packet.VLANs{}, packet.TrunkMAC(9), 9},
		{2, packet.VLANs{}, packet.TrunkMAC(1), 0}, // a port, but not of the trunk
		{2, packet.VLANs{}, packet.TrunkMAC(0), 0}, {2, packet.VLANs{}, packet.TrunkMAC(1<<24 - 1), 0},
		{2, packet.VLANs{Outer: 5}, packet.TrunkMAC(7), 0}, {2, packet.VLANs{}, packet.MAC{2, 0, 0, 0, 9, 7}, 0},
		{0, packet.VLANs{}, packet.TrunkMAC(7), 1},
	} {
		if got := b.Demux(row.device, row.tags, row.source); got != row.want {
			t.Errorf("device %d, tags %v, source %s: port %d, want %d", row.device, row.tags, row.source, got, row.want)
		}
	}
}

func TestTrunkRefusals(t *testing.T) {
	for name, row := range map[string]struct {
		field, reason string
		change        func(p, host *api.Port)
	}{
		"no station":  {".station", "has one", func(p, _ *api.Port) { p.Station = nil }},
		"no MAC":      {".station.mac", "unicast", func(p, _ *api.Port) { p.Station.Mac = nil }},
		"group MAC":   {".station.mac", "unicast", func(p, _ *api.Port) { p.Station.Mac[0] = 1 }},
		"no address":  {".station.addresses", "missing", func(p, _ *api.Port) { p.Station.Addresses = nil }},
		"bad address": {".station.addresses[0]", "not an IPv4", func(p, _ *api.Port) { p.Station.Addresses[0] = []byte{1} }},
		"loopback": {".station.addresses[0]", "cannot be", func(p, _ *api.Port) {
			p.Station.Addresses[0] = bytesOf("127.0.0.1")
		}},
		"twice": {".station.addresses[1]", "twice", func(p, _ *api.Port) {
			p.Station.Addresses = append(p.Station.Addresses, p.Station.Addresses[0])
		}},
		"routable": {".addresses[2]", "not link-local", func(p, _ *api.Port) {
			p.Addresses = append(p.Addresses, prefix("10.9.0.1/24"))
		}},
		"queues":    {".queues", "has none", func(p, _ *api.Port) { p.Queues = []uint32{0} }},
		"tags":      {".outer_vlan", "no VLAN tags", func(p, _ *api.Port) { p.OuterVlan = 5 }},
		"attach":    {".attach", "not known", func(p, _ *api.Port) { p.Attach = 9 }},
		"two hosts": {".attach", "one port", func(p, _ *api.Port) { p.Attach = api.Port_ATTACH_HOST }},
		"device":    {".device", "the same device", func(p, _ *api.Port) { p.Device = "vd07" }},
		"name":      {".name", "another port", func(p, _ *api.Port) { p.Name = "left" }},
	} {
		s := node()
		row.change(s.Ports[5], s.Ports[6])
		_, err := Build(nil, s, machine().links, neighbor.NewTable(neighbor.Config{}))
		var invalid *InvalidError
		if !errors.As(err, &invalid) || !strings.HasSuffix(invalid.Field, "]"+row.field) ||
			!strings.Contains(invalid.Reason, row.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What became of a pod's device matters when it comes or goes; of the others' everything does.
func TestWatches(t *testing.T) {
	b := mustBuild(t, nil, node(), machine(), neighbor.NewTable(neighbor.Config{}))
	for _, row := range []struct {
		device  string
		ifindex int
		gone    bool
		want    bool
	}{
		{"ens1", 1, false, true}, {"vd07", 107, false, false}, {"vd07", 107, true, true}, {"vd07", 200, false, true},
		{"renamed", 107, false, true}, {"vd55", 55, false, false}, {"vd55", 55, true, false}, {TrunkDevice, 3, false, true},
	} {
		if got := b.Watches(row.device, row.ifindex, row.gone); got != row.want {
			t.Errorf("%+v: %t", row, got)
		}
	}
}

// A bucket lets bursts through, then the rate, whatever the packets' sizes, and refuses what would wait too long.
func TestBucket(t *testing.T) {
	const rate, burst = 8e6, 30000 // a byte a microsecond
	b := newBucket(rate, burst)
	now, sent := int64(1e12), 0
	for leave, ok := now, true; ok && leave <= now; sent++ {
		leave, ok = b.Take(1000, now)
	}
	if sent < 30 || sent > 32 {
		t.Errorf("%d kB at once, the burst is 30", sent)
	}
	last, passed, refused := now, 0, 0
	for i := range 4000 { // twice the rate, for two seconds
		at := now + int64(i)*int64(500*time.Microsecond)
		leave, ok := b.Take(1000, at)
		if !ok {
			refused++
			continue
		}
		if leave < last {
			t.Fatal("packets of one bucket overtake each other")
		}
		if leave-at > maxWait {
			t.Fatalf("a packet waits for %v", time.Duration(leave-at))
		}
		last, passed = leave, passed+1
	}
	if passed < 2000 || passed > 2060 || refused != 4000-passed {
		t.Errorf("%d passed in two seconds, %d refused; the rate is 1000 a second, and 50 may wait", passed, refused)
	}
}

// A limit that stays as it is goes on from where it was.
func TestLimitsLiveOn(t *testing.T) {
	s := node()
	s.Limits = []*api.Limit{
		{Port: 7, ToPortBitsPerSecond: 1e6, ToPortBurstBytes: 1500},
		{Port: 8, FromPortBitsPerSecond: 1e6},
	}
	n := neighbor.NewTable(neighbor.Config{})
	first := mustBuild(t, nil, s, machine(), n)
	if l := first.Port(7).Limit; l == nil || l.To == nil || l.From != nil {
		t.Fatalf("%+v", l)
	}
	next := node()
	next.Epoch++
	next.Limits = []*api.Limit{
		{Port: 7, ToPortBitsPerSecond: 1e6, ToPortBurstBytes: 1500},
		{Port: 8, FromPortBitsPerSecond: 2e6},
	}
	second := mustBuild(t, first, next, machine(), n)
	if second.Port(7).Limit != first.Port(7).Limit || second.Port(8).Limit == first.Port(8).Limit {
		t.Error("the unchanged limit begins anew, or the changed one does not")
	}
	third := mustUpdate(t, second, next, func() *api.Snapshot {
		s := node()
		s.Epoch = next.Epoch + 1
		s.Limits = next.Limits[:1]
		return s
	}())
	if third.Port(7).Limit != first.Port(7).Limit || third.Port(8).Limit != nil {
		t.Error("a delta changes the limit that it does not name, or leaves the one that it removes")
	}
}
