// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
)

// translating is a node with all the settings of translation.
func translating() *api.Snapshot {
	s := node()
	s.Node.DataplaneAddresses = [][]byte{bytesOf("10.244.1.254"), bytesOf("fd00:244::ffff")}
	s.Node.Unmasqueraded = prefixes("10.244.0.0/16", "fd00:244::/48")
	s.Node.Masquerade, s.Node.Uplink = true, &api.Uplink{Device: "ens1", Mode: api.Uplink_MODE_SHARED}
	s.Egress = []*api.Egress{{Namespace: "default", Addresses: [][]byte{bytesOf("192.0.2.99")}}}
	return s
}

// What is asked of addresses when packets are translated.
func TestAddresses(t *testing.T) {
	b := mustBuild(t, nil, translating(), machine(), neighbor.NewTable(neighbor.Config{}))
	b = b.WithDevices([]netip.Addr{
		netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::7"),
	})
	for _, row := range []struct {
		address                     string
		node, host, inside, unmasqd bool
	}{
		{"198.51.100.7", true, true, false, false},  // a device's
		{"192.0.2.1", true, true, false, false},     // the host's port
		{"10.1.0.1", true, true, false, false},      // a port's own
		{"10.244.1.254", true, false, true, true},   // the dataplane's
		{"fd00:244::ffff", true, false, true, true}, // the dataplane's
		{"10.244.1.7", false, false, true, true},    // a pod
		{"fd00:10::1", true, true, true, false},     // the host's, a node's identity
		{"127.0.0.1", false, false, false, false},
		{"169.254.1.1", false, false, false, false}, // the pods' gateway
		{"fe80::7", false, false, false, false},
		{"203.0.113.1", false, false, false, false},
		{"::", false, false, false, false},
	} {
		a := addr(row.address)
		if b.IsNode(a) != row.node || b.IsHost(a) != row.host || b.Inside(a) != row.inside ||
			b.Unmasqueraded(a) != row.unmasqd {
			t.Errorf("%s: node ports %t, host %t, inside %t, unmasqueraded %t",
				row.address, b.IsNode(a), b.IsHost(a), b.Inside(a), b.Unmasqueraded(a))
		}
	}
	if four, six := b.EgressOf(addr("10.244.1.7")); four != addr("192.0.2.99") || !six.IsZero() {
		t.Errorf("a pod goes out as %s and %s", four, six)
	}
	for _, other := range []string{"fd00:10::1", "203.0.113.1", "::"} {
		if four, six := b.EgressOf(addr(other)); !four.IsZero() || !six.IsZero() {
			t.Errorf("%s goes out as %s and %s", other, four, six)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		b.IsNode(addr4)
		b.Inside(addr4)
		b.Unmasqueraded(addr4)
		b.EgressOf(addr4)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

var addr4 = addr("10.244.1.7")

// Node ports are where the settings say, and at the dataplane's own address whatever they say.
func TestNodePortPrefixes(t *testing.T) {
	s := translating()
	s.Node.NodePortPrefixes = prefixes("192.0.2.0/24")
	b := mustBuild(t, nil, s, machine(), neighbor.NewTable(neighbor.Config{}))
	for a, want := range map[string]bool{
		"192.0.2.1": true, "10.1.0.1": false, "fd00:10::1": false, "10.244.1.254": true, "fd00:244::ffff": true,
	} {
		if b.IsNode(addr(a)) != want {
			t.Errorf("node ports at %s: want %t", a, want)
		}
	}
	if !b.IsHost(addr("10.1.0.1")) {
		t.Error("an address without node ports is the node's all the same")
	}
}

// The uplink's ports masquerade where the host's stack does not see to it.
func TestMasquerades(t *testing.T) {
	for _, row := range []struct {
		change func(*api.NodeSettings)
		want   bool
	}{
		{func(*api.NodeSettings) {}, true},
		{func(n *api.NodeSettings) { n.Uplink.Mode = api.Uplink_MODE_OWNED }, true},
		{func(n *api.NodeSettings) { n.Uplink.Mode = api.Uplink_MODE_KERNEL }, false},
		{func(n *api.NodeSettings) { n.Masquerade = false }, false},
		{func(n *api.NodeSettings) { n.Uplink = nil }, false},
	} {
		s := translating()
		row.change(s.Node)
		b := mustBuild(t, nil, s, machine(), neighbor.NewTable(neighbor.Config{}))
		if b.Port(1).Masquerades != row.want || b.Port(2).Masquerades || b.Port(7).Masquerades {
			t.Errorf("%v: %t", s.Node.Uplink, b.Port(1).Masquerades)
		}
	}
}

// Flows are looked up first where anything depends on them.
func TestTracking(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	if mustBuild(t, nil, lab(), machine(), n).Tracking {
		t.Error("of ports with no station nothing is asked")
	}
	for name, s := range map[string]*api.Snapshot{"stations": node(), "masquerade": translating()} {
		if name == "masquerade" {
			s.Ports, s.Egress = s.Ports[:4], nil
		}
		at := mustBuild(t, nil, s, machine(), n)
		if !at.Tracking {
			t.Errorf("%s: not tracked", name)
		}
		if again, err := Relink(at, machine().links); err != nil || !again.Tracking {
			t.Errorf("%s: not tracked when devices changed (%v)", name, err)
		}
	}
}

// What tables know of the node's devices, and the backends, live on from tables to tables.
func TestTablesInherit(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	first := mustBuild(t, nil, node(), machine(), n).WithDevices([]netip.Addr{netip.MustParseAddr("198.51.100.7")})
	second := mustBuild(t, first, translating(), machine(), n)
	third, err := Relink(second, machine().links)
	if err != nil {
		t.Fatal(err)
	}
	d := &api.Delta{Base: 7, Set: &api.Snapshot{Epoch: 8, Egress: []*api.Egress{
		{Namespace: "default", Addresses: [][]byte{bytesOf("192.0.2.77")}}}}}
	snap, err := d.Apply(translating())
	if err != nil {
		t.Fatal(err)
	}
	fourth, err := Update(third, snap, d, machine().links)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range []*Tables{second, third, fourth} {
		if b.Backends != first.Backends || !b.IsNode(addr("198.51.100.7")) {
			t.Errorf("tables %d know other backends or devices", i+2)
		}
	}
	if four, _ := fourth.EgressOf(addr4); four != addr("192.0.2.77") {
		t.Errorf("goes out as %s", four)
	}
	if four, _ := third.EgressOf(addr4); four != addr("192.0.2.99") {
		t.Errorf("the tables before changed: %s", four)
	}
}
