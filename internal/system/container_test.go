// SPDX-License-Identifier: Apache-2.0

package system

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"
)

// A containerd of Debian's, asked as a kubelet asks, runs pods that the plugin wires: their containers are reached from
// the node and by each other, and nothing of them is left when they have been removed.
func TestContainers(t *testing.T) {
	p := newPodNode(t, programs.plain, "node")
	p.join()
	p.write("node.yaml", nodeManifest("node", "{device: up, mode: kernel}",
		[]string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.1", "2001:db8::1"))
	p.dataplane = p.startDataplane()
	// Debian's speaks up to 1.0.0 of the specification.
	e := p.startEngine(p.conflist("1.0.0", ""), filepath.Join(p.bin, "viaduct-cni"), reference+"/loopback")
	p.control = p.startControlIn(e.daemon)
	p.willAdd()
	before := p.take()
	a, idA, addresses := e.sandbox("a")
	b, idB, _ := e.sandbox("b")
	e.container(a, idA, "serve", ":7")
	asking := e.container(b, idB, "pause")
	if len(addresses) != 2 {
		t.Errorf("addresses %v", addresses)
	}
	for _, address := range addresses {
		for _, network := range []string{"tcp", "udp"} {
			p.eventually("the container to serve", func() error {
				return e.ask(asking, network, net.JoinHostPort(address, "7"))
			})
			if err := p.echo(network, netip.AddrPortFrom(netip.MustParseAddr(address), 7)); err != nil {
				t.Errorf("%s from the node to %s: %v", network, address, err)
			}
		}
	}
	e.remove(idA)
	e.remove(idB)
	e.pods = nil
	p.leftNothing(before)
}
