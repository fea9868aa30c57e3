// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// families are the node's own addresses and the world's.
var families = map[int]struct{ node, uplink, world netip.Addr }{
	4: {netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	6: {netip.MustParseAddr("fd00:244:1::1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
}

// Pods reach each other, the node and the world, and are reached; DEL leaves nothing.
func TestPods(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	p.peerIn(p.world)
	p.peerIn(p.node)
	a, b, direct := p.pod("a").add(), p.pod("b").add(), p.pod("direct")
	direct.list = p.listOf("1.1.0", `"attach": "direct"`)
	direct.add()
	for f, of := range families {
		ofA, ofB := a.address[f].String(), b.address[f].String()
		p.reaches(a.Namespace, b.address[f], ofA)
		p.reaches(b.Namespace, a.address[f], ofB)
		p.reaches(direct.Namespace, b.address[f], direct.address[f].String())
		p.reaches(b.Namespace, direct.address[f], ofB)
		p.reaches(a.Namespace, of.node, ofA)
		p.reaches(a.Namespace, of.uplink, ofA)
		p.reaches(p.node, a.address[f], of.node.String())
		p.reaches(a.Namespace, of.world, of.uplink.String())
		p.reaches(p.world, b.address[f], of.world.String())
	}
	for _, pod := range []*attached{a, b, direct} {
		if err := pod.check(); err != nil {
			t.Errorf("CHECK %s: %v", pod.Name(), err)
		}
	}
	a.del()
	b.del()
	direct.del()
	p.leftNothing(before)
	p.stopBoth()
	p.cleansUp()
}

// cleansUp checks that a dataplane that is to take everything away when it stops does.
func (p *podSite) cleansUp() {
	p.t.Helper()
	if stay := p.devices("viaduct"); len(stay) != 4 {
		p.t.Errorf("without --cleanup these stay: %v", stay)
	}
	p.dataplane = p.startDataplane("--cleanup")
	p.dataplane.ready()
	p.dataplane.stop()
	list := p.devices("viaduct", "vd")
	note := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	p.must(errors.Join(p.notePins(note), p.noteRoutes(note)))
	for _, left := range list {
		if !strings.Contains(left, "192.0.2.0/24") && !strings.Contains(left, "2001:db8::/64") &&
			!strings.Contains(left, "fe80::/64") {
			p.t.Errorf("left: %s", left)
		}
	}
}

// What nobody removed is taken back: of a namespace that vanished, and of a container that the runtime does not list.
func TestForgotten(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	a, b, c := p.pod("a").add(), p.pod("b").add(), p.pod("c").add()
	a.close()
	p.eventually("what a namespace had to come back", func() error { return p.attachments(2) })
	p.must(p.cni.GCNetworkList(t.Context(), p.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
		{ContainerID: c.runtime.ContainerID, IfName: "eth0"}}}))
	p.must(p.attachments(1))
	p.reaches(p.node, c.address[4], families[4].node.String())
	b.close()
	c.del()
	p.leftNothing(before)
}

// The first packet of a pod, sent as soon as ADD has answered, arrives as every other does.
func TestFirstPackets(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	p.peerIn(p.node)
	first := p.pod("first").add()
	pods := []*attached{first}
	for i := range 50 {
		a := p.pod(fmt.Sprint("p", i))
		p.must(a.tryAdd())
		f, network := 4+i%2*2, []string{"tcp", "udp", "icmp"}[i/2%3]
		to := []netip.Addr{first.address[f], families[f].node}[i/6%2]
		if _, err := ask(a.Namespace, network, netip.AddrPortFrom(to, peerPort)); err != nil {
			t.Errorf("pod %d: %v", i, err)
		}
		pods = append(pods, a)
	}
	p.must(each(len(pods), 4, func(i int) error { return pods[i].tryDel() }))
	p.leftNothing(before)
}

// One command is a node with pods: when it says ready, ADD succeeds.
func TestUpWithPods(t *testing.T) {
	p := newPodNode(t, programs.plain, "node")
	p.join()
	p.write("node.yaml", nodeManifest("node", "{device: up, mode: kernel}",
		[]string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.1", "2001:db8::1"))
	up := p.startUp()
	up.ready()
	a, b := p.pod("a").add(), p.pod("b").add()
	for f := range families {
		p.reaches(a.Namespace, b.address[f], a.address[f].String())
	}
	a.del()
	b.del()
	p.must(p.attachments(0))
	up.stop()
	if left := p.devices("vd"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
