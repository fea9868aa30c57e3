// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/captures"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

// Every packet of every capture gets a reason, and what is accepted reads as gopacket reads it.
func TestCaptures(t *testing.T) {
	files, err := captures.Files()
	if err != nil {
		t.Fatal(err)
	}
	packets, accepted := 0, 0
	for _, f := range files {
		r, err := pcap.NewReader(bytes.NewReader(f.Data))
		if err != nil {
			t.Logf("%s: %v", f.Name, err)
			continue
		}
		for c, err := range r.All() {
			if err != nil {
				t.Logf("%s: %v", f.Name, err)
				break
			}
			packets++
			if compare(t, f.Name, c.Data) {
				accepted++
			}
		}
	}
	t.Logf("%d packets of %d captures, %d accepted", packets, len(files), accepted)
	if accepted < 60 {
		t.Errorf("only %d of %d packets accepted", accepted, packets)
	}
}

// Packets of the test tables with bytes changed at random: whatever is still accepted reads alike.
func TestMutationsAgainstGopacket(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	accepted := 0
	for range 20_000 {
		b := bytes.Clone(parseRows[r.IntN(len(parseRows))].frame)
		if len(b) < 34 {
			continue
		}
		for range r.IntN(3) {
			b[12+r.IntN(len(b)-12)] = byte(r.Uint32())
		}
		if b[12] == 8 && b[13] == 0 && r.IntN(8) > 0 {
			seal4(b[14:])
		}
		if compare(t, "mutation", b) {
			accepted++
		}
	}
	if accepted < 2000 {
		t.Errorf("only %d accepted", accepted)
	}
}

// compare parses b and, when it is accepted as IP, holds the fields against gopacket's. It tells whether it was.
func compare(t *testing.T, name string, b []byte) bool {
	t.Helper()
	p := framed(b)
	reason := p.Parse()
	checkConsistent(t, p)
	if reason != verdict.None || p.L3Len == 0 {
		return false
	}
	g := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	var src, dst netip.Addr
	var ttl, tos uint8
	switch ip := g.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst, ttl, tos = addrOf(ip.SrcIP.To4()), addrOf(ip.DstIP.To4()), ip.TTL, ip.TOS
		if p.L3Len != int(ip.Length) || p.Flags&IPv6 != 0 || p.Proto != IPProto(ip.Protocol) ||
			p.Flags&DontFragment != 0 != (ip.Flags&layers.IPv4DontFragment != 0) {
			t.Errorf("%s: ipv4 %+v, gopacket %+v", name, fields(p), ip)
		}
	case *layers.IPv6:
		src, dst, ttl, tos = addrOf(ip.SrcIP), addrOf(ip.DstIP), ip.HopLimit, ip.TrafficClass
		if p.L3Len != int(ip.Length)+40 || p.Flags&IPv6 == 0 {
			t.Errorf("%s: ipv6 %+v, gopacket %+v", name, fields(p), ip)
		}
	default:
		t.Errorf("%s: accepted, but gopacket sees no IP: % x", name, b)
		return true
	}
	if p.Src.Netip() != src || p.Dst.Netip() != dst || p.TTL != ttl || p.TOS != tos {
		t.Errorf("%s: %+v, gopacket %v %v %v %v", name, fields(p), src, dst, ttl, tos)
	}
	atomic := p.Flags&IPv6 != 0 && p.L4 != p.L3+ipv6Len // gopacket does not look behind any fragment header
	if p.L4 != 0 && !atomic && p.Flags&(Fragment|Options) == 0 && g.ErrorLayer() == nil {
		compareTransport(t, name, p, g)
	}
	return true
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func compareTransport(t *testing.T, name string, p *Packet, g gopacket.Packet) {
	t.Helper()
	var proto IPProto
	var src, dst uint16
	switch l := g.TransportLayer().(type) {
	case *layers.TCP:
		proto, src, dst = ProtoTCP, uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.UDP:
		proto, src, dst = ProtoUDP, uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.SCTP:
		proto, src, dst = ProtoSCTP, uint16(l.SrcPort), uint16(l.DstPort)
	}
	if proto == p.Proto && (p.SrcPort != src || p.DstPort != dst) {
		t.Errorf("%s: ports %d %d, gopacket %d %d", name, p.SrcPort, p.DstPort, src, dst)
	}
	known := p.Proto == ProtoTCP || p.Proto == ProtoUDP || p.Proto == ProtoSCTP
	if known && proto != p.Proto {
		t.Errorf("%s: protocol %d, gopacket %d", name, p.Proto, proto)
	}
}
