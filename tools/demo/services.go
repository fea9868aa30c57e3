// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// serviceFile says that pods a and b answer for a service of both families, by TCP and UDP, and on a port of the node.
const (
	serviceFile = "service.yaml"
	serviceName = "demo/web"
	serviceText = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.97.0.10
  clusterIPs: [10.97.0.10, "fd00:97::10"]
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30053}
`
	sliceText = `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-ipv%d, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv%[1]d
ports: [{name: http, protocol: TCP, port: 8080}, {name: dns, protocol: UDP, port: 5353}]
endpoints: [%s]
`
	endpointText = `{addresses: ["%s"], nodeName: demo, conditions: {ready: true}}`
)

// The service's addresses and ports, and those of its backends.
var (
	service4, service6 = netip.MustParseAddr("10.97.0.10"), netip.MustParseAddr("fd00:97::10")
	// node4 and node6 are the node's own among its pods', at which its ports are from everywhere.
	node4, node6 = netip.MustParseAddr("10.4.1.1"), netip.MustParseAddr("fd00:4:0:1::1")
)

const (
	httpPort, dnsPort                 = 80, 53
	httpTarget, dnsTarget             = 8080, 5353
	httpNodePort, dnsNodePort         = 30080, 30053
	clientPod, firstPod, backendCount = 2, 0, 2 // pods by their indices: a, b and c
)

// visits are those of each kind: that one of two backends has none of them is a chance of 2⁻³⁹.
const visits = 40

// refusedWithin is how long a refusal may take. Who is not told waits for seconds.
const refusedWithin = 500 * time.Millisecond

// serviceManifest has the first so many pods answer, beginning with the one of the index.
func serviceManifest(first, count int) string {
	var text strings.Builder
	text.WriteString(serviceText)
	for _, family := range []int{4, 6} {
		var endpoints []string
		for i := range count {
			endpoints = append(endpoints, fmt.Sprintf(endpointText, podAddress(first+i, family)))
		}
		fmt.Fprintf(&text, sliceText, family, strings.Join(endpoints, ", "))
	}
	return text.String()
}

// podToService has pod c be the client, and nodeToService the node, leftToService the host on the left.
func podToService(n *network) (from, to *netlab.Namespace) {
	return n.pods[clientPod].Namespace, n.pods[firstPod].Namespace
}
func nodeToService(n *network) (from, to *netlab.Namespace) {
	return n.middle, n.pods[firstPod].Namespace
}
func leftToService(n *network) (from, to *netlab.Namespace) {
	return n.left, n.pods[firstPod].Namespace
}

// applyService makes the service, and has a pod reach it.
func applyService(ctx context.Context, n *network) (string, error) {
	took, err := n.serve(ctx, firstPod, backendCount)
	if err != nil {
		return "", err
	}
	said, err := visitService(service4, service6, httpPort, dnsPort)(ctx, n)
	return fmt.Sprintf("in force after %v: %s", took.Round(time.Millisecond), said), err
}

// serve writes the service with so many backends, and says after what time it was in force.
func (n *network) serve(ctx context.Context, first, count int) (time.Duration, error) {
	start := time.Now()
	if err := n.replaceManifest(serviceFile, serviceManifest(first, count)); err != nil {
		return 0, err
	}
	err := n.awaitServices(ctx, func(services []*api.Service) bool {
		const ports = 2 * 2 // of both families
		return len(services) == ports && !slices.ContainsFunc(services, func(s *api.Service) bool {
			return taking(s) != count
		})
	})
	return time.Since(start), err
}

// taking is how many of a service's backends take flows.
func taking(s *api.Service) (count int) {
	for _, b := range s.Backends {
		if b.State != "draining" {
			count++
		}
	}
	return count
}

// awaitServices waits until what the dataplane has in force of the service is as wanted.
func (n *network) awaitServices(ctx context.Context, wanted func([]*api.Service) bool) error {
	for {
		reply, err := n.client.Services(ctx, &api.ServicesRequest{Name: serviceName})
		if err != nil {
			return err
		}
		if wanted(reply.Services) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the service's change is not in force: %v", reply.Services)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// visitService reaches the service at addresses of both families and counts who answers, each of the pods a and b.
func visitService(a4, a6 netip.Addr, http, dns uint16) func(context.Context, *network) (string, error) {
	return func(_ context.Context, n *network) (string, error) {
		if err := n.answer(); err != nil {
			return "", err
		}
		var words []string
		for _, to := range []netip.Addr{a4, a6} {
			for _, protocol := range []string{"TCP", "UDP"} {
				port := map[string]uint16{"TCP": http, "UDP": dns}[protocol]
				answered, err := n.visit(protocol, netip.AddrPortFrom(to, port))
				if err != nil {
					return "", fmt.Errorf("%s to %s: %w", protocol, netip.AddrPortFrom(to, port), err)
				}
				if answered["a"] == 0 || answered["b"] == 0 {
					return "", fmt.Errorf("%s to %s was not balanced: %v", protocol, netip.AddrPortFrom(to, port), answered)
				}
				words = append(words, fmt.Sprintf("%s IPv%s a %d, b %d", protocol, network4(to), answered["a"], answered["b"]))
			}
		}
		return strings.Join(words, "; "), nil
	}
}

// answer has pods a and b answer with their names, at the service's backends' ports.
func (n *network) answer() error {
	for i, name := range []string{"a", "b"} {
		var listener net.Listener
		var packets net.PacketConn
		err := n.pods[i].Do(func() (err error) {
			if listener, err = net.Listen("tcp", fmt.Sprintf(":%d", httpTarget)); err != nil {
				return err
			}
			packets, err = net.ListenPacket("udp", fmt.Sprintf(":%d", dnsTarget))
			return err
		})
		if listener != nil {
			_, _ = own(n, listener, nil)
		}
		if err != nil {
			return err
		}
		_, _ = own(n, packets, nil)
		go sayName(listener, name)
		go sendName(packets, name)
	}
	return nil
}

// sayName says the name to whoever connects, until the listener is closed.
func sayName(listener net.Listener, name string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, name) // the client sees what does not come
		_ = c.Close()
	}
}

// sendName answers each datagram with the name, until the socket is closed.
func sendName(packets net.PacketConn, name string) {
	b := make([]byte, 1)
	for {
		_, from, err := packets.ReadFrom(b)
		if err != nil {
			return
		}
		if _, err := packets.WriteTo([]byte(name), from); err != nil {
			return
		}
	}
}

// visit reaches the address again and again, each time from another port, and counts the names that answer.
func (n *network) visit(protocol string, to netip.AddrPort) (map[string]int, error) {
	answered := map[string]int{}
	for range visits {
		name, err := n.askName(protocol, to)
		if err != nil {
			return nil, err
		}
		answered[name]++
	}
	return answered, nil
}

func (n *network) askName(protocol string, to netip.AddrPort) (string, error) {
	var c net.Conn
	err := n.from.Do(func() (err error) {
		c, err = net.DialTimeout(strings.ToLower(protocol)+network4(to.Addr()), to.String(), answerWithin)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return "", err
	}
	if protocol == "UDP" {
		if _, err := c.Write([]byte{'?'}); err != nil {
			return "", err
		}
	}
	b := make([]byte, 1)
	_, err = c.Read(b)
	return string(b), err
}

// removeBackend takes pod a from the service: connections that begin then go to pod b.
func removeBackend(ctx context.Context, n *network) (string, error) {
	if err := n.answer(); err != nil {
		return "", err
	}
	took, err := n.serve(ctx, firstPod+1, backendCount-1)
	if err != nil {
		return "", err
	}
	for _, to := range []netip.Addr{service4, service6} {
		for protocol, port := range map[string]uint16{"TCP": httpPort, "UDP": dnsPort} {
			answered, err := n.visit(protocol, netip.AddrPortFrom(to, port))
			if err != nil {
				return "", fmt.Errorf("%s to %s: %w", protocol, to, err)
			}
			if answered["b"] != visits {
				return "", fmt.Errorf("%s to %s went to others than b: %v", protocol, to, answered)
			}
		}
	}
	return fmt.Sprintf("in force after %v: all of %d go to b", took.Round(time.Millisecond), 4*visits), nil
}

// removeBackends leaves nobody who answers: that is said at once.
func removeBackends(ctx context.Context, n *network) (string, error) {
	if _, err := n.serve(ctx, firstPod, 0); err != nil {
		return "", err
	}
	var slowest time.Duration
	for _, to := range []netip.Addr{service4, service6} {
		for protocol, port := range map[string]uint16{"TCP": httpPort, "UDP": dnsPort} {
			start := time.Now()
			_, err := n.askName(protocol, netip.AddrPortFrom(to, port))
			took := time.Since(start)
			if !errors.Is(err, unix.ECONNREFUSED) || took > refusedWithin {
				return "", fmt.Errorf("%s to %s was not refused at once: %w after %v", protocol, to, orAnswered(err), took)
			}
			slowest = max(slowest, took)
		}
	}
	return fmt.Sprintf("TCP and UDP are refused within %v", slowest.Round(10*time.Microsecond)), nil
}

// withdrawService takes the service away, and waits until the dataplane has none.
func withdrawService(ctx context.Context, n *network) (string, error) {
	start := time.Now()
	if err := os.Remove(filepath.Join(n.manifestDir(), serviceFile)); err != nil {
		return "", err
	}
	err := n.awaitServices(ctx, func(services []*api.Service) bool { return len(services) == 0 })
	return fmt.Sprintf("gone after %v", time.Since(start).Round(time.Millisecond)), err
}
