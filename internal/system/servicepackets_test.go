// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestServicePathMTU: a client behind a narrow link gets a megabyte from a service: the error of a router on the way,
// about what is from the service's address, reaches the backend.
func TestServicePathMTU(t *testing.T) {
	const narrow, size = 1280, 1 << 20
	s := newServiceStage(t)
	far := s.far(narrow)
	port, mtus := s.givesIn("web", size)
	s.service("", []string{"web"})
	s.write("service.yaml", strings.ReplaceAll(s.text("service.yaml"), fmt.Sprint(targetPort), fmt.Sprint(port)))
	for f := range families {
		for _, what := range []string{"cluster address", "node port", "load balancer"} {
			at := frontends(f)[what]
			var c net.Conn
			s.eventually("the service at "+at.String(), func() error {
				return far.Do(func() (err error) { c, err = net.DialTimeout("tcp", at.String(), time.Second); return err })
			})
			s.must(c.SetDeadline(time.Now().Add(within)))
			n, err := io.Copy(io.Discard, c)
			_ = c.Close()
			if mtu := <-mtus; n != size || err != nil || mtu != narrow {
				t.Errorf("%s, IPv%d: %d bytes came, %v; the pod knows an MTU of %d", what, f, n, err, mtu)
			}
		}
	}
	s.balanced()
}

// TestServiceFragments: large datagrams come through a service in pieces, both ways.
func TestServiceFragments(t *testing.T) {
	const port, size = 5353, 8000
	s := newServiceStage(t)
	data := bytes.Repeat([]byte("abcdefg\n"), size/8)
	listener := s.hears("web", netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	done := make(chan struct{})
	go func() {
		defer close(done)
		question := make([]byte, 1<<16)
		for {
			n, from, err := listener.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = listener.WriteTo(question[:n], from)
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	s.service("", []string{"web"})
	s.write("service.yaml", strings.ReplaceAll(s.text("service.yaml"), fmt.Sprint(targetPort), fmt.Sprint(port)))
	for f := range families {
		for _, what := range []string{"cluster address", "node port", "load balancer"} {
			at := frontends(f)[what]
			s.cutsFor("spy", at.Addr(), f)
			for _, from := range []string{"world", "spy", "node"} {
				s.eventually(fmt.Sprintf("a large answer to %s by %s, %v", from, what, at), func() error {
					return s.echoes(from, at, data)
				})
			}
		}
	}
	s.balanced()
}

// cutsFor has a pod cut up what it sends to an address.
func (s *stage) cutsFor(pod string, to netip.Addr, family int) {
	s.t.Helper()
	links := s.of(pod).Links()
	eth0, err := links.LinkByName("eth0")
	s.must(err)
	gateway := map[int]string{4: "169.254.1.1", 6: "fe80::1"}[family]
	s.must(links.RouteReplace(&netlink.Route{
		LinkIndex: eth0.Attrs().Index, Dst: netlink.NewIPNet(to.AsSlice()), Gw: net.ParseIP(gateway), MTU: 1500,
		Flags: int(netlink.FLAG_ONLINK),
	}))
}

// echoes asks for data by UDP.
func (s *stage) echoes(from string, at netip.AddrPort, data []byte) error {
	var c net.Conn
	if err := s.of(from).Do(func() (err error) { c, err = net.Dial("udp", at.String()); return err }); err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	answer := make([]byte, 1<<16)
	n, err := c.Read(answer)
	if err == nil && !bytes.Equal(answer[:n], data) {
		err = fmt.Errorf("%d bytes came, other than were sent", n)
	}
	return err
}

const sctpService = `apiVersion: v1
kind: Service
metadata: {name: assoc, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.30
  clusterIPs: ["10.96.0.30", "fd00:96::30"]
  ipFamilies: [IPv4, IPv6]
  ports: [{protocol: SCTP, port: 5000, targetPort: 5001, nodePort: 30500}]
`

// TestServiceSCTP: an association with a service, of crafted packets, whose checksums stay right.
func TestServiceSCTP(t *testing.T) {
	const front, node, back, mine, tag, theirs = 5000, 30500, 5001, 6000, 0x11223344, 0x55667788
	s := newServiceStage(t)
	text := sctpService
	for f := range families {
		text += fmt.Sprintf("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: assoc-%d, "+
			"namespace: shop, labels: {kubernetes.io/service-name: assoc}}\naddressType: IPv%d\n"+
			"ports: [{protocol: SCTP, port: %d}]\nendpoints: [{addresses: [%q], conditions: {ready: true}, nodeName: node}]\n",
			f, f, back, s.address("web", f))
	}
	s.write("service.yaml", text)
	s.eventually("the service", func() error {
		if out, status := s.cli("services", "shop/assoc"); status != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for f, of := range families {
		cluster := netip.MustParseAddr(map[int]string{4: "10.96.0.30", 6: "fd00:96::30"}[f])
		web := s.raw(s.of("web"), f, unix.IPPROTO_SCTP)
		for i, way := range []struct {
			from string
			at   netip.AddrPort
		}{{"spy", netip.AddrPortFrom(cluster, front)}, {"world", netip.AddrPortFrom(of.uplink, node)},
			{"spy", netip.AddrPortFrom(of.uplink, node)}} {
			port := uint16(mine + i)
			client, at := s.raw(s.of(way.from), f, unix.IPPROTO_SCTP), way.at.Port()
			toWeb, toClient := way.at.Addr(), s.address(way.from, f)
			s.eventually("an INIT", func() error { // it is sent again: the uplink's hook learns of frontends after the tables
				client.say(toWeb, summed(sctpPacket(port, at, 0, sctpInit, tag)))
				return web.heard(summed(sctpPacket(port, back, 0, sctpInit, tag)))
			})
			web.say(toClient, summed(sctpPacket(back, port, tag, sctpInitAck, theirs)))
			client.hears("an INIT ACK", summed(sctpPacket(at, port, tag, sctpInitAck, theirs)))
			client.say(toWeb, summed(sctpPacket(port, at, theirs, sctpCookieEcho, 0)))
			web.hears("a COOKIE ECHO", summed(sctpPacket(port, back, theirs, sctpCookieEcho, 0)))
			s.must(client.Close())
		}
	}
	s.balanced()
}

// summed is an SCTP packet with its checksum (RFC 9260 6.8).
func summed(p []byte) []byte {
	binary.LittleEndian.PutUint32(p[8:], 0)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}
