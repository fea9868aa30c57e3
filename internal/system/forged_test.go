// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// TestForgedSource: who has a pod's address, but is not the pod, may not do what the pod may, neither straight nor by
// a port of the node that leads to a pod. The pod itself may do so by that port.
func TestForgedSource(t *testing.T) {
	const port = 5000
	s := newStage(t)
	mapped := s.mappedPod()
	s.write("policy.yaml", networkPolicy("shop", "web", "{podSelector: {}, ingress: "+
		"[{from: [{podSelector: {matchLabels: {app: web}}}]}]}"))
	s.hasPolicies(1)
	s.is("the policy to be in force", func(w way) bool {
		return cast[w.to].namespace != "shop" || w.from == "node" || w.from == "web"
	})
	for f, of := range families {
		web := s.address("web", f)
		bits := web.BitLen()
		s.must(s.world.Address("lo", netip.PrefixFrom(web, bits)))
		for _, to := range []struct{ asked, at netip.AddrPort }{
			{netip.AddrPortFrom(s.address("db", f), port), netip.AddrPortFrom(s.address("db", f), port)},
			{netip.AddrPortFrom(of.uplink, hostPort), netip.AddrPortFrom(mapped.address[f], port)},
		} {
			in := s.of("db")
			if to.asked != to.at {
				in = mapped.Namespace
			}
			heard := s.hearsIn(in, to.at)
			from := netip.AddrPortFrom(web, 6000)
			s.must(saysFrom(s.of("spy").Do, netip.AddrPort{}, to.asked, "spy"))
			s.must(saysFrom(s.world.Do, netip.AddrPort{}, to.asked, "world"))
			s.must(saysFrom(s.world.Do, from, to.asked, "forged"))
			s.must(saysFrom(s.of("web").Do, from, to.asked, "web"))
			heard.next("what the pod says to "+to.asked.String(), []byte("web"))
			s.must(saysFrom(s.world.Do, from, to.asked, "forged, in the pod's flow"))
			s.must(saysFrom(s.of("web").Do, from, to.asked, "again"))
			heard.next("what the pod says again to "+to.asked.String(), []byte("again"))
			heard.nothing()
		}
	}
	s.balanced()
}

// mappedPod is a pod of the shop to which a port of the node leads.
func (s *stage) mappedPod() *attached {
	s.t.Helper()
	s.write("pod-mapped.yaml", podManifest("shop", "mapped", "app: mapped"))
	a := s.pod("mapped")
	a.list = s.plugins(`{"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}`)
	a.runtime.Args[1][1] = "shop"
	a.runtime.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
		{"hostPort": hostPort, "containerPort": 5000, "protocol": "udp"},
	}}
	return a.add()
}

// saysFrom sends a datagram from an address, the zero one being any.
func saysFrom(do func(func() error) error, from, to netip.AddrPort, text string) error {
	var local *net.UDPAddr
	if from.IsValid() {
		local = net.UDPAddrFromAddrPort(from)
	}
	return do(func() error {
		c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	})
}
