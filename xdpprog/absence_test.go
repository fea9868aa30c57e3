// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// absentLab is one whose userspace is silent, and has said that packets are to pass to the host, a port too.
type absentLab struct {
	*carryLab
	host TrunkPort
}

const absentHost = 5

func newAbsentLab(t *testing.T) *absentLab {
	l := &absentLab{carryLab: newCarryLab(t)}
	pair := newVeth(t, vethOptions{})
	l.host = TrunkPort{ID: absentHost, IfIndex: pair.ifindex, HostIfIndex: pair.peer, Host: true, Router: true,
		MAC: [6]byte{2, 0, 0, 0, 0, 8}}
	setPort(t, l.trunk, l.host)
	l.control.heart, l.control.onAbsence, l.control.hostPort = monotonic(t)-900e6, 1, absentHost
	return l
}

// expect gives from_port a frame of a port's; nil: it is to be dropped, and whole.
func (l *absentLab) expect(t *testing.T, what string, port uint32, ifindex int, frame, want []byte) {
	t.Helper()
	before := countersOf(t, l.trunk, port)
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512),
		Context: runContext{IfIndex: uint32(ifindex)}}
	action, err := l.trunk.fromPort.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	wanted, reason := uint32(tcRedirect), AbsentPassed
	if want == nil {
		wanted, reason, want = tcShot, AbsentDropped, frame
	}
	counted := countersOf(t, l.trunk, port)[reason-FromPort].Packets - before[reason-FromPort].Packets
	if action != wanted || counted != 1 || !bytes.Equal(options.DataOut, want) {
		t.Errorf("%s: action %d, %d counted as %s, and the frame\n%x, want %d,\n%x", what, action, counted, reason,
			options.DataOut, wanted, want)
	}
}

// entering is the frame as the host's stack gets it, leaving as it leaves that.
func (l *absentLab) entering(frame []byte) []byte {
	return join(l.host.MAC[:], gatewayMAC[:], frame[12:])
}
func (l *absentLab) leaving(frame []byte) []byte {
	return join(gatewayMAC[:], l.host.MAC[:], frame[12:])
}

// TestAbsentPass: what a pod sends to its router enters the host's stack, and what the stack sends to a pod's address
// goes to that pod. Nothing else passes.
func TestAbsentPass(t *testing.T) {
	l := newAbsentLab(t)
	for _, of := range []struct{ pod, world, local, router, all netip.Addr }{
		{peer4, ours4, netip.Addr{}, netip.Addr{}, netip.MustParseAddr("255.255.255.255")},
		{peer6, ours6, netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")},
	} {
		for _, proto := range []uint8{tcpProto, udpProto} {
			between := func(src, dst netip.Addr) []byte { return segment(ap(src, 1), ap(dst, 2), proto, []byte("?")) }
			ask, answer := between(of.pod, of.world), l.leaving(between(of.world, of.pod))
			l.expect(t, "a question", portID, l.ifindex, ask, l.entering(ask))
			l.expect(t, "its answer", absentHost, l.host.IfIndex, answer, join(stationMAC[:], gatewayMAC[:], answer[12:]))
			l.expect(t, "an answer to nobody", absentHost, l.host.IfIndex, l.leaving(ask), nil)
			l.expect(t, "to all", portID, l.ifindex, between(of.pod, of.all), nil)
			l.expect(t, "to another station's MAC", portID, l.ifindex, join(otherMAC[:], ask[6:]), nil)
			if of.router.IsValid() {
				l.expect(t, "to the router", portID, l.ifindex, between(of.pod, of.router), nil)
				l.expect(t, "of the link", portID, l.ifindex, between(of.local, of.router), nil)
			}
		}
	}
	l.expect(t, "ARP", portID, l.ifindex, join(gatewayMAC[:], stationMAC[:], []byte{8, 6}, arp(1, ours4)), nil)

	ask := segment(ap(peer4, 1), ap(ours4, 2), udpProto, nil)
	l.control.hostPort = 0
	l.expect(t, "without a host", portID, l.ifindex, ask, nil)
	l.control.hostPort = otherPort
	l.expect(t, "to a pod that is taken for the host", portID, l.ifindex, ask, nil)
	l.control.hostPort = absentHost
	p := station(l.ifindex)
	p.Router = true
	setPort(t, l.trunk, p)
	l.expect(t, "of one whose sources are not checked", portID, l.ifindex, ask, nil)
	l.control.onAbsence = 0
	setPort(t, l.trunk, station(l.ifindex))
	l.expect(t, "not wanted", portID, l.ifindex, ask, nil)
}

// TestAddressesChangeHands: an address leads to the port that got it last, and to none that has lost it.
func TestAddressesChangeHands(t *testing.T) {
	l := newAbsentLab(t)
	answer := l.leaving(segment(ap(ours4, 1), ap(peer4, 2), udpProto, nil))
	expect := func(what string, to *[6]byte) {
		t.Helper()
		var want []byte
		if to != nil {
			want = join(to[:], gatewayMAC[:], answer[12:])
		}
		l.expect(t, what, absentHost, l.host.IfIndex, answer, want)
	}
	expect("at first", &stationMAC)
	other := TrunkPort{ID: 6, IfIndex: newVeth(t, vethOptions{}).ifindex, MAC: otherMAC, Addresses: []netip.Addr{peer4}}
	setPort(t, l.trunk, other)
	expect("another's", &otherMAC)
	for _, id := range []uint32{portID, 6} {
		if err := l.trunk.RemovePort(id); err != nil {
			t.Error(err)
		}
		if id == portID {
			expect("after the first has gone", &otherMAC)
		}
	}
	expect("after both have gone", nil)

	setPort(t, l.trunk, other)
	other.Addresses = []netip.Addr{second4}
	setPort(t, l.trunk, other)
	expect("after it has got another", nil)
	other.Addresses = []netip.Addr{peer4}
	setPort(t, l.trunk, other)
	second := TrunkPort{ID: 7, IfIndex: other.IfIndex, MAC: stationMAC}
	setPort(t, l.trunk, second)
	expect("after its device has become another's", nil)
	second.Addresses = []netip.Addr{peer4}
	setPort(t, l.trunk, second)
	second.IfIndex, second.Addresses = newVeth(t, vethOptions{}).ifindex, nil
	setPort(t, l.trunk, second)
	expect("after it has moved", nil)
	if n := l.trunk.maps["addresses"].Iterate(); n.Next(new(mappedAddress), new(uint32)) {
		t.Error("addresses are left")
	}
}
