// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

const hostBackendService = `apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.11
  externalTrafficPolicy: Local
  ports:
  - {name: tcp, port: 80, targetPort: 7, nodePort: 30081}
  - {name: udp, protocol: UDP, port: 80, targetPort: 7, nodePort: 30081}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ingress-4, namespace: default, labels: {kubernetes.io/service-name: ingress}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 7}, {name: udp, protocol: UDP, port: 7}]
endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}, nodeName: one}]
`

// TestHostNetworkBackend: a backend on the host's network sees the client's own address, by whichever uplink it comes,
// and goes on being asked directly.
func TestHostNetworkBackend(t *testing.T) {
	for mode, node := range map[string]string{"kernel": "192.0.2.1", "shared": "192.0.2.11"} {
		t.Run(mode, func(t *testing.T) {
			w := newWire(t)
			w.start(mode)
			w.one.peerIn(w.one.node)
			a := w.one.pod("a").add()
			w.write("service.yaml", hostBackendService)
			for _, network := range []string{"tcp", "udp"} {
				at := netip.AddrPortFrom(netip.MustParseAddr(node), 30081)
				w.one.eventually(fmt.Sprintf("%v by %s", at, network), func() error {
					saw, err := askWithin(w.world, network, at, time.Second)
					if err == nil && saw != worldAt[4] {
						err = fmt.Errorf("the backend saw %v", saw)
					}
					return err
				})
				cluster := netip.MustParseAddrPort("10.96.0.11:80")
				if saw, err := ask(a.Namespace, network, cluster); err != nil || saw != a.address[4] {
					t.Errorf("a pod by %s was seen as %v: %v", network, saw, err)
				}
				if _, err := ask(w.one.node, network, cluster); err != nil {
					t.Errorf("the node itself by %s: %v", network, err)
				}
			}
			w.one.reaches(w.world, netip.MustParseAddr("192.0.2.1"), worldAt[4].String())
			w.one.stopBoth()
			w.two.stopBoth()
		})
	}
}
