// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// The fill rings of many devices leave frames for packets of our own.
func TestManyDevicesLeaveFramesToAskWith(t *testing.T) {
	r := newRig(t, nil)
	for device := 2; device < 9; device++ {
		m, err := xsk.NewMemory(xsk.MemoryConfig{
			UMEM: r.umem, RxSize: 512, TxSize: 512, FillSize: 512, CompletionSize: 512,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.worker.AddLink(device, m, 512)
	}
	r.inject(0, udp(t, 0, "10.1.0.2", "10.2.0.2", 10, nil))
	for range 25 {
		r.now += 1e8
		r.poll()
	}
	if len(r.sent(1)) == 0 {
		t.Error("the neighbour is not asked for")
	}
}

// An echo reply that does not fit its way is not sent as if it did.
func TestEchoReplyKeepsToTheMTU(t *testing.T) {
	r := newRig(t, nil).know()
	out, _ := r.forward(0, build(t,
		&layers.Ethernet{SrcMAC: hostMACs[0][:], DstMAC: portMACs[0][:], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolICMPv4,
			SrcIP: net.IP(ip("10.20.0.5")), DstIP: net.IP(ip("10.1.0.1"))},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 7, Seq: 9},
		gopacket.Payload(make([]byte, 4000))))
	for _, o := range out {
		if len(o) > 1514 {
			t.Errorf("%d bytes left by a port of MTU 1500", len(o))
		}
	}
}

// A link-local address is no source for an error that leaves its link (RFC 4291 2.5.6).
func TestErrorSourceHasTheScope(t *testing.T) {
	r := newRig(t, func(s *api.Snapshot) { s.Ports[0].Addresses = s.Ports[0].Addresses[:1] }).know()
	out, _ := r.forward(0, udp(t, 0, "fd00:20::9", "2001:db8::1", 10, nil))
	if len(out) != 1 {
		t.Fatalf("%d errors", len(out))
	}
	if src := netip.AddrFrom16([16]byte(out[0][14+8 : 14+24])); src != netip.MustParseAddr("fd00:2::1") {
		t.Errorf("the error comes from %v", src)
	}
}

// An error about a packet to an address of ours comes from that address (RFC 4443 2.2 (a)).
func TestPortUnreachableComesFromTheAddress(t *testing.T) {
	r := newRig(t, nil).know()
	_, back := r.forward(0, udp(t, 0, "fd00:1::2", "fd00:2::1", 10, nil))
	if len(back) != 1 {
		t.Fatalf("%d errors", len(back))
	}
	if src := netip.AddrFrom16([16]byte(back[0][14+8 : 14+24])); src != netip.MustParseAddr("fd00:2::1") {
		t.Errorf("the error comes from %v", src)
	}
}

// What follows an IP packet in further frames does not get past the MTU.
func TestTrailerIsNotForwarded(t *testing.T) {
	r := newRig(t, nil).know()
	in := append(udp(t, 0, "10.1.0.2", "10.20.0.1", 100, nil), bytes.Repeat([]byte{9}, 6000)...)
	if out, _ := r.forward(0, in); len(out) != 0 {
		t.Errorf("%d bytes left", len(out[0]))
	}
	if r.count(1, verdict.TooLargeForPort) != 1 {
		t.Error("not counted")
	}
}

// Large packets that wait for neighbours leave frames to receive with.
func TestHeldPacketsLeaveFrames(t *testing.T) {
	r := newRig(t, nil)
	r.mtu = [2]int{65535, 65535}
	r.apply(nil)
	for i := range 400 {
		r.rings[0].Inject(udp(t, 0, "10.1.0.2", fmt.Sprintf("10.2.0.%d", 2+i/4), 60000, nil))
		r.worker.Poll(r.now)
		r.sent(1)
	}
	r.poll()
	if !r.rings[0].Inject(udp(t, 0, "10.1.0.2", "10.1.0.1", 18, nil)) {
		t.Error("no frame is left to receive with")
	}
}

// Fragments that find no room are counted.
func TestLostFragmentsAreCounted(t *testing.T) {
	r := newRig(t, nil).know()
	for range 4 {
		for range 30 {
			r.inject(0, udp(t, 0, "10.1.0.2", "10.20.0.1", 8000, nil))
		}
		r.poll()
	}
	all := r.checkLedger()
	pieces := all.Get(ledger.Transmitted) + all.Get(ledger.OriginatedLost) + r.count(1, verdict.TxRingFull)
	if pieces != 4*30*6 {
		t.Errorf("%d pieces of %d are accounted for", pieces, 4*30*6)
	}
}

// Sources that no packet on a wire may have, each kind under its own reason, on a port of its own and from a pod.
func TestMartianSources(t *testing.T) {
	for _, row := range []struct {
		src, dst string
		why      verdict.Reason
	}{
		{"127.0.0.1", "10.20.0.1", verdict.MartianSource}, {"0.1.2.3", "10.20.0.1", verdict.MartianSource},
		{"::1", "fd00:20::1", verdict.MartianSource}, {"::", "fd00:20::1", verdict.MartianSource},
		{"224.0.0.9", "10.20.0.1", verdict.MulticastSource}, {"ff02::9", "fd00:20::1", verdict.MulticastSource},
		{"255.255.255.255", "10.20.0.1", verdict.BroadcastSource}, {"10.1.0.255", "10.20.0.1", verdict.BroadcastSource},
		{"10.1.0.0", "10.20.0.1", verdict.BroadcastSource},
		{"240.0.0.1", "10.20.0.1", verdict.BogonSource}, {"::a00:1", "fd00:20::1", verdict.BogonSource},
	} {
		r := newRig(t, nil).know()
		out, back := r.forward(0, udp(t, 0, row.src, row.dst, 10, nil))
		if len(out)+len(back) != 0 || r.count(1, row.why) != 1 {
			t.Errorf("%s: %d packets left, %d counted as %s", row.src, len(out)+len(back), r.count(1, row.why), row.why)
		}
		pods := podRig(t)
		pods.inject(1, onTrunk(theHost, udp(t, 1, row.src, row.dst, 10, nil)))
		pods.poll()
		if !strings.HasPrefix(row.src, "10.") && pods.count(theHost, row.why) != 1 {
			t.Errorf("%s by the trunk: not counted as %s", row.src, row.why)
		}
	}
	r := newRig(t, nil).know()
	if out, _ := r.forward(0, udp(t, 0, "10.1.0.254", "10.20.0.1", 10, nil)); len(out) != 1 {
		t.Error("a source beside the broadcast address did not go through")
	}
}
