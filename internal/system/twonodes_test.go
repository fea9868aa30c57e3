// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// Pods of two nodes on one wire reach each other as they are, through the hosts' stacks or past them; and the nodes'
// own connections go on, also where the dataplane takes what is its own off the wire.
func TestTwoNodes(t *testing.T) {
	for _, mode := range []string{"kernel", "shared"} {
		t.Run(mode, func(t *testing.T) {
			one, two := newPodNode(t, programs.plain, "one"), newPodNode(t, programs.plain, "two")
			one.must(one.lab.Veth(end(one.node, "up", "192.0.2.1/24", "2001:db8::1/64"),
				end(two.node, "up", "192.0.2.2/24", "2001:db8::2/64")))
			one.peerIn(one.node)
			two.peerIn(two.node)
			session := one.session(two)
			for _, p := range []*podSite{one, two} {
				for i, name := range []string{"one", "two"} {
					p.write(name+".yaml", wiredNode(name, mode, i+1))
				}
				p.startBoth()
			}
			session()
			before := [][]string{one.take().list, two.take().list}
			a, b, c := one.pod("a").add(), two.pod("b").add(), two.pod("c").add()
			for f, from := range a.address {
				one.eventually("the way to the other node", func() error {
					_, err := ask(a.Namespace, "udp", netip.AddrPortFrom(b.address[f], peerPort))
					return err
				})
				one.reaches(a.Namespace, b.address[f], from.String())
				one.reaches(b.Namespace, from, b.address[f].String())
				one.reaches(c.Namespace, from, c.address[f].String())
				node := map[int]string{4: "192.0.2.", 6: "2001:db8::"}[f]
				one.reaches(one.node, netip.MustParseAddr(node+"2"), node+"1")
				one.reaches(two.node, netip.MustParseAddr(node+"1"), node+"2")
			}
			session()
			for _, pod := range []*attached{a, b, c} {
				pod.del()
			}
			one.leftNothingOf(before[0])
			two.leftNothingOf(before[1])
			one.stopBoth()
			two.stopBoth()
			session()
		})
	}
}

// wiredNode is the i-th node's manifest. In mode shared the dataplane has addresses of its own on the wire.
func wiredNode(name, mode string, i int) string {
	uplink := fmt.Sprintf("{device: up, mode: %s}", mode)
	if mode == "shared" {
		uplink += fmt.Sprintf("\n  ports:\n"+
			"  - {name: up, device: up, addresses: [192.0.2.1%d/24, \"2001:db8::1%d/64\"]}", i, i)
	}
	return nodeManifest(name, uplink, []string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:244:%d::/64", i)},
		fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8::%d", i))
}

// session opens a connection between the nodes' own addresses, and returns what checks that it goes on.
func (p *podSite) session(other *podSite) (check func()) {
	p.t.Helper()
	var listener net.Listener
	p.must(other.node.Do(func() (err error) { listener, err = net.Listen("tcp", "192.0.2.2:22"); return err }))
	p.t.Cleanup(func() { listener.Close() })
	var near, far net.Conn
	p.must(p.node.Do(func() (err error) { near, err = net.DialTimeout("tcp", "192.0.2.2:22", patient); return err }))
	far, err := listener.Accept()
	p.must(err)
	p.t.Cleanup(func() { near.Close(); far.Close() })
	return func() {
		p.t.Helper()
		for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
			_, err := ends[0].Write([]byte("x"))
			p.must(err)
			_, err = ends[1].Read(make([]byte, 1))
			p.must(err)
		}
	}
}
