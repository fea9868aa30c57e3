// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

const directService = `apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default, annotations: {viaduct.dev/forwarding: direct}}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: bulk, port: 81, targetPort: 8081, nodePort: 30081}
`

const directSlice = `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-%d, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv%d
ports:
- {name: tcp, protocol: TCP, port: 8080}
- {name: udp, protocol: UDP, port: 8080}
- {name: bulk, protocol: TCP, port: 8081}
endpoints: [{addresses: [%q], conditions: {ready: true}, nodeName: two}]
`

// TestServiceDirectReturn: the backend's node answers the world itself, whose address the backend sees.
func TestServiceDirectReturn(t *testing.T) {
	w := newWire(t)
	w.start("kernel")
	b := w.two.pod("b").add()
	w.two.backendIn(b.Namespace, "b")
	w.echoIn(b.Namespace, 8081)
	text := directService
	for f := range worldAt {
		text += fmt.Sprintf(directSlice, f, f, b.address[f])
	}
	w.write("service.yaml", text)
	for f, at := range worldAt {
		node := families[f].uplink
		for _, network := range []string{"tcp", "udp"} {
			w.sees("the world", w.world, network, netip.AddrPortFrom(node, 30080), at.String())
		}
		w.bulk(w.world, netip.AddrPortFrom(node, 30081))
	}
	w.forge(b.address[4])
	w.one.stopBoth()
	w.two.stopBoth()
}

// echoIn echoes in a namespace what comes by TCP, until the test ends.
func (w *wire) echoIn(ns *netlab.Namespace, port int) {
	w.one.t.Helper()
	var l net.Listener
	w.one.must(ns.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprint(":", port)); return err }))
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	w.one.t.Cleanup(func() { _ = l.Close(); served.Wait() })
}

// bulk has some megabytes go there and come back, in segments that fill the link and leave an outer header no room.
func (w *wire) bulk(from *netlab.Namespace, to netip.AddrPort) {
	w.one.t.Helper()
	c, err := dial(from, "tcp", to)
	w.one.must(err)
	defer c.Close()
	w.one.must(c.SetDeadline(time.Now().Add(within)))
	sent := make([]byte, 4<<20)
	for at := 0; at < len(sent); at += 8 {
		binary.BigEndian.PutUint64(sent[at:], rand.Uint64())
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		_, _ = c.Write(sent)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	writer.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		w.one.t.Fatalf("%v: %d bytes of %d came back: %v\n%s", to, len(got), len(sent), err, w.one.tails())
	}
}

// forge has others than nodes send what nodes send: it is not taken out of its outer header.
func (w *wire) forge(backend netip.Addr) {
	w.one.t.Helper()
	must := w.one.must
	must(w.world.Route(netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("192.0.2.2"), "up", 0))
	pod := w.two.pod("a").add()
	for i, row := range []struct {
		what    string
		from    *netlab.Namespace
		source  string
		answers bool
	}{
		{"the world", w.world, worldAt[4].String(), false},
		{"a pod", pod.Namespace, pod.address[4].String(), false},
		{"a pod as a node", pod.Namespace, "10.244.1.254", false},
		{"a node", w.one.node, "10.244.1.254", true}, // or the others would show nothing
	} {
		var c net.PacketConn
		must(w.world.Do(func() (err error) { c, err = net.ListenPacket("udp", fmt.Sprintf("%v:0", worldAt[4])); return err }))
		client := netip.AddrPortFrom(worldAt[4], uint16(c.LocalAddr().(*net.UDPAddr).Port))
		d := udpOf(client, netip.AddrPortFrom(families[4].uplink, 30080), []byte("?"))
		inner := fragmentOf(client.Addr(), families[4].uplink, uint16(i), d, 0, len(d))
		binary.BigEndian.PutUint16(inner[10:], internetSum(inner[:20]))
		outer := fragmentOf(netip.MustParseAddr(row.source), backend, uint16(i), inner, 0, len(inner))
		outer[9] = unix.IPPROTO_IPIP
		patience := time.Second / 4
		if row.answers {
			patience = patient
		}
		w.one.sendIP(row.from, outer)
		must(c.SetReadDeadline(time.Now().Add(patience)))
		n, by, err := c.ReadFrom(make([]byte, 256))
		if (err == nil) != row.answers {
			w.one.t.Errorf("sent by %s: %d bytes of an answer by %v, %v", row.what, n, by, err)
		}
		_ = c.Close()
	}
}
