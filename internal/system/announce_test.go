// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const announcedService = `apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: tcp, port: 80, targetPort: 7}
  - {name: udp, protocol: UDP, port: 80, targetPort: 7}
status: {loadBalancer: {ingress: [{ip: 192.0.2.78}, {ip: "2001:db8::78"}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-4, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 7}, {name: udp, protocol: UDP, port: 7}]
endpoints: [{addresses: [%q], nodeName: one}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-6, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv6
ports: [{name: tcp, protocol: TCP, port: 7}, {name: udp, protocol: UDP, port: 7}]
endpoints: [{addresses: [%q], nodeName: one}]
`

// TestAnnouncedAddresses: on an uplink of the dataplane's, egress addresses and those of load balancers are nobody's
// device's: the dataplane answers for them on the link, and says so when it begins to.
func TestAnnouncedAddresses(t *testing.T) {
	w := newWire(t)
	w.start("shared")
	w.write("pod-a.yaml", podManifest("default", "a", ""))
	a := w.one.pod("a").add()
	w.one.peerIn(w.world)
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: " +
		"{viaduct.dev/egress-addresses: \"192.0.2.77,2001:db8::77\"%s}}\n"
	w.write("namespace.yaml", fmt.Sprintf(namespace, ""))
	w.one.eventually("an address that two nodes might answer for to be said", func() error {
		if text, _ := w.one.cli("status"); !strings.Contains(text, "egress 192.0.2.77: nobody answers for it") {
			return errors.New(text)
		}
		return nil
	})
	mac := w.one.macOf("up")
	for f := range families { // as a router that has an earlier node's MAC
		w.one.must(w.neighbor(egressAt[f], "02:00:00:00:99:99", netlink.NUD_STALE))
	}
	w.write("namespace.yaml", fmt.Sprintf(namespace, ", viaduct.dev/egress-node: one"))
	for f := range families {
		w.one.eventually("the link to be told", func() error { return w.knows(egressAt[f], mac) })
		w.one.eventually("the world to see "+egressAt[f].String(), func() error {
			saw, err := askWithin(a.Namespace, "tcp", netip.AddrPortFrom(worldAt[f], peerPort), time.Second)
			if err == nil && saw != egressAt[f] {
				err = fmt.Errorf("it saw %v", saw)
			}
			return err
		})
		w.one.reaches(a.Namespace, worldAt[f], egressAt[f].String())
	}

	w.write("service.yaml", fmt.Sprintf(announcedService, a.address[4], a.address[6]))
	balanced := map[int]netip.AddrPort{4: netip.MustParseAddrPort("192.0.2.78:80"),
		6: netip.MustParseAddrPort("[2001:db8::78]:80")}
	w.one.eventually("the service", func() error {
		if text, _ := w.one.cli("services"); !strings.Contains(text, "192.0.2.78") {
			return errors.New(text)
		}
		return nil
	})
	for _, at := range balanced {
		if _, err := askWithin(w.world, "tcp", at, time.Second/2); err == nil {
			t.Errorf("%v answers, and the NodeConfig does not say so", at)
		}
	}
	w.one.write("one.yaml", strings.Replace(w.one.text("one.yaml"), "mode: shared",
		"mode: shared, announce: [load-balancer]", 1))
	for f, at := range balanced {
		for _, network := range []string{"tcp", "udp"} {
			w.one.eventually(fmt.Sprintf("%v by %s", at, network), func() error {
				saw, err := askWithin(w.world, network, at, time.Second)
				if err == nil && saw != worldAt[f] {
					err = fmt.Errorf("the backend saw %v", saw)
				}
				return err
			})
		}
	}
	w.one.stopBoth()
	w.two.stopBoth()
}

// macOf is the MAC of a device of the node's.
func (p *podSite) macOf(device string) string {
	p.t.Helper()
	link, err := p.node.Links().LinkByName(device)
	p.must(err)
	return link.Attrs().HardwareAddr.String()
}

// neighbor enters a neighbour of the world's.
func (w *wire) neighbor(a netip.Addr, mac string, state int) error {
	link, err := w.world.Links().LinkByName("up")
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	return w.world.Links().NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: state, IP: a.AsSlice(),
		HardwareAddr: hw, Family: familyOf(a)})
}

// knows says whether the world knows the MAC of a neighbour.
func (w *wire) knows(a netip.Addr, mac string) error {
	link, err := w.world.Links().LinkByName("up")
	if err != nil {
		return err
	}
	list, err := w.world.Links().NeighList(link.Attrs().Index, familyOf(a))
	if err != nil {
		return err
	}
	for _, n := range list {
		if is, _ := netip.AddrFromSlice(n.IP); is.Unmap() == a && n.HardwareAddr.String() == mac {
			return nil
		}
	}
	return fmt.Errorf("%v is not known to be at %s: %v", a, mac, list)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
