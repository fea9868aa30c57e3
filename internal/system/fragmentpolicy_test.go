// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// TestFragmentsByPolicy: what becomes of a datagram's first fragment becomes of them all, in whatever order they come.
func TestFragmentsByPolicy(t *testing.T) {
	const port, size, packets = 5000, 8000, 6 // bytes of data, and how many packets of 1500 bytes they are
	s := newStage(t)
	s.write("policy.yaml", networkPolicy("shop", "large", "{podSelector: {matchLabels: {app: db}}, ingress: "+
		"[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: UDP, port: 5000}]}]}"))
	s.hasPolicies(1)
	s.is("the policy to be in force", func(w way) bool { return w.to != "db" || w.from == "node" })
	for _, name := range []string{"web", "spy"} {
		s.narrow(name, "db", 1500)
	}
	data := bytes.Repeat([]byte("abcdefg\n"), size/8)
	for f := range families {
		web, db, at := s.address("web", f), s.address("db", f), netip.AddrPortFrom(s.address("db", f), port)
		heard := s.hears("db", at)
		s.must(s.says("web", at, data))
		heard.next("a large datagram", data)
		s.drops("spy", "ingress_denied", packets, func() { s.must(s.says("spy", at, data)) })

		datagram := udpOf(netip.AddrPortFrom(web, port), at, data)
		pieces := cutUp(web, db, 0x1234, datagram)
		for i := range pieces {
			s.sendIP(s.of("web"), pieces[len(pieces)-1-i])
		}
		heard.next("a datagram from its end to its beginning", data)

		spy := s.address("spy", f)
		denied := cutUp(spy, db, 0x1234, udpOf(netip.AddrPortFrom(spy, port), at, data))
		s.drops("spy", "ingress_denied", uint64(len(denied)), func() {
			for i := range denied {
				s.sendIP(s.of("spy"), denied[len(denied)-1-i])
			}
		})
		later := cutUp(web, db, 0x5678, datagram)[1:]
		s.drops("web", "fragment_timeout", uint64(len(later)), func() {
			for _, piece := range later {
				s.sendIP(s.of("web"), piece)
			}
		})
		s.drops("web", "fragment_overlap", 2, func() {
			for _, part := range [][2]int{{0, 1024}, {512, 1536}, {2048, 3072}} {
				s.sendIP(s.of("web"), fragmentOf(web, db, 0x9abc, datagram, part[0], part[1]))
			}
		})
		heard.nothing()
	}
	s.balanced()
}

// narrow has a pod cut up what is larger than so many bytes, on the way to another pod.
func (s *stage) narrow(pod, to string, mtu int) {
	s.t.Helper()
	links := s.of(pod).Links()
	eth0, err := links.LinkByName("eth0")
	s.must(err)
	for f, gateway := range map[int]string{4: "169.254.1.1", 6: "fe80::1"} {
		a := s.address(to, f)
		s.must(links.RouteAdd(&netlink.Route{
			LinkIndex: eth0.Attrs().Index, Dst: netlink.NewIPNet(a.AsSlice()), Gw: net.ParseIP(gateway), MTU: mtu,
			Flags: int(netlink.FLAG_ONLINK),
		}))
	}
}

// cutUp is a datagram in fragments.
func cutUp(source, destination netip.Addr, id uint16, datagram []byte) (pieces [][]byte) {
	const each = 1024
	for from := 0; from < len(datagram); from += each {
		pieces = append(pieces, fragmentOf(source, destination, id, datagram, from, min(from+each, len(datagram))))
	}
	return pieces
}

// says sends a datagram from somebody.
func (s *stage) says(who string, to netip.AddrPort, data []byte) error {
	var c net.Conn
	err := s.of(who).Do(func() (err error) { c, err = net.Dial("udp", to.String()); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(data)
	return err
}

// ear hears datagrams.
type ear struct {
	net.PacketConn
	s *stage
}

// hears is an ear at an address of somebody's, until the test ends.
func (s *stage) hears(who string, at netip.AddrPort) ear {
	s.t.Helper()
	return s.hearsIn(s.of(who), at)
}

func (s *stage) hearsIn(in *netlab.Namespace, at netip.AddrPort) ear {
	s.t.Helper()
	e := ear{s: s}
	s.must(in.Do(func() (err error) { e.PacketConn, err = net.ListenPacket("udp", at.String()); return err }))
	s.t.Cleanup(func() { _ = e.Close() })
	return e
}

// next wants the next datagram to be this one.
func (e ear) next(what string, want []byte) {
	e.s.t.Helper()
	if got, err := e.hear(patient); err != nil || !bytes.Equal(got, want) {
		e.s.t.Fatalf("%s: %d bytes came, %.40q, want %.40q, %v", what, len(got), got, want, err)
	}
}

// nothing wants no further datagram to have come.
func (e ear) nothing() {
	e.s.t.Helper()
	const moment = 50 * time.Millisecond
	if got, err := e.hear(moment); err == nil {
		e.s.t.Errorf("%.40q came", got)
	}
}

func (e ear) hear(patience time.Duration) ([]byte, error) {
	if err := e.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 65536)
	n, _, err := e.ReadFrom(buffer)
	return buffer[:n], err
}
