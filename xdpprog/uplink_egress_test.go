// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// Of what is for an egress address that the host has, too, the host keeps what it has a socket for, and what no pod
// can have asked for.
func TestFromUplinkSharedEgress(t *testing.T) {
	l := newUplinkLab(t)
	const tcp, udp, sctp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP
	listener, err := net.Listen("tcp", ":0")
	must(t, err)
	defer listener.Close()
	datagrams, err := net.ListenPacket("udp", ":0")
	must(t, err)
	defer datagrams.Close()
	mine := netip.MustParseAddrPort(listener.Addr().String()).Port()
	mineUDP := netip.MustParseAddrPort(datagrams.LocalAddr().String()).Port()
	const theirs = 1 // where nobody listens
	for _, f := range ipFamilies {
		must(t, l.services.SetAddress(f.egress, AtEgress|AtHost|AtNodePorts))
		client := f.client()
		segment := func(to uint16) []byte { return join(portsOf(443, to), make([]byte, 16)) }
		about := func(quoted []byte) []byte {
			return f.packet(client, f.egress, f.icmp, join([]byte{f.tooBig, 4, 0, 0, 0, 0, 5, 0}, quoted[2:]))
		}
		reply := byte(0)
		if f.egress.Is6() {
			reply = 129
		}
		for _, row := range []struct {
			name   string
			packet []byte
			want   Reason
		}{
			{"TCP, a listener's", f.packet(client, f.egress, tcp, segment(mine)), NotOursLeft},
			{"TCP, a pod's", f.packet(client, f.egress, tcp, segment(theirs)), EgressTaken},
			{"UDP, a socket's", f.packet(client, f.egress, udp, segment(mineUDP)), NotOursLeft},
			{"UDP, a pod's", f.packet(client, f.egress, udp, segment(theirs)), EgressTaken},
			{"SCTP", f.packet(client, f.egress, sctp, segment(theirs)), EgressTaken},
			{"a node port", f.packet(client, f.egress, tcp, segment(nodePort)), ServiceTaken},
			{"echo request", f.packet(client, f.egress, f.icmp, []byte{f.notAnswer, 0, 0, 0, 0, 1, 0, 1}), NotOursLeft},
			{"echo reply", f.packet(client, f.egress, f.icmp, []byte{reply, 0, 0, 0, 0, 1, 0, 1}), EgressTaken},
			{"no ports", f.packet(client, f.egress, 47, make([]byte, 8)), NotOursLeft},
			{"cut ports", f.packet(client, f.egress, udp, []byte{0, 1, 0}), UnreadableLeft},
			{"from a pod", f.packet(f.pod, f.egress, tcp, segment(theirs)), ForgedLeft},
			{"an error about a pod's", about(f.packet(f.egress, client, tcp, portsOf(theirs, 443))), ErrorTaken},
			{"an error about a listener's", about(f.packet(f.egress, client, tcp, portsOf(mine, 443))), NotOursLeft},
			{"first fragment", f.fragment(client, f.egress, udp, 9, 0, true, segment(theirs)), EgressTaken},
			{"fragment", f.fragment(client, f.egress, udp, 9, 5, false, make([]byte, 8)), FragmentTaken},
			{"first fragment, a socket's", f.fragment(client, f.egress, udp, 10, 0, true, segment(mineUDP)), NotOursLeft},
			{"fragment, a socket's", f.fragment(client, f.egress, udp, 10, 5, false, make([]byte, 8)), NotOursLeft},
		} {
			t.Run(f.name+" "+row.name, func(t *testing.T) { l.expect(t, l.frame(row.packet), row.want) })
		}
	}
	six := ipFamilies[1]
	must(t, l.services.SetAddress(six.egress, AtEgress))
	l.expect(t, l.frame(six.packet(six.client(), six.egress, six.icmp, make([]byte, 24))), EgressTaken)
	solicitation := append([]byte{135}, make([]byte, 23)...)
	l.expect(t, l.frame(six.packet(six.client(), six.egress, six.icmp, solicitation)), NotOursLeft)
}
