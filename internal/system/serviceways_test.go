// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// wire is two nodes and a world on one switch.
//
//	pods 10.244.1.x ── one 192.0.2.1 ┐
//	                                 ├ switch ── 192.0.2.9 world
//	pods 10.244.2.x ── two 192.0.2.2 ┘
type wire struct {
	one, two *podSite
	world    *netlab.Namespace
}

var worldAt = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.9"), 6: netip.MustParseAddr("2001:db8::9")}

// newWire makes it; nothing runs yet.
func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{one: newPodNode(t, programs.plain, "one"), two: newPodNode(t, programs.plain, "two")}
	lab := w.one.lab
	center, err := lab.Namespace("switch")
	w.one.must(err)
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "br0"
	w.one.must(center.Links().LinkAdd(bridge))
	w.one.must(center.Links().LinkSetUp(bridge))
	w.world, err = lab.Namespace("world")
	w.one.must(err)
	for i, in := range map[int]*netlab.Namespace{1: w.one.node, 2: w.two.node, 9: w.world} {
		name := fmt.Sprint("to", i)
		w.one.must(lab.Veth(netlab.End{In: center, Device: name},
			end(in, "up", fmt.Sprintf("192.0.2.%d/24", i), fmt.Sprintf("2001:db8::%d/64", i))))
		port, err := center.Links().LinkByName(name)
		w.one.must(err)
		w.one.must(center.Links().LinkSetMaster(port, bridge))
	}
	return w
}

// start starts the daemons of both nodes, each of which knows of the other.
func (w *wire) start(mode string, more ...string) {
	w.one.t.Helper()
	for _, p := range []*podSite{w.one, w.two} {
		for i, name := range []string{"one", "two"} {
			text := wiredNode(name, mode, i+1)
			lines := "spec:\n  serviceCIDRs: [10.96.0.0/16]\n"
			for _, line := range more {
				lines += "  " + line + "\n"
			}
			p.write(name+".yaml", strings.Replace(text, "spec:\n", lines, 1))
		}
		p.startBoth()
	}
}

// write puts a manifest into both nodes' directories.
func (w *wire) write(name, text string) {
	w.one.write(name, text)
	w.two.write(name, text)
}

const farService = `apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default, annotations: {%s}}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  externalTrafficPolicy: %s
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-4, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 8080}, {name: udp, protocol: UDP, port: 8080}]
endpoints: [{addresses: [%q], conditions: {ready: true}, nodeName: two}]
`

// sees checks until a service's backend answers and has seen one of the addresses.
func (w *wire) sees(what string, from *netlab.Namespace, network string, at netip.AddrPort, want ...string) {
	w.one.t.Helper()
	w.one.eventually(fmt.Sprintf("%s, %v by %s", what, at, network), func() error {
		_, saw, err := whoWithin(from, network, at, time.Second)
		if err == nil && !strings.Contains(" "+strings.Join(want, " ")+" ", " "+saw.String()+" ") {
			err = fmt.Errorf("the backend saw %v, want %v", saw, want)
		}
		return err
	})
}

// TestServiceTwoNodes: a backend of another node answers, whoever asks.
func TestServiceTwoNodes(t *testing.T) {
	w := newWire(t)
	w.start("kernel")
	a, b := w.one.pod("a").add(), w.two.pod("b").add()
	w.two.backendIn(b.Namespace, "b")
	w.write("service.yaml", fmt.Sprintf(farService, "", "Cluster", b.address[4]))
	cluster := netip.MustParseAddrPort("10.96.0.10:80")
	near, far := netip.MustParseAddrPort("192.0.2.1:30080"), netip.MustParseAddrPort("192.0.2.2:30080")
	const dataplane = "10.244.1.254"
	for _, network := range []string{"tcp", "udp"} {
		w.sees("a pod", a.Namespace, network, cluster, a.address[4].String())
		w.sees("a pod by the node's port", a.Namespace, network, near, a.address[4].String())
		w.sees("the node", w.one.node, network, cluster, dataplane)
		w.sees("the node by its own port", w.one.node, network, near, dataplane)
		w.sees("the node by loopback", w.one.node, network, netip.MustParseAddrPort("127.0.0.1:30080"), dataplane)
		w.sees("the world", w.world, network, near, dataplane)
		w.sees("the world at the backend's node", w.world, network, far, worldAt[4].String())
	}
	w.write("service.yaml", fmt.Sprintf(farService, "", "Local", b.address[4]))
	w.one.eventually("traffic to stay where it is local", func() error {
		if _, _, err := whoWithin(w.world, "tcp", near, time.Second/2); err == nil {
			return fmt.Errorf("%v answers", near)
		}
		_, _, err := whoWithin(w.world, "tcp", far, time.Second)
		return err
	})
	w.sees("the node by its own port", w.one.node, "tcp", near, dataplane)
	w.one.stopBoth()
	w.two.stopBoth()
}

// TestMasquerade: on an uplink that the dataplane shares it is the dataplane that gives pods its address there.
func TestMasquerade(t *testing.T) {
	w := newWire(t)
	w.start("shared")
	a := w.one.pod("a").add()
	w.one.peerIn(w.world)
	for f, own := range map[int]string{4: "192.0.2.11", 6: "2001:db8::11"} {
		w.one.reaches(a.Namespace, worldAt[f], own)
		if err := closedPort(a.Namespace, netip.AddrPortFrom(worldAt[f], 9)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("IPv%d: an error about a masqueraded datagram: %v", f, err)
		}
	}
	w.write("one.yaml", strings.Replace(w.one.text("one.yaml"), "spec:\n",
		"spec:\n  noMasquerade: [192.0.2.9/32]\n", 1))
	w.one.must(w.world.Route(netip.MustParsePrefix("10.244.1.0/24"), netip.MustParseAddr("192.0.2.11"), "up", 0))
	w.one.eventually("a range that is not masqueraded", func() error {
		saw, err := askWithin(a.Namespace, "udp", netip.AddrPortFrom(worldAt[4], peerPort), time.Second)
		if err == nil && saw != a.address[4] {
			err = fmt.Errorf("the world saw %v", saw)
		}
		return err
	})
}

// TestHostPorts: ports of the node lead to a pod, by the plugin itself.
func TestHostPorts(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	other := p.pod("other").add()
	a := p.pod("a")
	a.runtime.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
		{"hostPort": hostPort, "containerPort": peerPort, "protocol": "tcp"},
		{"hostPort": hostPort, "containerPort": peerPort, "protocol": "udp"},
	}}
	a.add()
	p.mapped()
	for f, of := range families {
		for _, network := range []string{"tcp", "udp"} {
			at := netip.AddrPortFrom(of.uplink, hostPort)
			if saw, err := ask(other.Namespace, network, at); err != nil || saw != other.address[f] {
				t.Errorf("%s to %v from a pod: came from %v, %v", network, at, saw, err)
			}
		}
	}
	taken := p.pod("taken")
	taken.runtime.CapabilityArgs = a.runtime.CapabilityArgs
	if err := taken.tryAdd(); err == nil {
		t.Error("two pods have one port of the node")
	}
	if err := a.check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	a.del()
	other.del()
	p.leftNothing(before)
}
