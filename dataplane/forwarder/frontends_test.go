// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/xdpprog"
)

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

func onDevice(s string) host.Address {
	p := netip.MustParsePrefix(s)
	return host.Address{Prefix: p, Spare: p.IsSingleIP()}
}

func webService(id uint32, ipv6 bool, at ...string) *api.Service {
	s := &api.Service{Id: id, Name: "default/web", Ipv6: ipv6, Protocol: api.Protocol_PROTOCOL_TCP,
		Algorithm: api.Service_ALGORITHM_RANDOM}
	for _, a := range at {
		s.Frontends = append(s.Frontends, &api.Frontend{Kind: api.Frontend_KIND_CLUSTER_IP, Address: address(a).AsSlice(),
			Port: 80})
	}
	return s
}

func withNodePort(s *api.Service, port uint32) *api.Service {
	s.Frontends = append(s.Frontends, &api.Frontend{Kind: api.Frontend_KIND_NODE_PORT, Port: port})
	return s
}

// settled forgets what is to be written.
func (f *frontends) settled() {
	clear(f.dirtyFrontends)
	clear(f.dirtyAddresses)
}

func TestFrontendsOfServices(t *testing.T) {
	f := newFrontends()
	f.setHost([]host.Address{onDevice("192.0.2.1/24"), onDevice("2001:db8::1/64")})
	f.setAll([]*api.Service{
		withNodePort(webService(1, false, "10.96.0.1"), 30080), withNodePort(webService(2, true, "fd00:96::1"), 30080),
		webService(3, false, "10.96.0.1", "192.0.2.1"),
	})
	want := []xdpprog.Frontend{
		{Addr: netip.IPv4Unspecified(), Proto: unix.IPPROTO_TCP, Port: 30080},
		{Addr: address("10.96.0.1"), Proto: unix.IPPROTO_TCP, Port: 80},
		{Addr: address("192.0.2.1"), Proto: unix.IPPROTO_TCP, Port: 80},
		{Addr: netip.IPv6Unspecified(), Proto: unix.IPPROTO_TCP, Port: 30080},
		{Addr: address("fd00:96::1"), Proto: unix.IPPROTO_TCP, Port: 80},
	}
	for _, front := range want {
		if f.refs[front] == 0 || !f.dirtyFrontends[front] {
			t.Errorf("%s is not there", front)
		}
	}
	if len(f.refs) != len(want) {
		t.Errorf("there are %v", f.refs)
	}
	const node = xdpprog.AtHost | xdpprog.AtNodePorts
	for a, uses := range map[string]xdpprog.Uses{
		"10.96.0.1": xdpprog.AtFrontend, "192.0.2.1": node | xdpprog.AtFrontend, "2001:db8::1": node, "192.0.2.2": 0,
		"127.0.0.1": xdpprog.AtLoopback, "::1": xdpprog.AtLoopback,
	} {
		if is := f.uses(address(a)); is != uses {
			t.Errorf("%s is %b, want %b", a, is, uses)
		}
	}
}

// A change of backends writes nothing, and a frontend that two services have stays until both are gone.
func TestFrontendsChange(t *testing.T) {
	f := newFrontends()
	f.setAll([]*api.Service{webService(1, false, "10.96.0.1"), webService(2, false, "10.96.0.1")})
	f.settled()
	again := webService(1, false, "10.96.0.1")
	again.Backends = []*api.Backend{{Address: address("10.244.1.2").AsSlice(), Port: 8080, Weight: 1}}
	f.set(again)
	if len(f.dirtyFrontends)+len(f.dirtyAddresses) != 0 {
		t.Errorf("another backend has %v and %v written", f.dirtyFrontends, f.dirtyAddresses)
	}
	f.remove(1)
	front := xdpprog.Frontend{Addr: address("10.96.0.1"), Proto: unix.IPPROTO_TCP, Port: 80}
	if f.refs[front] != 1 || f.uses(front.Addr) != xdpprog.AtFrontend {
		t.Error("it went with one of two services")
	}
	f.setAll(nil)
	if len(f.refs)+len(f.at)+len(f.of) != 0 || f.uses(front.Addr) != 0 {
		t.Errorf("left: %v, %v", f.refs, f.at)
	}
	if !slices.Equal(slices.Collect(maps.Keys(f.dirtyFrontends)), []xdpprog.Frontend{front}) {
		t.Errorf("to be written: %v", f.dirtyFrontends)
	}
}

func TestUsesOfAddresses(t *testing.T) {
	f := newFrontends()
	second := onDevice("192.0.2.8/24")
	second.Spare = true
	f.setHost([]host.Address{onDevice("192.0.2.1/24"), second, onDevice("192.0.2.9/32"), onDevice("10.244.1.254/32"),
		onDevice("198.51.100.1/24")})
	f.setNode(&api.NodeSettings{DataplaneAddresses: [][]byte{address("10.244.1.254").AsSlice()},
		NodePortPrefixes: []*api.Prefix{prefixOf("192.0.2.0/24")}})
	f.setEgress([]*api.Egress{{Namespace: "a", Addresses: [][]byte{address("192.0.2.1").AsSlice()}},
		{Namespace: "b", Addresses: [][]byte{address("192.0.2.9").AsSlice()}},
		{Namespace: "d", Addresses: [][]byte{address("192.0.2.8").AsSlice()}},
		{Namespace: "c", Addresses: [][]byte{address("203.0.113.1").AsSlice()}}})
	const node = xdpprog.AtHost | xdpprog.AtNodePorts
	for a, uses := range map[string]xdpprog.Uses{
		"192.0.2.1": node, "192.0.2.8": node | xdpprog.AtEgress, "192.0.2.9": node | xdpprog.AtEgress,
		"203.0.113.1": xdpprog.AtEgress, "198.51.100.1": xdpprog.AtHost, "10.244.1.254": 0, "127.0.0.1": 0, "::1": 0,
	} {
		if is := f.uses(address(a)); is != uses {
			t.Errorf("%s is %b, want %b", a, is, uses)
		}
		if !f.dirtyAddresses[address(a)] && uses != 0 {
			t.Errorf("%s is not to be written", a)
		}
	}
	f.settled()
	f.setEgress(nil)
	f.setHost(nil)
	for _, a := range []string{"192.0.2.1", "192.0.2.9", "203.0.113.1", "198.51.100.1"} {
		if f.uses(address(a)) != 0 || !f.dirtyAddresses[address(a)] {
			t.Errorf("%s is still something", a)
		}
	}
}

func BenchmarkFrontendsBackendChange(b *testing.B) {
	f := newFrontends()
	var all []*api.Service
	for i := range uint32(10000) {
		all = append(all, webService(i+1, false, netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()))
	}
	f.setAll(all)
	f.settled()
	for b.Loop() {
		f.set(all[5000])
	}
}

// An address by which the host is reached stays the host's on an uplink that is shared, whatever services say.
func TestSharedAddresses(t *testing.T) {
	f := newFrontends()
	f.setAll([]*api.Service{webService(1, false, "10.96.0.1", "192.0.2.1", "192.0.2.9", "203.0.113.1")})
	f.setEgress([]*api.Egress{{Namespace: "a", Addresses: [][]byte{address("192.0.2.1").AsSlice()}}})
	want := func(texts ...string) {
		t.Helper()
		var is []string
		for _, p := range f.addresses() {
			is = append(is, p.Addr().String())
		}
		slices.Sort(is)
		if is = slices.Compact(is); !slices.Equal(is, texts) {
			t.Errorf("%v, want %v", is, texts)
		}
	}
	want("10.96.0.1", "192.0.2.1", "192.0.2.9", "203.0.113.1")
	f.setHost([]host.Address{
		{Prefix: netip.MustParsePrefix("192.0.2.1/24")}, {Prefix: netip.MustParsePrefix("192.0.2.9/32"), Spare: true},
	})
	if !f.unshared {
		t.Error("nobody hears of it")
	}
	want("10.96.0.1", "192.0.2.9", "203.0.113.1")
	f.setHost(nil)
	want("10.96.0.1", "192.0.2.1", "192.0.2.9", "203.0.113.1")
}

// Ports of the node that are in the range of ephemeral ones, whichever address of the node they are at.
func TestNodePortsWithin(t *testing.T) {
	f := newFrontends()
	web := webService(1, false, "10.96.0.1")
	web.Frontends = append(web.Frontends,
		&api.Frontend{Kind: api.Frontend_KIND_LOAD_BALANCER, Address: address("203.0.113.1").AsSlice(), Port: 40000},
		&api.Frontend{Kind: api.Frontend_KIND_NODE_PORT, Port: 30080},
		&api.Frontend{Kind: api.Frontend_KIND_HOST_PORT, Port: 60999},
		&api.Frontend{Kind: api.Frontend_KIND_HOST_PORT, Port: 61000},
		&api.Frontend{Kind: api.Frontend_KIND_HOST_PORT, Address: address("192.0.2.1").AsSlice(), Port: 32768},
		&api.Frontend{Kind: api.Frontend_KIND_HOST_PORT, Address: address("192.0.2.9").AsSlice(), Port: 32769})
	f.setAll([]*api.Service{web})
	f.setHost([]host.Address{{Prefix: netip.MustParsePrefix("192.0.2.1/24")}})
	want := []string{"tcp 32768", "tcp 60999"}
	if got := f.nodePortsWithin(32768, 60999); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
