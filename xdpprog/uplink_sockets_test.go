// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The host may have chosen a frontend's port for a connection of its own: the answers are the host's, and whatever else
// comes to the port the frontend's.
func TestFromUplinkOwnConnections(t *testing.T) {
	l := newUplinkLab(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	node, far := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.8")
	must(t, l.services.SetAddress(node, AtNodePorts|AtHost))
	must(t, l.services.SetFrontend(Frontend{netip.IPv4Unspecified(), unix.IPPROTO_UDP, nodePort}))
	from := func(proto byte, a netip.Addr, port uint16) []byte {
		payload := join(portsOf(port, nodePort), make([]byte, 16))
		return l.frame(ipFamilies[0].packet(a, node, proto, payload))
	}
	local := netip.AddrPortFrom(node, nodePort)

	listener, err := net.Listen("tcp", netip.AddrPortFrom(far, 0).String())
	must(t, err)
	defer listener.Close()
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	l.expect(t, from(unix.IPPROTO_TCP, far, port), ServiceTaken)
	tcp, err := (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}).Dial("tcp", listener.Addr().String())
	must(t, err)
	defer tcp.Close()
	l.expect(t, from(unix.IPPROTO_TCP, far, port), NotOursLeft)
	l.expect(t, from(unix.IPPROTO_TCP, far, port+1), ServiceTaken)

	open, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local)) // connected with nobody
	must(t, err)
	l.expect(t, from(unix.IPPROTO_UDP, far, 53), ServiceTaken)
	must(t, open.Close())
	udp, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(netip.AddrPortFrom(far, 53)))
	must(t, err)
	defer udp.Close()
	l.expect(t, from(unix.IPPROTO_UDP, far, 53), NotOursLeft)
	l.expect(t, from(unix.IPPROTO_UDP, far, 54), ServiceTaken)
}
