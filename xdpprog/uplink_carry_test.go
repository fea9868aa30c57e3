// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// uplinkCarryLab is an uplink's hook with a flow table, and a port of the host's and one of a pod's.
type uplinkCarryLab struct {
	*uplinkLab
	*carryLab
}

func newUplinkCarryLab(t *testing.T) uplinkCarryLab {
	t.Helper()
	l := newCarryLab(t)
	host := newVeth(t, vethOptions{})
	setPort(t, l.trunk, TrunkPort{ID: hostPort, IfIndex: host.ifindex, Host: true, HostIfIndex: host.ifindex})
	return uplinkCarryLab{newUplinkLabOf(t, l.trunk), l}
}

// service is a flow from the world by the uplink to a frontend, and on to a pod.
func service(f ipFamily, port uint16, proto uint8) *testFlow {
	x := plain(ap(f.client(), 4000), ap(f.frontend, port), proto)
	x.far, x.flags = [2]netip.AddrPort{ap(f.client(), 4000), ap(f.pod, 8080)}, testTranslated
	x.in = [2]uint32{hostPort, otherPort}
	return x
}

func (l uplinkCarryLab) fromClient(x *testFlow) []byte {
	b := segment(x.near[0], x.near[1], x.proto, []byte("something"))
	copy(b, join(l.mac, []byte{2, 0, 0, 0, 0, 9}))
	return b
}

// A service's flow is carried from the uplink, and counted there, as the host's and as the pod's. What is not carried
// goes to userspace, and what is no service's is left, even if there is a record.
func TestUplinkCarries(t *testing.T) {
	for _, f := range ipFamilies {
		l := newUplinkCarryLab(t)
		x := service(f, frontPort, unix.IPPROTO_UDP)
		l.enter(t, x)
		frame := l.fromClient(x)
		before, host, pod := l.control.carry, countersOf(t, l.trunk, hostPort), countersOf(t, l.trunk, otherPort)
		action, reason, after := l.uplinkLab.run(t, frame)
		want := leaving(frame, x.far[0], x.far[1], otherMAC, gatewayMAC)
		if action != tcRedirect || reason != UplinkCarried || !bytes.Equal(after, want) {
			t.Errorf("%s: action %d, %s, and the frame\n%x, want\n%x", f.name, action, reason, after, want)
		}
		in, out := Carried-FromPort, CarriedTo-FromPort
		if n := countersOf(t, l.trunk, hostPort)[in]; n.Packets != host[in].Packets+1 || n.Bytes != uint64(len(frame)) {
			t.Errorf("%s: %+v of the host's port", f.name, n)
		}
		if n := countersOf(t, l.trunk, otherPort)[out]; n.Packets != pod[out].Packets+1 || n.Bytes != uint64(len(frame)) {
			t.Errorf("%s: %+v of the pod's port", f.name, n)
		}
		l.control.carry = 0
		l.expect(t, frame, ServiceTaken)
		l.control.carry = before

		other := *x
		other.near[1] = ap(f.frontend, frontPort+1) // which no service has
		l.enter(t, &other)
		l.expect(t, l.fromClient(&other), NotOursLeft)
		forged := *x
		forged.near[0] = ap(f.node, 4000)
		l.enter(t, &forged)
		l.expect(t, l.fromClient(&forged), ForgedLeft)
		back := plain(ap(f.client(), 443), ap(f.egress, 4000), unix.IPPROTO_TCP)
		back.in = [2]uint32{hostPort, otherPort}
		l.enter(t, back)
		if _, reason, _ := l.uplinkLab.run(t, l.fromClient(back)); reason != UplinkCarried {
			t.Errorf("%s: to an egress address: %s", f.name, reason)
		}
	}
}

func TestUplinkAbsence(t *testing.T) {
	l := newUplinkCarryLab(t)
	x := service(ipFamilies[0], frontPort, unix.IPPROTO_UDP)
	frame := l.fromClient(x)
	for _, row := range []struct {
		heart     uint64
		hung      uint64
		onAbsence uint32
		action    uint32
		reason    Reason
	}{
		{0, 0, 0, tcRedirect, ServiceTaken},
		{monotonic(t) + 60e9, 0, 0, tcRedirect, ServiceTaken},
		{monotonic(t) - 900e6, 0, 0, tcShot, AbsentUplinkDropped},
		{monotonic(t) - 900e6, 0, 1, tcxNext, AbsentLeft},
		{monotonic(t) + 60e9, 2, 0, tcRedirect, ServiceTaken},
		{monotonic(t) + 60e9, 1, 0, tcShot, AbsentUplinkDropped},
		{monotonic(t) + 60e9, 1, 1, tcxNext, AbsentLeft},
	} {
		l.control.heart, l.control.hung, l.control.onAbsence = row.heart, row.hung, row.onAbsence
		if action, reason, _ := l.uplinkLab.run(t, frame); action != row.action || reason != row.reason {
			t.Errorf("action %d, %s, want %+v", int32(action), reason, row)
		}
	}
	l.enter(t, x)
	if _, reason, _ := l.uplinkLab.run(t, frame); reason != UplinkCarried {
		t.Errorf("a flow that is carried: %s", reason)
	}
}
