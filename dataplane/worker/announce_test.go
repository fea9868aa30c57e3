// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// announcing makes device 1 an uplink, and has namespaces and a service announce addresses there.
func announcing(mode api.Uplink_Mode, egress, balancer []string) func(*api.Snapshot) {
	return func(s *api.Snapshot) {
		s.Node = &api.NodeSettings{Uplink: &api.Uplink{Device: "dev1", Mode: mode}}
		for i, a := range egress {
			s.Egress = append(s.Egress, &api.Egress{Namespace: fmt.Sprint("n", i), Addresses: [][]byte{ip(a)},
				Announced: true})
		}
		s.Egress = append(s.Egress, &api.Egress{Namespace: "quiet", Addresses: [][]byte{ip("10.2.0.99")}})
		for i, a := range balancer {
			address := netip.MustParseAddr(a)
			s.Services = append(s.Services, &api.Service{Id: uint32(i + 1), Name: fmt.Sprint("default/s", i),
				Ipv6: address.Is6(), Protocol: api.Protocol_PROTOCOL_TCP, Algorithm: api.Service_ALGORITHM_RANDOM,
				Frontends: []*api.Frontend{{Kind: api.Frontend_KIND_LOAD_BALANCER, Address: ip(a), Port: 80,
					Announced: true}}})
		}
	}
}

// toldOf are the addresses of which frames that left by a device tell unasked, each as "address times", with the tag.
func (r *rig) toldOf(device int) (list []string) {
	r.t.Helper()
	count := map[string]int{}
	for _, data := range r.sent(device) {
		p := decode(data)
		name := ""
		if tag, is := p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); is {
			name = fmt.Sprintf("%d:", tag.VLANIdentifier)
		}
		eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
		if !bytes.Equal(eth.SrcMAC, portMACs[device][:]) {
			r.t.Errorf("it came from %v", eth.SrcMAC)
		}
		if a, is := p.Layer(layers.LayerTypeARP).(*layers.ARP); is {
			if a.Operation != layers.ARPRequest || !bytes.Equal(a.SourceProtAddress, a.DstProtAddress) ||
				!bytes.Equal(a.SourceHwAddress, portMACs[device][:]) ||
				!bytes.Equal(eth.DstMAC, packet.BroadcastMAC[:]) {
				r.t.Errorf("no announcement (RFC 5227 2.3): %v", p)
			}
			address, _ := netip.AddrFromSlice(a.SourceProtAddress)
			count[name+address.String()]++
			continue
		}
		na, is := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		ip6, _ := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		if !is || !na.Override() || na.Solicited() || ip6.HopLimit != 255 || ip6.DstIP.String() != "ff02::1" ||
			!bytes.Equal(na.Options[0].Data, portMACs[device][:]) ||
			!bytes.Equal(eth.DstMAC, []byte{0x33, 0x33, 0, 0, 0, 1}) {
			r.t.Errorf("no advertisement (RFC 4861 7.2.6): %v", p)
			continue
		}
		count[name+na.TargetAddress.String()]++
	}
	for name, n := range count {
		list = append(list, fmt.Sprint(name, " ", n))
	}
	slices.Sort(list)
	return list
}

// pass lets time go by, in steps of a tick.
func (r *rig) pass(ns int64) {
	r.t.Helper()
	for end := r.now + ns; r.now < end; {
		r.now += tickInterval
		r.poll()
	}
}

func (r *rig) wantTold(what string, device int, want ...string) {
	r.t.Helper()
	slices.Sort(want)
	if got := r.toldOf(device); !slices.Equal(got, want) {
		r.t.Errorf("%s: told of %q, want %q", what, got, want)
	}
}

// TestAnnouncements: a link is told of an address three times when it begins to be announced there, and not again while
// it stays.
func TestAnnouncements(t *testing.T) {
	shared := api.Uplink_MODE_SHARED
	r := newRig(t, announcing(shared, []string{"10.2.0.77", "fd00:2::77", "198.51.100.1"}, nil))
	r.pass(5e9)
	// What is of no port's subnet is told on all ports of the uplink.
	r.wantTold("at the start", 1, "10.2.0.77 3", "fd00:2::77 3", "198.51.100.1 3", "100:198.51.100.1 3")
	r.apply(announcing(shared, []string{"10.2.0.77", "fd00:2::77"}, []string{"10.3.0.7", "10.2.0.78"}))
	r.pass(5e9)
	r.wantTold("another one", 1, "10.2.0.78 3", "100:10.3.0.7 3")
	r.apply(announcing(shared, []string{"10.2.0.77"}, []string{"10.2.0.78"}))
	r.pass(5e9)
	r.wantTold("fewer", 1)
	r.apply(announcing(shared, []string{"10.2.0.79"}, nil))
	r.pass(1e8)
	r.apply(announcing(shared, nil, nil))
	r.pass(5e9)
	r.wantTold("one that goes at once", 1, "10.2.0.79 1")
	r.apply(announcing(api.Uplink_MODE_KERNEL, []string{"10.2.0.77"}, []string{"10.2.0.78"}))
	r.pass(5e9)
	r.wantTold("the host's uplink", 1)
	r.wantTold("another device", 0)
}

// TestAnnouncedAddressesAreAnswered: at the uplink, by ARP and by neighbour discovery, and nowhere else; they are
// nobody's neighbour.
func TestAnnouncedAddressesAreAnswered(t *testing.T) {
	r := newRig(t, announcing(api.Uplink_MODE_OWNED, []string{"10.2.0.77", "fd00:2::77"}, []string{"10.2.0.78"}))
	r.pass(5e9)
	r.toldOf(1)
	for address, want := range map[string]bool{
		"10.2.0.1": true, "10.2.0.77": true, "10.2.0.78": true, "10.2.0.79": false, "10.2.0.99": false,
	} {
		_, back := r.forward(1, arp(t, 1, layers.ARPRequest, "10.2.0.2", address))
		if len(back) != btoi(want) {
			t.Errorf("%s: %d answers", address, len(back))
			continue
		}
		if !want {
			continue
		}
		a, is := decode(back[0]).Layer(layers.LayerTypeARP).(*layers.ARP)
		if !is || a.Operation != layers.ARPReply || !bytes.Equal(a.SourceHwAddress, portMACs[1][:]) ||
			!bytes.Equal(a.SourceProtAddress, ip(address)) {
			t.Errorf("%s: answer %v", address, decode(back[0]))
		}
	}
	if _, back := r.forward(0, arp(t, 0, layers.ARPRequest, "10.1.0.2", "10.2.0.77")); len(back) != 0 {
		t.Error("answered at a port that is no uplink's")
	}
	for target, want := range map[string]bool{"fd00:2::77": true, "fd00:2::78": false} {
		frame := make([]byte, 128)
		at := packet.AddrFrom(netip.MustParseAddr(target))
		end := packet.BuildNS(frame, 0, hostMACs[1], packet.AddrFrom(netip.MustParseAddr("fd00:2::2")), at, packet.MAC{})
		_, back := r.forward(1, frame[:end])
		if len(back) != btoi(want) {
			t.Errorf("%s: %d answers", target, len(back))
		}
	}
	r.forward(1, arp(t, 1, layers.ARPRequest, "10.2.0.77", "10.2.0.1")) // somebody claims it
	if r.neighbors.Lookup(2, packet.AddrFrom(netip.MustParseAddr("10.2.0.77"))) != nil {
		t.Error("an address of ours became a neighbour")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
