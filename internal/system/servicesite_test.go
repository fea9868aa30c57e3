// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// Where the services of these tests are. The world has a way to the node for the cluster's addresses and for those of
// outside.
const (
	servicePort = 80
	targetPort  = 8080
	nodePort    = 30080
)

var serviceAddresses = map[int]struct{ cluster, balancer, external string }{
	4: {"10.96.0.10", "203.0.113.10", "203.0.113.20"},
	6: {"fd00:96::10", "2001:db8:f::10", "2001:db8:f::20"},
}

// serviceStage is a stage with a service, shop/echo, of which the pods web and db are the backends.
type serviceStage struct {
	*stage
	backends map[string]*backend
}

// newServiceStage sets it, with more lines of the NodeConfig. No service is written.
func newServiceStage(t *testing.T, more ...string) *serviceStage {
	t.Helper()
	s := &serviceStage{stage: newStage(t, append(more, `serviceCIDRs: [10.96.0.0/16, "fd00:96::/64"]`)...),
		backends: map[string]*backend{}}
	for _, to := range []string{"10.96.0.0/16", "203.0.113.0/24"} {
		s.must(s.world.Route(netip.MustParsePrefix(to), netip.MustParseAddr("192.0.2.1"), "up", 0))
	}
	for _, to := range []string{"fd00:96::/64", "2001:db8:f::/64"} {
		s.must(s.world.Route(netip.MustParsePrefix(to), netip.MustParseAddr("2001:db8::1"), "up", 0))
	}
	for _, name := range []string{"web", "db"} {
		s.backends[name] = s.backendIn(s.pods[name].Namespace, name)
	}
	return s
}

// service writes Service shop/echo and its slices with these backends. more are lines of its spec.
func (s *serviceStage) service(annotations string, backends []string, more ...string) {
	s.t.Helper()
	a4, a6 := serviceAddresses[4], serviceAddresses[6]
	text := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: shop, annotations: {%s}}\n"+
		"spec:\n  type: LoadBalancer\n  clusterIP: %s\n  clusterIPs: [%q, %q]\n  ipFamilies: [IPv4, IPv6]\n"+
		"  externalIPs: [%q, %q]\n"+
		"  ports:\n"+
		"  - {name: tcp, protocol: TCP, port: %d, targetPort: %d, nodePort: %d}\n"+
		"  - {name: udp, protocol: UDP, port: %d, targetPort: %d, nodePort: %d}\n",
		annotations, a4.cluster, a4.cluster, a6.cluster, a4.external, a6.external,
		servicePort, targetPort, nodePort, servicePort, targetPort, nodePort)
	for _, line := range more {
		text += "  " + line + "\n"
	}
	text += fmt.Sprintf("status: {loadBalancer: {ingress: [{ip: %q}, {ip: %q}]}}\n", a4.balancer, a6.balancer)
	for f := range families {
		text += s.slice(f, backends)
	}
	s.write("service.yaml", text)
}

// slice is an EndpointSlice of the service's.
func (s *serviceStage) slice(family int, backends []string) string {
	text := fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
		"metadata: {name: echo-%d, namespace: shop, labels: {kubernetes.io/service-name: echo}}\n"+
		"addressType: IPv%d\nports: [{name: tcp, protocol: TCP, port: %d}, {name: udp, protocol: UDP, port: %d}]\n",
		family, family, targetPort, targetPort)
	if len(backends) == 0 {
		return text + "endpoints: []\n"
	}
	text += "endpoints:\n"
	for _, name := range backends {
		text += fmt.Sprintf("- {addresses: [%q], conditions: {ready: true}, nodeName: node}\n", s.address(name, family))
	}
	return text
}

// backend answers each question, by TCP and UDP, with its name and whom it saw.
type backend struct {
	name string
	mu   sync.Mutex
	held []net.Conn // connections that go on
}

// backendIn answers in a namespace at targetPort until the test ends.
func (s *site) backendIn(ns *netlab.Namespace, name string) *backend {
	s.t.Helper()
	b := &backend{name: name}
	var listener net.Listener
	var datagrams net.PacketConn
	at := fmt.Sprintf(":%d", targetPort)
	s.must(ns.Do(func() (err error) {
		if listener, err = net.Listen("tcp", at); err != nil {
			return err
		}
		datagrams, err = net.ListenPacket("udp", at)
		return err
	}))
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.held = append(b.held, c)
			b.mu.Unlock()
			served.Go(func() { b.serve(c) })
		}
	})
	served.Go(func() {
		question := make([]byte, 1<<16)
		for {
			_, from, err := datagrams.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo(b.answer(from), from)
		}
	})
	s.t.Cleanup(func() {
		_, _ = listener.Close(), datagrams.Close()
		b.mu.Lock()
		for _, c := range b.held {
			_ = c.Close()
		}
		b.mu.Unlock()
		served.Wait()
	})
	return b
}

func (b *backend) answer(to net.Addr) []byte { return []byte(b.name + " " + to.String()) }

// serve answers every question of a connection.
func (b *backend) serve(c net.Conn) {
	defer c.Close()
	question := make([]byte, 256)
	for {
		if _, err := c.Read(question); err != nil {
			return
		}
		if _, err := c.Write(b.answer(c.RemoteAddr())); err != nil {
			return
		}
	}
}

// call is a connection to a service, which may ask several times.
type call struct{ net.Conn }

func dial(from *netlab.Namespace, network string, to netip.AddrPort) (*call, error) {
	return dialWithin(from, network, to, patient)
}

// dialWithin is dial with as much patience.
func dialWithin(from *netlab.Namespace, network string, to netip.AddrPort, patience time.Duration) (*call, error) {
	var c net.Conn
	err := from.Do(func() (err error) { c, err = net.DialTimeout(network, to.String(), patience); return err })
	if err != nil {
		return nil, err
	}
	return &call{c}, nil
}

// ask asks once: who answers, and whom did he see?
func (c *call) ask(patience time.Duration) (who string, saw netip.Addr, err error) {
	if err = c.SetDeadline(time.Now().Add(patience)); err != nil {
		return who, saw, err
	}
	if _, err = c.Write([]byte("?")); err != nil {
		return who, saw, err
	}
	text := make([]byte, 256)
	n, err := c.Read(text)
	if err != nil {
		return who, saw, err
	}
	who, address, found := strings.Cut(string(text[:n]), " ")
	if !found {
		return who, saw, fmt.Errorf("the answer is %q", text[:n])
	}
	at, err := netip.ParseAddrPort(address)
	return who, at.Addr().Unmap(), err
}

// who asks a service once by a connection of its own.
func who(from *netlab.Namespace, network string, to netip.AddrPort) (string, netip.Addr, error) {
	return whoWithin(from, network, to, patient)
}

// whoWithin is who with as much patience.
func whoWithin(from *netlab.Namespace, network string, to netip.AddrPort, patience time.Duration) (
	name string, saw netip.Addr, err error) {
	c, err := dialWithin(from, network, to, patience)
	if err != nil {
		return "", netip.Addr{}, err
	}
	defer c.Close()
	return c.ask(patience)
}

// text is a manifest as it was written.
func (s *site) text(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.manifests, name))
	s.must(err)
	return string(text)
}
