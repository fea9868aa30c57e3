// SPDX-License-Identifier: Apache-2.0

package system

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// hostPort is a port of the node that leads to a pod.
const hostPort = 8080

// The reference plugins work behind ours. Of these bandwidth is left out: it wants the ifb device, which not every
// kernel has, and the capability is our own.
func TestChain(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	p.peerIn(p.world)
	other := p.pod("other").add()
	a := p.pod("a")
	const (
		portmap  = `{"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}`
		tuning   = `{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}`
		firewall = `{"type": "firewall", "backend": "iptables"}`
	)
	a.list = p.plugins(portmap, tuning, firewall)
	a.runtime.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
		{"hostPort": hostPort, "containerPort": peerPort, "protocol": "tcp"},
		{"hostPort": hostPort, "containerPort": peerPort, "protocol": "udp"},
	}}
	a.add()
	p.mapped()
	p.must(a.Do(func() error {
		value, err := os.ReadFile("/proc/sys/net/core/somaxconn")
		if strings.TrimSpace(string(value)) != "500" {
			t.Errorf("somaxconn is %s, %v", value, err)
		}
		return nil
	}))
	for f, of := range families {
		p.reaches(a.Namespace, other.address[f], a.address[f].String())
		p.reaches(a.Namespace, of.world, of.uplink.String())
	}
	// Debian's portmap looks for the rules of both families among those of each, and so finds fault with its own.
	all := a.list
	a.list = p.plugins(tuning, firewall)
	if err := a.check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	a.list = all
	a.del()
	other.del()
	p.leftNothing(before)
}

// mapped checks that the port of the node leads to the pod, from outside and from the node itself.
func (p *podSite) mapped() {
	p.t.Helper()
	for _, of := range families {
		at := netip.AddrPortFrom(of.uplink, hostPort)
		for _, network := range []string{"tcp", "udp"} {
			if saw, err := ask(p.world, network, at); err != nil || saw != of.world {
				p.t.Errorf("%s to %v from the world: came from %v, %v", network, at, saw, err)
			}
			if _, err := ask(p.node, network, at); err != nil {
				p.t.Errorf("%s to %v from the node: %v", network, at, err)
			}
		}
	}
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), hostPort)
	if _, err := ask(p.node, "tcp", at); err != nil {
		p.t.Errorf("tcp to %v from the node: %v", at, err)
	}
}

// With several interfaces, sbr behind ours lets each answer by the way that it was asked.
func TestSeveralInterfaces(t *testing.T) {
	p := newPodSite(t)
	before := p.take()
	a := p.pod("a").add()
	second := *a
	runtime := *a.runtime
	runtime.IfName = "net1"
	second.runtime, second.list = &runtime, p.plugins(`{"type": "sbr"}`)
	if err := second.tryAdd(); err != nil {
		t.Fatal(err)
	}
	for _, of := range []*attached{a, &second} {
		for f := range families {
			p.reaches(p.node, of.address[f], families[f].node.String())
		}
	}
	if rules, err := a.Links().RuleList(netlink.FAMILY_V4); err != nil || len(rules) < 4 {
		t.Errorf("rules %v, %v", rules, err)
	}
	p.must(second.tryDel())
	a.del()
	p.leftNothing(before)
}
